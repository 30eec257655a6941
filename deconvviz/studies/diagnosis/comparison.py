"""Two diagnoses compared: which findings of a network are better, and which are worse, than those of another one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from deconvviz.choices import SEVERITIES
from deconvviz.metrics.intervals import NORMAL_95
from deconvviz.studies.diagnosis.finding import Finding, quantity
from deconvviz.studies.diagnosis.result import Diagnosis

# Factor by which a value has to be farther beyond its threshold at the same severity: less is noise. This package's.
FARTHER = 1.1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """In what a network is better or worse than another one.

    Attributes:
        check: name of the check; "accuracy" for the share of images that are classified correctly.
        worse: whether the network is worse than the other one; otherwise it is better.
        text: both findings with their numbers, that of the network first.
    """

    check: str
    worse: bool
    text: str

    def __str__(self) -> str:
        return f"{'worse' if self.worse else 'better'}: {self.check}: {self.text}"


def differences(diagnosis: Diagnosis, other: Diagnosis) -> tuple[Difference, ...]:
    """Return in what a network is worse than another one, and then in what it is better.

    Findings of the same check and kind are compared, whatever their layers are called: by their severity, and where it
    is the same by how far their values are beyond the threshold (a tenth counts). A check that was not made for both
    networks is left out. Accuracies are compared where they differ by more than chance, at the level of 95 %.

    >>> differences(Diagnosis(config={}), Diagnosis(config={}))
    ()
    """
    every = [*_accuracies(diagnosis, other), *_findings(diagnosis, other)]
    return tuple(sorted(every, key=lambda each: not each.worse))


def _findings(diagnosis: Diagnosis, other: Diagnosis) -> Iterator[Difference]:
    ours, theirs = _strongest(diagnosis), _strongest(other)
    for check, kind in dict.fromkeys([*ours, *theirs]):
        if check not in _made(diagnosis) & _made(other):
            continue
        mine, its = ours.get((check, kind)), theirs.get((check, kind))
        ratio = _strength(mine) - _strength(its)
        if abs(ratio) > math.log(FARTHER):
            yield Difference(check=check, worse=ratio > 0, text=f"{_words(mine)}, against {_words(its)}")


def _strongest(diagnosis: Diagnosis) -> dict[tuple[str, str], Finding]:
    """Return the first finding of each check and kind, which is the strongest."""
    strongest: dict[tuple[str, str], Finding] = {}
    for finding in diagnosis.findings:
        strongest.setdefault((finding.check, finding.kind), finding)
    return strongest


def _made(diagnosis: Diagnosis) -> set[str]:
    """Return the names of the checks that were made, at least in part."""
    return {each.name for each in diagnosis.checks if each.made}


def _strength(finding: Finding | None) -> float:
    """Return a number that sorts findings: by severity, then by how far they are beyond the threshold."""
    step = 1e6  # more than any logarithm of a quotient
    return 0.0 if finding is None else step * (1 + SEVERITIES.index(finding.severity)) + finding.beyond


def _words(finding: Finding | None) -> str:
    if finding is None:
        return "no finding"
    worst = f", {finding.layer} the worst" if len(finding.rows) > 1 else ""
    return f"{finding.severity} in {finding.place}: {quantity(finding.value, finding.unit)}{worst}"


def _accuracies(diagnosis: Diagnosis, other: Diagnosis) -> Iterator[Difference]:
    (mine, images), (its, its_images) = (
        (each.config.get("accuracy"), each.config.get("labelled", 0)) for each in (diagnosis, other)
    )
    if mine is None or its is None or not images or not its_images:
        return
    error = math.sqrt(mine * (1 - mine) / images + its * (1 - its) / its_images)
    if abs(mine - its) > NORMAL_95 * error:
        text = f"{100 * mine:.1f} % classified correctly, against {100 * its:.1f} %"
        yield Difference(check="accuracy", worse=mine < its, text=text)

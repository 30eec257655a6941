"""Two diagnoses compared: which findings of a network are better, and which are worse, than those of another one.

Findings of different networks are compared by their check; those of one network before and after a change, layer by
layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.metrics.intervals import difference_interval
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
        ratio = _strength_of(mine) - _strength_of(its)
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


def _strength_of(finding: Finding | None) -> float:
    return 0.0 if finding is None else _strength(finding.severity, finding.beyond)


def _strength(severity: Severity, beyond: float) -> float:
    """Return a number that sorts findings: by severity, then by how far they are beyond the threshold; 0 is none."""
    step = 1e6  # more than any logarithm of a quotient
    return step * (1 + SEVERITIES.index(severity)) + beyond


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
    hits = round(mine * images), round(its * its_images)
    low, high = difference_interval(hits, (images, its_images))
    if low > 0 or high < 0:
        text = f"{100 * mine:.1f} % classified correctly, against {100 * its:.1f} %"
        yield Difference(check="accuracy", worse=mine < its, text=text)


# --- one network before and after a change ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FoundRow:
    """What a finding says about one layer, without its pictures.

    Attributes:
        check: name of the check.
        kind: which of the check's findings it is.
        layer: name of the layer; empty where the finding is about the images.
        severity: of the finding in this layer.
        value: what was measured.
        threshold: the limit that it passed.
        unit: what both count.
        title: what was found, in a few words; empty for the heading of the check.
    """

    check: str
    kind: str
    layer: str
    severity: Severity
    value: float
    threshold: float
    unit: str
    title: str = ""

    @property
    def strength(self) -> float:
        """A number that sorts findings: by severity, then by how far the value is beyond the threshold."""
        pair = (self.value, self.threshold)
        beyond = abs(math.log(self.value / self.threshold)) if min(pair) > 0 and math.isfinite(max(pair)) else 0.0
        return _strength(self.severity, beyond)

    def __str__(self) -> str:
        return f"{self.severity}, {quantity(self.value, self.unit)}"


@dataclass(frozen=True, kw_only=True)
class FoundRows:
    """What a diagnosis found, layer by layer, without pictures: small enough to be kept beside another result.

    Attributes:
        rows: the findings.
        made: names of the checks that were made, at least in part.
    """

    rows: tuple[FoundRow, ...]
    made: tuple[str, ...]

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> FoundRows:
        """Return what a diagnosis found."""
        rows = tuple(
            FoundRow(
                check=finding.check,
                kind=finding.kind,
                layer=row.layer,
                severity=row.severity,
                value=float(row.value),
                threshold=float(finding.threshold),
                unit=finding.unit,
                title=finding.title,
            )
            for finding in diagnosis.findings
            for row in finding.rows
        )
        return cls(rows=rows, made=tuple(sorted(_made(diagnosis))))

    def as_json(self) -> dict[str, Any]:
        """Return them as JSON values, which `from_json` reads."""
        return {"rows": [asdict(row) for row in self.rows], "made": list(self.made)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FoundRows:
        """Return what `as_json` made values of."""
        return cls(rows=tuple(FoundRow(**row) for row in values["rows"]), made=tuple(values["made"]))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A finding about one layer that a change of the network made, mended, or made stronger or weaker.

    Attributes:
        change: "gone", "new", "worse" or "better".
        check: name of the check.
        kind: which of the check's findings it is.
        layer: name of the layer; empty where the finding is about the images.
        severity: of the finding after the change, or before it where it is gone.
        before: what was measured before, with its severity; empty where nothing was found.
        after: what was measured after; empty where nothing was found.
    """

    change: Literal["gone", "new", "worse", "better"]
    check: str
    kind: str
    layer: str
    severity: Severity
    before: str
    after: str

    def __str__(self) -> str:
        place = f"layer {self.layer}" if self.layer else "the images"
        kind = f" ({self.kind})" if self.kind else ""
        return f"{self.change}: {self.check}{kind}, {place}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


ORDER = ("new", "worse", "gone", "better")


def changes(before: FoundRows, after: FoundRows) -> tuple[Change, ...]:
    """Return which findings went away, came, or are stronger or weaker, of two networks of one architecture.

    A finding is the same where check, kind and layer are. It is stronger where its severity is higher, or where that is
    the same and its value is farther beyond its threshold by a tenth. A check that was not made for both networks is
    left out.

    >>> dead = {"check": "dead", "kind": "", "layer": "conv1", "threshold": 0.1, "unit": "share of the filters"}
    >>> one = FoundRows(rows=(FoundRow(**dead, severity="note", value=0.1),), made=("dead",))
    >>> two = FoundRows(rows=(FoundRow(**dead, severity="warning", value=0.3),), made=("dead",))
    >>> [str(change) for change in changes(one, two)]
    ['worse: dead, layer conv1: note, 10 % of the filters -> warning, 30 % of the filters']
    """
    ours, theirs = ({(row.check, row.kind, row.layer): row for row in rows_of.rows} for rows_of in (before, after))
    both, all_changes = {*before.made} & {*after.made}, list[Change]()
    for key in dict.fromkeys([*ours, *theirs]):
        old, new = ours.get(key), theirs.get(key)
        gap = (new.strength if new else 0.0) - (old.strength if old else 0.0)
        either = new or old
        if key[0] not in both or either is None or abs(gap) <= math.log(FARTHER):
            continue
        all_changes.append(
            Change(
                change="new" if old is None else "gone" if new is None else "worse" if gap > 0 else "better",
                check=either.check,
                kind=either.kind,
                layer=either.layer,
                severity=either.severity,
                before=str(old or ""),
                after=str(new or ""),
            )
        )
    return tuple(sorted(all_changes, key=lambda each: (ORDER.index(each.change), -SEVERITIES.index(each.severity))))

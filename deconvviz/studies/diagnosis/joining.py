"""The order of findings, and one finding of those that say the same about several layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from deconvviz.choices import SEVERITIES
from deconvviz.studies.diagnosis.finding import Finding

FIGURES = 3  # layers of a joined finding, the worst ones, whose evidence is kept
FIRST = ("enlarged", "chance")  # checks of the images: what is wrong there puts every other finding in doubt


def ordered(findings: Sequence[Finding], checks: Sequence[str]) -> list[Finding]:
    """Return findings sorted: those about the images, then by severity, then by how far each is beyond its threshold.

    Args:
        findings: the findings.
        checks: names of the checks in their order, which decides between equals.
    """

    def place(finding: Finding) -> tuple[bool, int, float, int]:
        severity = SEVERITIES.index(finding.severity)
        return finding.check not in FIRST, -severity, -finding.beyond, checks.index(finding.check)

    return sorted(findings, key=place)


def joined(findings: Sequence[Finding]) -> list[Finding]:
    """Make one finding of those of the same check and kind that are about different layers.

    Two findings of a check about the same layer are about different things, such as two classes, and stay apart.

    Args:
        findings: of one diagnosis, sorted by `ordered`.

    Returns:
        The findings in the same order; a joined one has the place, the severity and the numbers of its worst layer.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.check, finding.kind), []).append(finding)
    result: list[Finding] = []
    for finding in findings:
        group = groups[finding.check, finding.kind]
        if len({each.layer for each in group}) < len(group):
            result.append(dataclasses.replace(finding, layers=finding.rows))
        elif finding is group[0]:
            result.append(_one(group))
    return result


def _one(group: Sequence[Finding]) -> Finding:
    """Return one finding of several, the worst first."""
    worst = group[0]
    rows = tuple(row for finding in group for row in finding.rows)
    if len(group) == 1:
        return dataclasses.replace(worst, layers=rows)
    what = f"This was found in {len(group)} layers. The worst is {worst.layer}: {worst.what}"
    more = tuple(finding.evidence for finding in group[1:FIGURES])
    return dataclasses.replace(worst, what=what, remedy=_remedies(group), layers=rows, more_evidence=more)


def _remedies(group: Sequence[Finding]) -> str:
    """Return what to try: sentences for all layers first, then those of some layers alone with the layers' names."""
    sentences = {finding.layer: _sentences(finding.remedy) for finding in group}
    common = [each for each in sentences[group[0].layer] if all(each in own for own in sentences.values())]
    layers: dict[str, list[str]] = {}
    for layer, own in sentences.items():
        layers.setdefault(" ".join(each for each in own if each not in common), []).append(layer)
    special = [f"For {', '.join(names)}: {advice}" for advice, names in layers.items() if advice]
    return " ".join([*common, *special])


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text.

    >>> _sentences("Blur it (Zhang 2019). Or use a radius of 0.1.")
    ['Blur it (Zhang 2019).', 'Or use a radius of 0.1.']
    """
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)

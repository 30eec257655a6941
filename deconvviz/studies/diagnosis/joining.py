"""The order of findings, and one finding of those that say the same about several layers."""

from __future__ import annotations

import dataclasses
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
    """Return what to try: once where it is the same for all layers, else with the layers that it is for."""
    layers: dict[str, list[str]] = {}
    for finding in group:
        layers.setdefault(finding.remedy, []).append(finding.layer)
    if len(layers) == 1:
        return group[0].remedy
    return " ".join(f"For {', '.join(names)}: {remedy}" for remedy, names in layers.items())

"""The diagnosis as one page: every finding with its figure, what could not be checked, and two networks compared."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.figures.tiles import rendered
from deconvviz.results.files import Pathlike, atomic
from deconvviz.studies.diagnosis.figure import draw_evidence, draw_first_filters
from deconvviz.web.page import embedded, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.diagnosis.finding import Finding
    from deconvviz.studies.diagnosis.result import Diagnosis, Made

SEVERITIES = ("serious", "warning", "note")  # as the page lists them
WORDS = {"serious": "Serious", "warning": "Warnings", "note": "Notes"}
PAGE, FIGURES = "index.html", "evidence"
DRAWN = re.compile(r"(\d\d\d-.*|first-layers)\.png")  # what an earlier report left among the figures
Filters = NDArray[np.floating[Any]]


def write_report(
    folder: Pathlike,
    found: Diagnosis,
    *,
    names: Sequence[str],
    images: str,
    command: str,
    version: str,
    other: Diagnosis | None = None,
    first: Sequence[Filters | None] = (),
) -> None:
    """Write index.html and the figures of a diagnosis into a folder that is there.

    Args:
        names: of the network, and of the other one where two are compared; images: what they were judged by.
        command: that made the report. other: the second network's diagnosis.
        first: the first-layer filters of both, [n, h, w, 3], None where there are none to show.

    Raises:
        DataError: a file cannot be written.
    """
    place = pathlib.Path(folder)
    (place / FIGURES).mkdir(exist_ok=True)
    for old in (place / FIGURES).iterdir():
        if DRAWN.fullmatch(old.name):
            old.unlink()
    titles = {made.name: made.title for made in found.checks}
    findings = [_shown(place, n, finding, titles, command) for n, finding in enumerate(found.findings, 1)]
    groups = [
        {"severity": severity, "word": WORDS[severity], "findings": [f for f in findings if f["severity"] == severity]}
        for severity in SEVERITIES
    ]
    values = {
        "name": names[0],
        "images": images,
        "command": command,
        "version": version,
        "config": found.config,
        "groups": [group for group in groups if group["findings"]],
        "checks": found.checks,
        "skipped": [(titles[name], reason) for name, reason in found.skipped.items()],
        "classes": found.classes,
        "quiet": [made for made in found.checks if not made.findings and not made.skipped],
        "comparison": None if other is None else _comparison(place, found, other, names, first, command),
    }
    write_page(place / PAGE, "diagnosis.html", values)


def _shown(folder: pathlib.Path, number: int, finding: Finding, titles: dict[str, str], command: str) -> dict[str, Any]:
    """Return what the page tells of a finding, its figure drawn."""
    title = f"{finding.layer}: {titles[finding.check]}"
    caption = f"{finding.value:.3g} {finding.unit}; threshold {finding.threshold:.3g} ({finding.source})"
    figure = draw_evidence(finding, title, caption)
    name = f"{number:03d}-{finding.check}-{re.sub(r'[^A-Za-z0-9.]+', '_', finding.layer)[:60]}.png"
    return {
        "id": f"finding-{number}",
        "severity": finding.severity,
        "title": titles[finding.check],
        "layer": finding.layer,
        "check": finding.check,
        "channels": finding.channels,
        "what": finding.what,
        "value": finding.value,
        "threshold": finding.threshold,
        "unit": finding.unit,
        "source": finding.source,
        "remedy": finding.remedy,
        "picture": _drawn(folder / FIGURES / name, figure, f"{caption}\n{command}"),
        "file": f"{FIGURES}/{name}",
        "alt": f"{title}. {_described(finding)}",
    }


def _described(finding: Finding) -> str:
    """Say in words what the figure shows, for those who do not see it."""
    evidence = finding.evidence
    if evidence.kind == "tiles":
        labels = ", ".join(dict.fromkeys(label for label in evidence.labels if label))
        return f"{len(evidence.arrays['pictures'])} pictures: {labels[:300]}"
    axes = " against ".join(text for text in (evidence.y, evidence.x) if text)
    mark = f", the threshold at {evidence.mark:.3g}" if evidence.mark is not None else ""
    return f"A figure of {axes or 'the measured values'} ({evidence.kind}){mark}."


def _drawn(path: pathlib.Path, figure: Figure, description: str) -> str:
    content = rendered(figure, "png", description)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return embedded(path)


def _comparison(
    folder: pathlib.Path,
    found: Diagnosis,
    other: Diagnosis,
    names: Sequence[str],
    first: Sequence[Filters | None],
    command: str,
) -> dict[str, Any]:
    """Return the page's section on two networks: a row for each check, and the first layers' filters."""
    second = {made.name: made for made in other.checks}
    rows = [
        {
            "title": made.title,
            "unit": made.unit or second[made.name].unit,
            "cells": [_cell(made, found), _cell(second[made.name], other)],
        }
        for made in found.checks
        if made.name in second
    ]
    shown = [filters for filters in first if filters is not None]
    picture = ""
    if len(shown) == 2:
        told = "Each filter is stretched to full contrast by itself; channels in their order."
        figure = draw_first_filters(shown, names, "First-layer filters (Zeiler and Fergus 2013, figure 6)", told)
        picture = _drawn(folder / FIGURES / "first-layers.png", figure, f"{told}\n{command}")
    accuracies = [each.config.get("accuracy") for each in (found, other)]
    return {"names": names, "rows": rows, "picture": picture, "accuracies": accuracies}


def _cell(made: Made, diagnosis: Diagnosis) -> dict[str, Any]:
    own = [finding for finding in diagnosis.findings if finding.check == made.name]
    counts = [(severity, sum(f.severity == severity for f in own)) for severity in SEVERITIES]
    return {"value": made.value, "skipped": made.skipped, "counts": [(s, n) for s, n in counts if n]}

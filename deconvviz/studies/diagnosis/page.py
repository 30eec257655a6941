"""The diagnosis as one page: each finding with its figure, what was not checked, and two networks compared."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.figures.tiles import rendered
from deconvviz.results.files import atomic
from deconvviz.run.options import RunOptions
from deconvviz.studies.diagnosis.comparison import differences
from deconvviz.studies.diagnosis.figure import draw_evidence, draw_first_filters
from deconvviz.studies.diagnosis.finding import quantity
from deconvviz.studies.diagnosis.joining import FIRST
from deconvviz.studies.diagnosis.leanings import leaning_evidence
from deconvviz.types import Floats, Pathlike
from deconvviz.version import __version__
from deconvviz.web.page import embedded, write_page
from deconvviz.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.diagnosis.finding import Evidence, Finding, Neighbour
    from deconvviz.studies.diagnosis.result import CheckSummary, Diagnosis

ROWS = 8  # layers of a finding that are not folded away
ENOUGH = 5  # images of a class: with fewer, a mistake may be one odd picture
PAGE, FIGURES = "index.html", "evidence"
FIGURE_NAMES = re.compile(r"(\d\d\d-.*|first-layers|class-channels)\.png")  # how the figures of a report are called


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """How the page shows a severity.

    Attributes:
        singular: what one finding of the severity is called.
        plural: what several are called.
        light: its colour on a light page.
        dark: its colour on a dark page.
    """

    singular: str
    plural: str
    light: str
    dark: str


APPEARANCES: Mapping[Severity, Appearance] = {
    "serious": Appearance(singular="serious finding", plural="serious findings", light="#b3261e", dark="#ff8a80"),
    "warning": Appearance(singular="warning", plural="warnings", light="#b35a00", dark="#ffb45c"),
    "note": Appearance(singular="note", plural="notes", light="#2667a8", dark="#8ab8ee"),
}


def write_report(
    folder: Pathlike,
    diagnosis: Diagnosis,
    *,
    names: Sequence[str],
    images: str,
    command: str,
    other: Diagnosis | None = None,
    first_layers: Sequence[Floats | None] = (),
    progress: bool = False,
) -> None:
    """Write index.html and the figures of a diagnosis into a folder that exists.

    Args:
        folder: the folder.
        diagnosis: what is shown.
        names: name of the network, and of the other one where two are compared.
        images: where the images came from.
        command: the command that makes the report.
        other: diagnosis of the other network; None where there is none.
        first_layers: the first-layer filters of both networks, [n, h, w, 3]; None where there are none to show.
        progress: whether a progress bar is shown on standard error.

    Raises:
        DataError: a file cannot be written.
    """
    place = pathlib.Path(folder)
    (place / FIGURES).mkdir(exist_ok=True)
    for path in (place / FIGURES).iterdir():
        if FIGURE_NAMES.fullmatch(path.name):  # of an earlier report
            path.unlink()
    titles = {summary.name: summary.title for summary in diagnosis.checks}
    entries = []
    with RunOptions(progress=progress).bar("finding", len(diagnosis.findings), "figures") as bar:
        for n, finding in enumerate(diagnosis.findings, 1):
            entries.append(_entry(place, n, finding, titles, command))
            bar.update()
    groups = [
        {
            "severity": severity,
            "appearance": APPEARANCES[severity],
            "findings": [entry for entry in entries if entry["severity"] == severity],
        }
        for severity in SEVERITIES[::-1]
    ]
    values = {
        "name": names[0],
        "images": images,
        "command": command,
        "version": __version__,
        "config": diagnosis.config,
        "appearances": APPEARANCES,
        "first": [entry for entry in entries if entry["first"]],
        "groups": [group for group in groups if group["findings"]],
        "checks": diagnosis.checks,
        "mistakes": sorted((each for each in diagnosis.classes if each.taken), key=_most_mistaken_first),
        "few": max((each.images for each in diagnosis.classes), default=0) < ENOUGH,
        "skipped": [(titles[name], reason) for name, reason in diagnosis.skipped.items()],
        "classes": diagnosis.classes,
        "leanings": sorted(diagnosis.leanings, key=lambda each: -each.taken / max(each.images, 1)),
        "leaning_picture": _leanings(place, diagnosis, command),
        "silent": _silent(diagnosis),
        "comparison": None if other is None else _comparison(place, (diagnosis, other), names, first_layers, command),
    }
    write_page(place / PAGE, "diagnosis.html", values)


def _most_mistaken_first(neighbour: Neighbour) -> tuple[float, float]:
    """Return what sorts classes: first those of which the largest share is taken for another one."""
    return -neighbour.share, -neighbour.probability


def _silent(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return the checks that were made and found nothing: their titles, and what they measured, "" for nothing."""
    made = [summary for summary in diagnosis.checks if not summary.findings and not summary.skipped]
    return [(each.title, "" if each.value is None else quantity(each.value, each.unit)) for each in made]


def _entry(folder: pathlib.Path, number: int, finding: Finding, titles: dict[str, str], command: str) -> dict[str, Any]:
    """Draw a finding's figures, and return what the page says about the finding."""
    figures, heading = [], finding.title or titles[finding.check]
    evidences = (finding.evidence, *finding.more_evidence)
    for row, evidence in zip(finding.rows, evidences, strict=False):
        title = f"Layer {row.layer}: {heading}" if row.layer else heading
        caption = f"{_sentence(quantity(row.value, finding.unit))} Threshold: {_threshold(finding)}."
        figure = draw_evidence(evidence, title, caption)
        name = f"{number:03d}-{finding.check}-{re.sub(r'[^A-Za-z0-9.]+', '_', row.layer)[:60]}.png"
        picture = _drawn(folder / FIGURES / name, figure, f"{caption}\n{command}")
        figures.append({"picture": picture, "file": f"{FIGURES}/{name}", "alt": f"{title}. {_described(evidence)}"})
    place = finding.place
    return {
        "id": f"finding-{number}",
        "severity": finding.severity,
        "title": f"{place[0].upper()}{place[1:]}: {heading}",
        "first": finding.check in FIRST,
        "finding": finding,
        "value": quantity(finding.value, finding.unit),
        "threshold": _threshold(finding),
        "rows": [(row, quantity(row.value, finding.unit)) for row in finding.rows],
        "shown": ROWS,
        "figures": figures,
    }


def _threshold(finding: Finding) -> str:
    """Return the limit that a finding passed, and where it comes from."""
    return f"{quantity(finding.threshold, finding.unit)}; {finding.source}"


def _sentence(text: str) -> str:
    """Return a quantity as a sentence about what was measured."""
    return f"Measured: {text}."


def _described(evidence: Evidence) -> str:
    """Say in words what the figure shows, for those who do not see it."""
    if evidence.kind == "tiles":
        labels = ", ".join(dict.fromkeys(label for label in evidence.labels if label))
        return f"{len(evidence.arrays['pictures'])} pictures: {labels[:300]}. {evidence.x}".strip()
    axes = " against ".join(text for text in (evidence.y, evidence.x) if text)
    mark = f", with {evidence.mark_name or 'the limit'} at {evidence.mark:.3g}" if evidence.mark is not None else ""
    return f"A figure of {axes or 'the measured values'} ({evidence.kind}){mark}."


def _drawn(path: pathlib.Path, figure: Figure, description: str) -> str:
    """Write a figure as a PNG file, and return it as an address for the page itself."""
    content = rendered(figure, "png", description)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return embedded(path)


def _leanings(folder: pathlib.Path, diagnosis: Diagnosis, command: str) -> str:
    """Draw which channels each class leans on, and return the address of the figure; "" where that is not known."""
    if not any(each.channels for each in diagnosis.leanings):
        return ""
    evidence = leaning_evidence(diagnosis.leanings)
    title = f"Which channels of {diagnosis.leanings[0].layer} each class leans on"
    caption = f"{counted(len(evidence.labels), 'class')} of {len(diagnosis.leanings)}, those that are taken for others "
    caption += "first. White: the class does not lean on the channel (at most 0.2 of its strongest, scaled to 0..1)."
    figure = draw_evidence(evidence, title, caption)
    return _drawn(folder / FIGURES / "class-channels.png", figure, f"{caption}\n{command}")


def _comparison(
    folder: pathlib.Path,
    pair: tuple[Diagnosis, Diagnosis],
    names: Sequence[str],
    first_layers: Sequence[Floats | None],
    command: str,
) -> dict[str, Any]:
    """Return the page's section on two networks: a row for each check, and the first layers' filters."""
    by_name = [{summary.name: summary for summary in diagnosis.checks} for diagnosis in pair]
    rows = [
        {
            "title": by_name[0][name].title,
            "cells": [_cell(summaries[name], each) for summaries, each in zip(by_name, pair, strict=True)],
        }
        for name in by_name[0]
        if name in by_name[1]
    ]
    filters = [each for each in first_layers if each is not None]
    picture = ""
    if len(filters) == 2:
        caption = "Each filter is stretched to full contrast by itself; grey is zero. Filters are in their own order."
        figure = draw_first_filters(filters, names, "First-layer filters (Zeiler and Fergus 2013, figure 6)", caption)
        picture = _drawn(folder / FIGURES / "first-layers.png", figure, f"{caption}\n{command}")
    accuracies = [each.config.get("accuracy") for each in pair]
    changes = differences(*pair)
    return {"names": names, "rows": rows, "picture": picture, "accuracies": accuracies, "differences": changes}


def _cell(summary: CheckSummary, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what the comparison says about one check of one network."""
    severities = [finding.severity for finding in diagnosis.findings if finding.check == summary.name]
    counts = [(severity, severities.count(severity)) for severity in SEVERITIES[::-1] if severity in severities]
    value = "" if summary.value is None else quantity(summary.value, summary.unit)
    return {"value": value, "made": summary.made, "counts": counts}

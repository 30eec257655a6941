"""The evidence of a finding as a figure, and the first-layer filters of two networks side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deconvviz.figures.tiles import mosaic, place, stretched

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.finding import Evidence, Finding

WIDTH = 7.2  # inches
VALUES, LIMIT = "#21436b", "#d55e00"
DASHES = ("-", "--", ":", "-.")
NAMED = 40  # bars that are labelled by name
Floats = NDArray[np.float64]


def draw_evidence(finding: Finding, title: str, caption: str) -> Figure:
    """Draw what a finding shows, as the kind of its evidence says; the threshold, where there is one, as a line."""
    evidence = finding.evidence
    if evidence.kind == "tiles":
        return _tiles(evidence, title, caption)
    figure, axes = _framed(_height(evidence), title, caption)
    {"bars": _bars, "histogram": _histogram, "line": _line, "scatter": _scatter}[evidence.kind](axes, evidence)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_first_filters(
    filters: Sequence[NDArray[np.floating[Any]]], names: Sequence[str], title: str, caption: str
) -> Figure:
    """Draw the first-layer filters of two networks beside each other, each stretched by itself.

    filters: [n, h, w, 3] of each network; names: what stands above each.

    Source: Zeiler and Fergus 2013, figure 6 (b) and (c).
    """
    wide = 4.4
    blocks = [
        mosaic([stretched(f, 100) for f in each], max(1, math.ceil(math.sqrt(len(each)))), 1, 1.0) for each in filters
    ]
    tall = [wide * block.shape[0] / block.shape[1] for block in blocks]
    lines = _wrapped(caption, 2 * wide)
    height = max(tall) + 0.85 + 0.14 * (lines.count("\n") + 1)
    width = len(filters) * (wide + 0.3) + 0.3
    figure = Figure(figsize=(width, height), dpi=150)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.08 / height, lines, ha="center", va="bottom", fontsize=7, color="0.25")
    for n, (block, name, down) in enumerate(zip(blocks, names, tall, strict=True)):
        x = 0.3 + n * (wide + 0.3)
        figure.text((x + wide / 2) / width, 1 - 0.5 / height, _cut(name, 60), ha="center", va="center", fontsize=8)
        place(figure, block, (x, height - 0.65 - down, wide, down))
    return figure


def _framed(height: float, title: str, caption: str) -> tuple[Figure, Axes]:
    lines = _wrapped(caption, WIDTH)
    below = 0.14 * (lines.count("\n") + 1)
    height += below
    bottom = (below + 0.1) / height
    figure = Figure(figsize=(WIDTH, height), dpi=150, layout=ConstrainedLayoutEngine(rect=(0, bottom, 1, 1 - bottom)))
    axes = figure.subplots()
    axes.set_title("\n".join(textwrap.wrap(title, 90)), fontsize=9, weight="bold")
    figure.text(0.5, 0.06 / height, lines, ha="center", va="bottom", fontsize=6.5, color="0.25")
    return figure, axes


def _height(evidence: Evidence) -> float:
    if evidence.kind == "bars" and len(evidence.arrays["values"]) <= NAMED:
        return 1.1 + 0.19 * len(evidence.arrays["values"])
    return 3.0


def _bars(axes: Axes, evidence: Evidence) -> None:
    """Bars lie down, each with its name, as long as there is room for names; more of them stand, ranked by place."""
    values = np.asarray(evidence.arrays["values"], np.float64)
    if len(values) <= NAMED:
        names = [_cut(label, 44) for label in evidence.labels] or [str(n) for n in range(len(values))]
        places = np.arange(len(values))
        axes.barh(places, values, 0.7, color=VALUES)
        axes.set_yticks(places, names)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlabel(evidence.y, fontsize=8)
        axes.set_ylabel(evidence.x, fontsize=8)
        axes.axvline(0, color="0.5", linewidth=0.6)
        _mark(axes, evidence.mark, upright=True)
        return
    axes.bar(np.arange(len(values)), values, 1.0, color=VALUES)
    axes.set_xlabel(evidence.x, fontsize=8)
    axes.set_ylabel(evidence.y, fontsize=8)
    _mark(axes, evidence.mark, upright=False)


def _histogram(axes: Axes, evidence: Evidence) -> None:
    values = np.asarray(evidence.arrays["values"], np.float64)
    values = values[np.isfinite(values)]
    axes.hist(values, bins=min(40, max(10, len(values) // 8)), color=VALUES)
    axes.set_xlabel(evidence.x, fontsize=8)
    axes.set_ylabel(evidence.y or "count", fontsize=8)
    _mark(axes, evidence.mark, upright=True)


def _line(axes: Axes, evidence: Evidence) -> None:
    x, y = evidence.arrays["x"], np.atleast_2d(evidence.arrays["y"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(y)))
    few = "o" if len(x) <= 40 else ""
    labels = evidence.labels or ("",) * len(y)
    for n, (series, label) in enumerate(zip(y, labels, strict=False)):
        axes.plot(x, series, DASHES[n % 4], color=colours[n], label=label, marker=few, markersize=3, linewidth=1.4)
    axes.set_xlabel(evidence.x, fontsize=8)
    axes.set_ylabel(evidence.y, fontsize=8)
    axes.grid(color="0.92", linewidth=0.6)
    if (x == np.round(x)).all():
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark(axes, evidence.mark, upright=True)  # of a line it is a place along x
    if any(labels) or evidence.mark is not None:
        axes.legend(fontsize=7, frameon=False)


def _scatter(axes: Axes, evidence: Evidence) -> None:
    axes.plot(evidence.arrays["x"], evidence.arrays["y"], "o", color=VALUES, markersize=3, alpha=0.6, mec="none")
    axes.set_xlabel(evidence.x, fontsize=8)
    axes.set_ylabel(evidence.y, fontsize=8)
    _mark(axes, evidence.mark, upright=False)


def _mark(axes: Axes, mark: float | None, upright: bool) -> None:
    """The threshold: a dashed line, named in a legend."""
    if mark is None:
        return
    draw = axes.axvline if upright else axes.axhline
    draw(mark, color=LIMIT, linestyle="--", linewidth=1.2, label=f"threshold: {mark:.3g}")
    axes.legend(fontsize=7, frameon=False)


def _tiles(evidence: Evidence, title: str, caption: str) -> Figure:
    """Pictures in rows, each with its label below."""
    pictures = evidence.arrays["pictures"]
    across = _across(len(pictures))
    side = (WIDTH - 0.2) / across - 0.1
    down, aspect = math.ceil(len(pictures) / across), pictures.shape[1] / pictures.shape[2]
    letters = int(side / 0.062)
    labels = [textwrap.fill(_cut(label, 2 * letters), letters) for label in evidence.labels]
    below = 0.1 + 0.12 * max((label.count("\n") + 1 for label in labels if label), default=0)
    lines = _wrapped(caption, WIDTH)
    head = textwrap.wrap(title, 90)
    top, bottom = 0.2 + 0.16 * len(head), 0.1 + 0.14 * (lines.count("\n") + 1)
    height = top + down * (side * aspect + below) + bottom
    figure = Figure(figsize=(WIDTH, height), dpi=150)
    middle = 1 - (0.1 + 0.08 * len(head)) / height
    figure.text(0.5, middle, "\n".join(head), ha="center", va="center", fontsize=9, weight="bold")
    figure.text(0.5, 0.06 / height, lines, ha="center", va="bottom", fontsize=6.5, color="0.25")
    for n, picture in enumerate(pictures):
        row, column = divmod(n, across)
        x, y = 0.15 + column * (side + 0.1), height - top - row * (side * aspect + below) - side * aspect
        place(figure, picture / 255.0, (x, y, side, side * aspect))
        if n < len(labels):
            figure.text((x + side / 2) / WIDTH, (y - 0.05) / height, labels[n], ha="center", va="top", fontsize=6.5)
    return figure


def _across(count: int) -> int:
    """Columns: all in one row where they fit, else a number that fills every row, else six."""
    return count if 2 < count <= 6 else 3 if count < 3 else next((n for n in (6, 5, 4, 7, 8) if count % n == 0), 6)


def _wrapped(text: str, width: float) -> str:
    return "\n".join(textwrap.fill(line, int(width / 0.052)) for line in text.splitlines())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""The evidence of a finding as a figure, and the first-layer filters of two networks side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from deconvviz.arrays import evenly
from deconvviz.figures.sheet import HEADING, Sheet, shortened
from deconvviz.figures.tiles import filter_pictures, mosaic
from deconvviz.studies.diagnosis.finding import SHARE
from deconvviz.studies.diagnosis.tile_figure import DPI, WIDTH, draw_tiles
from deconvviz.types import Floats

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.finding import Evidence

VALUES, LIMIT = "#21436b", "#d55e00"  # dark blue, and orange for thresholds; they differ in lightness too
DASHES = ("-", "--", ":", "-.")
NAMED = 40  # bars: more are not labelled by name
BARS = 40  # of a histogram
COLUMNS = 60  # of a matrix: of more, every so many has its number
TITLE = 80  # letters of a title on one line
BLOCK, SPACE = 4.4, 0.3  # inches: the width of a network's first layer, and the space around it


def draw_evidence(evidence: Evidence, title: str, caption: str) -> Figure:
    """Draw what a finding shows: bars, a histogram, lines, points, pictures, or a table in colours.

    Args:
        evidence: what is drawn.
        title: the heading; a long one is wrapped.
        caption: what stands below. Where the evidence says what its pictures show, that is added in front.
    """
    title = "\n".join(textwrap.wrap(title, TITLE)[:2])
    if evidence.kind == "tiles":
        return draw_tiles(evidence, title, f"{evidence.x}\n{caption}" if evidence.x else caption)
    sheet = Sheet(WIDTH, _height(evidence), title, caption, DPI)
    body = (0.01, sheet.bottom / sheet.height, 0.98, (sheet.top - sheet.bottom) / sheet.height)
    sheet.figure.set_layout_engine(ConstrainedLayoutEngine(rect=body))
    axes = sheet.figure.subplots()
    kinds = {"bars": _bars, "histogram": _histogram, "line": _line, "scatter": _scatter, "matrix": _matrix}
    kinds[evidence.kind](axes, evidence)
    _in_percent(axes)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return sheet.figure


def draw_first_filters(filters: Sequence[Floats], names: Sequence[str], title: str, caption: str) -> Figure:
    """Draw the first-layer filters of networks side by side, each filter with its own contrast.

    Filters that have vanished have the contrast of the layer's largest, in which they are grey; above stand how many
    they are, and how much smaller than the largest.

    Args:
        filters: of each network, [n, h, w, 3].
        names: of the networks.
        title: the heading.
        caption: what stands below.

    Source: Zeiler and Fergus 2013, figure 6.
    """
    pictures = [filter_pictures(network) for network in filters]
    vanished = [[note for _, note in network if note] for network in pictures]
    names = [
        f"{shortened(name, 44)}; {len(notes)} vanished ({', '.join(notes[:3])}{', ...' if len(notes) > 3 else ''})"
        if notes
        else name
        for name, notes in zip(names, vanished, strict=True)
    ]
    blocks = [
        mosaic([picture for picture, _ in network], max(1, math.ceil(math.sqrt(len(network)))), 1, 1.0)
        for network in pictures
    ]
    heights = [BLOCK * block.shape[0] / block.shape[1] for block in blocks]
    sheet = Sheet(len(filters) * (BLOCK + SPACE) + SPACE, max(heights) + 0.25, title, caption, DPI)
    for n, (block, name, height) in enumerate(zip(blocks, names, heights, strict=True)):
        left = SPACE + n * (BLOCK + SPACE)
        sheet.text(left + BLOCK / 2, sheet.top - 0.05, shortened(name, 90), ha="center", va="center", fontsize=HEADING)
        sheet.picture(block, left, sheet.top - 0.2 - height, BLOCK, height)
    return sheet.figure


def _height(evidence: Evidence) -> float:
    """Return the height of the axes with their labels, in inches."""
    if evidence.kind == "bars" and len(evidence.arrays["values"]) <= NAMED:
        return max(0.8 + 0.19 * len(evidence.arrays["values"]), 1.7)  # room for the words beside a single bar
    if evidence.kind == "matrix":
        return 1.1 + 0.16 * max(len(evidence.labels), 6)
    return 2.7


def _bars(axes: Axes, evidence: Evidence) -> None:
    """Draw bars: lying, each with its name, as long as there is room for names; more of them upright by rank."""
    values = np.asarray(evidence.arrays["values"], np.float64)
    colours = [LIMIT if place in evidence.named else VALUES for place in range(len(values))]
    if len(values) > NAMED:
        axes.bar(np.arange(len(values)), values, 1.0, color=colours)
        axes.set_xlabel(evidence.x, fontsize=HEADING)
        axes.set_ylabel(evidence.y, fontsize=HEADING)
        _mark(axes, evidence, upright=False)
        return
    names = [shortened(label, 44) for label in evidence.labels] or [str(n) for n in range(len(values))]
    axes.barh(np.arange(len(values)), values, 0.7, color=colours)
    axes.set_yticks(np.arange(len(values)), names)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlabel(evidence.y, fontsize=HEADING)
    axes.set_ylabel("\n".join(textwrap.wrap(evidence.x, max(8 * len(values), 20))), fontsize=HEADING)
    axes.axvline(0, color="0.5", linewidth=0.6)
    _mark(axes, evidence, upright=True)


def _histogram(axes: Axes, evidence: Evidence) -> None:
    values = np.asarray(evidence.arrays["values"], np.float64)
    values = values[np.isfinite(values)]
    edges = _edges(values, evidence.mark)
    axes.hist(values, bins=edges.tolist(), color=VALUES)
    axes.set_xlabel(evidence.x, fontsize=HEADING)
    axes.set_ylabel(evidence.y or "count", fontsize=HEADING)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _mark(axes, evidence, upright=True)


def _edges(values: Floats, mark: float | None) -> Floats:
    """Return the edges of a histogram's bars, ascending.

    Values in 0..1, such as shares, have the same 40 bars in every figure, others have 40 between the smallest and the
    largest one. A limit is an edge too, so that no bar holds values on both of its sides.

    >>> _edges(np.array([0.5]), 0.99)[[0, 1, -2, -1]].tolist()
    [0.0, 0.025, 0.99, 1.0]
    """
    ends = (0.0, 1.0)
    if len(values) and (values.min() < 0 or values.max() > 1):
        ends = (float(values.min()), float(values.max()))
    edges = np.linspace(*ends, BARS + 1)
    if mark is None or not edges[0] < mark < edges[-1]:
        return edges
    return np.unique(np.append(edges, mark))


def _line(axes: Axes, evidence: Evidence) -> None:
    x, y = evidence.arrays["x"], np.atleast_2d(evidence.arrays["y"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(y)))
    marker = "o" if len(x) <= 40 else ""
    labels = evidence.labels or ("",) * len(y)
    for n, (series, label) in enumerate(zip(y, labels, strict=False)):
        axes.plot(x, series, DASHES[n % 4], color=colours[n], label=label, marker=marker, markersize=3, linewidth=1.4)
    axes.set_xlabel(evidence.x, fontsize=HEADING)
    axes.set_ylabel(evidence.y, fontsize=HEADING)
    axes.grid(color="0.92", linewidth=0.6)
    if (x == np.round(x)).all():
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark(axes, evidence, upright=True, word="limit")  # of lines it is a place along x
    if any(labels) or evidence.mark is not None:
        axes.legend(fontsize=7, frameon=False)


def _scatter(axes: Axes, evidence: Evidence) -> None:
    axes.plot(evidence.arrays["x"], evidence.arrays["y"], "o", color=VALUES, markersize=3, alpha=0.6, mec="none")
    axes.set_xlabel(evidence.x, fontsize=HEADING)
    axes.set_ylabel(evidence.y, fontsize=HEADING)
    _mark(axes, evidence, upright=False)


def _matrix(axes: Axes, evidence: Evidence) -> None:
    """Draw rows with their names against numbered columns, in colours with a bar; what has no value stays white."""
    values, columns = np.asarray(evidence.arrays["values"], np.float64), evidence.arrays["columns"]
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    image = axes.imshow(values, cmap="viridis_r", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    axes.set_yticks(np.arange(len(values)), [shortened(label, 30) for label in evidence.labels])
    axes.set_yticks(np.arange(len(values) + 1) - 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    places = np.arange(len(columns)) if len(columns) <= COLUMNS else evenly(len(columns), COLUMNS // 2)
    axes.set_xticks(places, [str(columns[place]) for place in places], rotation=90)
    axes.set_xlabel(evidence.x, fontsize=HEADING)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label(textwrap.fill(evidence.y, 40), fontsize=7)
    bar.ax.tick_params(labelsize=7)


def _mark(axes: Axes, evidence: Evidence, upright: bool, word: str = "threshold") -> None:
    """Draw the threshold as a dashed line, and name it in a legend."""
    if evidence.mark is None:
        return
    draw, axis = (axes.axvline, axes.get_xlabel()) if upright else (axes.axhline, axes.get_ylabel())
    value = f"{100 * evidence.mark:.3g} %" if axis.startswith(SHARE) else f"{evidence.mark:.3g}"
    label = f"{evidence.mark_name or word}: {value}"
    draw(evidence.mark, color=LIMIT, linestyle="--", linewidth=1.2, label=label)
    axes.legend(fontsize=7, frameon=False)


def _in_percent(axes: Axes) -> None:
    """Write the ticks of axes that show shares in percent."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_label_text().startswith(SHARE):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))

"""Figure 5 of the paper: images under transforms, how far layers move, the probability; and scores against depth."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, MultipleLocator

from deconvviz.data.transforms import transform_of
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened
from deconvviz.figures.tiles import mosaic
from deconvviz.types import Array, Floats, Pixels

if TYPE_CHECKING:
    from deconvviz.studies.invariance.result import Invariance, Score

MARKERS = "os^D"
ROW, STRIP, PANEL, BETWEEN, LEFT = 1.75, 1.75, 2.05, 0.62, 0.45  # inches
BELOW, HEADS = 0.55, 0.25  # inches: for the labels below a row, and for the heads of the columns
LEGEND_LINE, LEGEND_ENTRY = 0.16, 1.7  # inches: height of a line, and width of an entry
DEPTH_PANEL, DEPTH_LETTER = 3.0, 0.045  # inches: height of the panel, and of a letter of an upright layer name
COLOURED = 8  # images that have a colour and a name each; of more images the curves are grey
GREY, MEAN = (0.72, 0.72, 0.72, 1.0), "0.1"  # colours of single images among many, and of their mean
HEAD_LETTER, LABEL_LETTER = 0.068, 0.048  # inches of a letter of a column's head, and of an axis's label
HEAD_LINE = 0.135  # inches between the lines of a column's head
NAME_LETTERS = 32  # of an image's name
Strips = Mapping[str, tuple[Floats, Pixels]]


def draw_invariance(
    result: Invariance,
    strips: Strips,
    layers: Sequence[str],
    names: Sequence[str],
    title: str,
    caption: str,
    page: Page = OWN,
) -> Figure:
    """Draw a row for each kind: images under it, the distance in some layers, the probability.

    Args:
        result: what was measured.
        strips: kind -> (K steps, pictures uint8 [n, K, h, w, 3]) of the first n images.
        layers: whose distances are drawn.
        names: one for each image.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    kinds, colours = list(result.steps), _colours(len(result.images))
    gaps = LEFT + (len(layers) + 1) * BETWEEN + 0.2
    natural = STRIP + (len(layers) + 1) * PANEL
    scale = page.fitted(natural, gaps, 1, 0.45 * natural) / natural
    strip_side, panel, high = scale * STRIP, scale * PANEL, scale * ROW
    lefts = [LEFT + strip_side + BETWEEN + column * (panel + BETWEEN) for column in range(len(layers) + 1)]
    width = gaps + scale * natural
    legend = _legend_height(len(result.images), width)
    letters = int((panel + BETWEEN) / HEAD_LETTER)
    heads = [*(_head_of(layer, result.config, letters) for layer in layers), "probability of the class"]
    above = HEADS + HEAD_LINE * max(head.count("\n") for head in heads)
    sheet = Sheet(width, legend + len(kinds) * (high + BELOW) + above, title, caption, page=page)
    for row, kind in enumerate(kinds):
        bottom = sheet.bottom + legend + (len(kinds) - 1 - row) * (high + BELOW) + BELOW
        strip = sheet.axes(LEFT, bottom, strip_side, high)
        _draw_strip(strip, *strips[kind], colours)
        strip.set_xlabel(_fitted(transform_of(kind).label, strip_side), fontsize=6.5, labelpad=2)
        distance = result.distance(kind)
        curves = [*(distance[..., result.index_of(layer)] for layer in layers), result.probability[kind]]
        for column, values in enumerate(curves):
            axes = sheet.panel(lefts[column], bottom, panel, high)
            _draw_curves(axes, result.steps[kind], values, colours)
            _set_ticks(axes, kind, result.steps[kind])
            is_probability = column == len(layers)
            axes.set_xlabel(_fitted(transform_of(kind).label, panel), fontsize=6.5, labelpad=2)
            axes.set_ylabel("probability" if is_probability else "‖f(Tx) − f(x)‖ / ‖f(x)‖", fontsize=6.5, labelpad=2)
            axes.set_ylim(0, 1.03 if is_probability else None)
    head_bottom = sheet.top - above + 0.08
    for middle, head in zip(
        [LEFT + strip_side / 2, *(left + panel / 2 for left in lefts)], ["examples", *heads], strict=True
    ):
        sheet.text(middle, head_bottom, head, ha="center", va="bottom", fontsize=8)
    _draw_legend(sheet, names, colours)
    return sheet.figure


def draw_depth(scores: Mapping[str, Sequence[Score]], title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the score of each kind against depth, with its 95 % intervals.

    Args:
        scores: kind -> the scores of all layers, in the order of depth.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    layers = [score.layer for score in next(iter(scores.values()))]
    width = page.fitted(max(6.0, 1.6 + 0.27 * len(layers)), 0, 1, 3)
    every = math.ceil(0.11 * len(layers) / (width - 0.85))  # so that the names do not run into one another
    below = 0.15 + DEPTH_LETTER * max(map(len, layers))
    sheet = Sheet(width, below + DEPTH_PANEL + 0.2, title, caption, page=page)
    axes = sheet.panel(0.65, sheet.bottom + below, width - 0.85, DEPTH_PANEL)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(scores)))
    for n, (kind, of_layers) in enumerate(scores.items()):
        x = np.arange(1, len(layers) + 1) + 0.12 * (n - (len(scores) - 1) / 2)  # side by side, so that bars do not hide
        values = np.array([score.score for score in of_layers])
        ends = np.array([[score.low for score in of_layers], [score.high for score in of_layers]])
        style: dict[str, Any] = {"color": colours[n], "marker": MARKERS[n % len(MARKERS)], "markersize": 4}
        style |= {"linewidth": 1.2, "elinewidth": 0.8, "capsize": 1.5}
        axes.errorbar(x, values, np.abs(ends - values), label=transform_of(kind).title, **style)
    axes.set_xticks(range(1, len(layers) + 1, every), layers[::every], rotation=90, fontsize=6)
    axes.set(ylim=(-0.03, 1.03), xlim=(0.4, len(layers) + 0.6))
    axes.set_ylabel("invariance score", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(fontsize=7, frameon=False, ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, 1))
    return sheet.figure


def _colours(count: int) -> Array:
    """Return a colour for each image, [count, 4]; grey for all where there are too many to be told apart."""
    if count > COLOURED:
        return np.tile(GREY, (count, 1))
    return np.asarray(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count)))


def _fitted(label: str, width: float) -> str:
    """Return the label of an axis, with its unit on a line of its own where a panel of this width is narrower."""
    return label if len(label) * LABEL_LETTER <= width else label.replace(" (", "\n(", 1)


def _head_of(layer: str, config: Mapping[str, Any], letters: int) -> str:
    """Return the head of a layer's column, in lines of about so many letters: its whole name, and where it stands."""
    lines = _lines_of(f"{layer}: distance", letters)
    where = config.get("where", {}).get(layer, "")  # of a functional layer, whose name says little
    return "\n".join([*lines, *(_lines_of(f"({where})", letters) if where else [])])


def _lines_of(name: str, letters: int) -> list[str]:
    """Break a name before dots, and after spaces, so that lines have at most so many letters where that can be done.

    >>> _lines_of("resnet.embedder.embedder.activation: distance", 20)
    ['resnet.embedder', '.embedder.activation:', 'distance']
    """
    lines = [""]
    for part in re.findall(r"[. ]?[^. ]+", name):
        if lines[-1] and len(lines[-1] + part.rstrip(":")) > letters:
            lines.append(part.lstrip())
        else:
            lines[-1] += part
    return lines


def _set_ticks(axes: Axes, kind: str, steps: Floats) -> None:
    """Put ticks at whole pixels where the shifts are whole, and at quarter turns where the angles span half a turn."""
    if kind == "rotation" and steps[-1] - steps[0] >= 180:
        axes.xaxis.set_major_locator(MultipleLocator(90))
    elif kind.startswith("translate") and (steps == np.round(steps)).all():
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _draw_strip(axes: Axes, steps: Floats, pictures: Pixels, colours: Array) -> None:
    """Show a row of pictures for each image, marked by the colour of its curves, and a column for each step."""
    rows, columns, height, width = pictures.shape[:4]
    gap = max(1, width // 30)
    axes.imshow(mosaic(list(pictures.reshape(-1, height, width, 3) / 255.0), columns, gap, 1.0))
    axes.set_anchor("N")
    axes.set_xticks(np.arange(columns) * (width + gap) + width / 2, [f"{step:.3g}" for step in steps], fontsize=6)
    axes.set_yticks([])
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    total = rows * (height + gap) - gap
    for n in range(rows):
        corner = (-0.04, 1 - (n * (height + gap) + height) / total)
        mark = Rectangle(corner, 0.025, height / total, color=colours[n], transform=axes.transAxes, clip_on=False)
        axes.add_patch(mark)


def _draw_curves(axes: Axes, steps: Floats, values: Floats, colours: Array) -> None:
    """Draw a curve for each image, of values [N, T]; of many images also the mean."""
    many, marker = len(values) > COLOURED, "o" if len(steps) == 1 else ""
    for curve, colour in zip(values, colours, strict=True):
        axes.plot(steps, curve, color=colour, linewidth=0.5 if many else 1.1, marker=marker, markersize=3)
    if many:
        axes.plot(steps, values.mean(0), color=MEAN, linewidth=1.6, marker=marker, markersize=3)
    axes.margins(x=0.02)


def _legend_columns(width: float) -> int:
    return max(2, int(width / LEGEND_ENTRY))


def _legend_height(images: int, width: float) -> float:
    entries = images if images <= COLOURED else 2
    return 0.05 + LEGEND_LINE * math.ceil(entries / _legend_columns(width))


def _draw_legend(sheet: Sheet, names: Sequence[str], colours: Array) -> None:
    line_colours: list[Any]
    if len(names) > COLOURED:
        labels, line_colours = ["single images", f"mean of {len(names)} images"], [GREY, MEAN]
    else:
        labels, line_colours = [shortened(name, NAME_LETTERS) for name in names], list(colours)
    handles = [Line2D([], [], color=colour, linewidth=1.6) for colour in line_colours]
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, sheet.bottom / sheet.height)}
    columns = min(_legend_columns(sheet.width), len(labels))
    sheet.figure.legend(handles, labels, ncols=columns, fontsize=6.5, frameon=False, **place)

"""Figure 5 of the paper: images under transforms, how far layers move, the probability; and scores against depth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.figures.tiles import mosaic

if TYPE_CHECKING:
    from deconvviz.studies.invariance.result import Invariance, Score

LABELS = {
    "translate-y": "vertical translation (px, down)",
    "translate-x": "horizontal translation (px, right)",
    "scale": "scale (ratio)",
    "rotation": "rotation (degrees, counter-clockwise)",
}
MARKERS = "os^D"
ROW, STRIP, PANEL, BETWEEN, LEFT = 1.75, 1.75, 2.05, 0.62, 0.45  # inches
BELOW, HEAD = 0.55, 0.75
COLOURED = 8  # images that have a colour and a name each; of more, single curves are grey
Strips = Mapping[str, tuple[NDArray[np.float64], NDArray[np.uint8]]]


def draw_invariance(
    found: Invariance, strips: Strips, layers: Sequence[str], names: Sequence[str], title: str, caption: str
) -> Figure:
    """Draw a row for each kind: images under it, the distance in each of `layers`, the probability.

    strips: kind -> (K steps, pictures uint8 [n, K, h, w, 3]) of the first n images. names: one for each image.
    """
    kinds, colours = list(found.steps), _colours(len(found.images))
    width = LEFT + STRIP + (len(layers) + 1) * (PANEL + BETWEEN) + 0.2
    text = _wrapped(caption, width)
    bottom = 0.2 + 0.13 * len(text) + _legend_height(len(found.images), width)
    height = HEAD + len(kinds) * (ROW + BELOW) + bottom
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.08 / height, "\n".join(text), ha="center", va="bottom", fontsize=6.5, color="0.25")
    heads = ["examples", *(f"{layer}: distance" for layer in layers), "probability of the class"]
    for row, kind in enumerate(kinds):
        y = bottom + (len(kinds) - 1 - row) * (ROW + BELOW) + BELOW
        _strip(_axes(figure, LEFT, y, STRIP), *strips[kind], colours)
        distance, places = found.distance(kind), [found.layer(layer) for layer in layers]
        curves = [*(distance[..., place] for place in places), found.probability[kind]]
        for column, values in enumerate(curves):
            axes = _axes(figure, LEFT + STRIP + BETWEEN + column * (PANEL + BETWEEN), y, PANEL)
            _curves(axes, found.steps[kind], values, colours)
            axes.set_xlabel(LABELS[kind], fontsize=6.5, labelpad=2)
            axes.set_ylabel("P" if column == len(layers) else "‖f(Tx) − f(x)‖ / ‖f(x)‖", fontsize=6.5, labelpad=2)
            axes.set_ylim(0, 1.03 if column == len(layers) else None)
        if row == 0:
            for n, head in enumerate(heads):
                _head(figure, head, n, (y + ROW + 0.08) / height)
    _legend(figure, names, colours, (0.2 + 0.13 * len(text)) / height)
    return figure


def draw_depth(scores: Mapping[str, Sequence[Score]], title: str, caption: str) -> Figure:
    """Draw each kind's score against depth, with its 95 % intervals."""
    layers = [score.layer for score in next(iter(scores.values()))]
    width = max(6.0, 1.6 + 0.27 * len(layers))
    text = _wrapped(caption, width)
    bottom = 0.35 + 0.13 * len(text) + 0.045 * max(len(name) for name in layers)
    height = 0.6 + 3.0 + bottom
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.08 / height, "\n".join(text), ha="center", va="bottom", fontsize=6.5, color="0.25")
    axes = figure.add_axes((0.65 / width, bottom / height, 1 - 0.85 / width, 3.0 / height))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(scores)))
    for n, (kind, found) in enumerate(scores.items()):
        x = np.arange(1, len(layers) + 1) + 0.12 * (n - (len(scores) - 1) / 2)  # side by side, so that bars do not hide
        value = np.array([one.score for one in found])
        reach = np.abs(np.array([[one.low for one in found], [one.high for one in found]]) - value)
        style: dict[str, Any] = {"color": colours[n], "marker": MARKERS[n % len(MARKERS)], "markersize": 4}
        axes.errorbar(x, value, reach, label=kind, linewidth=1.2, elinewidth=0.8, capsize=1.5, **style)
    axes.set_xticks(range(1, len(layers) + 1), layers, rotation=90, fontsize=6)
    axes.set(ylim=(-0.03, 1.03), xlim=(0.4, len(layers) + 0.6))
    axes.set_ylabel("invariance score", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(color="0.9", linewidth=0.5)
    axes.legend(fontsize=7, frameon=False, ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _colours(count: int) -> NDArray[Any]:
    """Return a colour for each image, grey for all where they are too many to be told apart."""
    if count > COLOURED:
        return np.tile([0.72, 0.72, 0.72, 1.0], (count, 1))
    return np.asarray(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count)))


def _axes(figure: Figure, x: float, y: float, across: float) -> Axes:
    width, height = figure.get_size_inches()
    axes: Axes = figure.add_axes((x / width, y / height, across / width, ROW / height))
    return axes


def _head(figure: Figure, text: str, column: int, y: float) -> None:
    width = figure.get_size_inches()[0]
    x = LEFT + STRIP / 2 if column == 0 else LEFT + STRIP + BETWEEN + (column - 1) * (PANEL + BETWEEN) + PANEL / 2
    figure.text(x / width, y, text if len(text) < 38 else f"…{text[-36:]}", ha="center", va="bottom", fontsize=8)


def _strip(axes: Axes, steps: NDArray[np.float64], pictures: NDArray[np.uint8], colours: NDArray[Any]) -> None:
    """Show a row of pictures for each image, marked by the colour of its curves, a column for each step."""
    down, across, height, width = pictures.shape[:4]
    gap = max(1, width // 30)
    axes.imshow(mosaic(list(pictures.reshape(-1, height, width, 3) / 255.0), across, gap, 1.0))
    axes.set_anchor("N")
    axes.set_xticks(np.arange(across) * (width + gap) + width / 2, [f"{step:.3g}" for step in steps], fontsize=6)
    axes.set_yticks([])
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for n in range(down):
        where = (-0.04, 1 - (n * (height + gap) + height) / (down * (height + gap) - gap))
        tall = height / (down * (height + gap) - gap)
        axes.add_patch(Rectangle(where, 0.025, tall, color=colours[n], transform=axes.transAxes, clip_on=False))


def _curves(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], colours: NDArray[Any]) -> None:
    many, marker = len(values) > COLOURED, "o" if len(steps) == 1 else ""
    for curve, colour in zip(values, colours, strict=True):
        axes.plot(steps, curve, color=colour, linewidth=0.5 if many else 1.1, marker=marker, markersize=3)
    if many:
        axes.plot(steps, values.mean(0), color="0.1", linewidth=1.6, marker=marker, markersize=3)
    axes.tick_params(labelsize=6, pad=2)
    axes.grid(color="0.9", linewidth=0.5)
    axes.margins(x=0.02)


def _legend_height(images: int, width: float) -> float:
    return 0.05 + 0.16 * math.ceil(min(images, COLOURED) / _columns(width))


def _columns(width: float) -> int:
    return max(2, int(width / 1.7))


def _legend(figure: Figure, names: Sequence[str], colours: NDArray[Any], y: float) -> None:
    width = figure.get_size_inches()[0]
    many = len(names) > COLOURED
    shown = ["single images", f"mean of {len(names)}"] if many else [textwrap.shorten(n, 32) for n in names]
    handles = [
        matplotlib.lines.Line2D([], [], color=colour, linewidth=1.6)
        for colour in ([colours[0], "0.1"] if many else colours)
    ]
    columns = min(_columns(width), len(shown))
    figure.legend(
        handles, shown, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, y), fontsize=6.5, frameon=False
    )


def _wrapped(text: str, width: float) -> list[str]:
    return [line for part in text.splitlines() for line in textwrap.wrap(part, int(width * 19))]

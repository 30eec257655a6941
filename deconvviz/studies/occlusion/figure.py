"""Figure 7 of the paper: an image under an occluder, and what the network makes of it place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from deconvviz.figures.tiles import place, stretched

if TYPE_CHECKING:
    from deconvviz.studies.occlusion.result import Occlusion

SIDE, GAP, BAR, LEFT, LEGEND = 1.9, 0.2, 0.62, 0.35, 2.1  # inches
CLASSES = 7  # with colours of their own; the others share one
TITLES = (
    "(a) image with occluder",
    "(b) sum of the strongest map of\n{layer}, by the occluder's place",
    "(c) that map's projection{others}",
    "(d) probability of the class",
    "(e) most probable class",
)


def draw_occlusions(
    found: Sequence[Occlusion],
    others: Sequence[Sequence[NDArray[np.floating[Any]]]],
    names: Sequence[str],
    title: str,
    caption: str,
) -> Figure:
    """Draw a row of panels for each image.

    others: for each image up to three projections of its map from other images, [h, w, C]; names: of the outputs, may
    be empty.
    """
    across = LEFT + 5 * (SIDE + GAP) + 2 * BAR + LEGEND
    height = 0.95 + len(found) * (SIDE + 0.3) + 0.3 + 0.13 * (1 + len(caption) // 190)
    figure = Figure(figsize=(across, height), dpi=170)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.08 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    for n, (one, more) in enumerate(zip(found, others, strict=True)):
        y = height - 0.95 - n * (SIDE + 0.3) - SIDE
        label = f"{one.name[:26]}\n{_called(one.target, names, one.outputs)[:26]}, p {one.whole.probability:.2f}"
        figure.text(0.16 / across, (y + SIDE / 2) / height, label, rotation=90, ha="center", va="center", fontsize=6)
        _row(figure, one, more, names, y)
        if n == 0:
            _titles(figure, one, bool(any(len(some) for some in others)), y + SIDE)
    return figure


def _lefts() -> list[float]:
    """Where each panel begins, in inches; (b) and (d) have a colour bar beside them."""
    wide = (0.0, SIDE + GAP, 2 * (SIDE + GAP) + BAR, 3 * (SIDE + GAP) + BAR, 4 * (SIDE + GAP) + 2 * BAR)
    return [LEFT + one for one in wide]


def _titles(figure: Figure, one: Occlusion, others: bool, top: float) -> None:
    across, height = figure.get_size_inches()
    told = ", and top 3\nof other images" if others else ""
    for left, text in zip(_lefts(), TITLES, strict=True):
        shown = text.format(layer=one.config["layer"][-30:], others=told)
        place_ = ((left + SIDE / 2) / across, (top + 0.06) / height)
        figure.text(*place_, shown, ha="center", va="bottom", fontsize=7)


def _row(figure: Figure, one: Occlusion, others: Sequence[NDArray[Any]], names: Sequence[str], y: float) -> None:
    lefts = _lefts()
    place(figure, one.shown / 255.0, (lefts[0], y, SIDE, SIDE))
    _values(figure, one, one.activation, (lefts[1], y), None)
    across, height = figure.get_size_inches()
    corner = ((lefts[2] + SIDE / 2) / across, (y - 0.03) / height)
    figure.text(*corner, f"map {one.channel}", ha="center", va="top", fontsize=6)
    if others:
        half = (SIDE - 0.04) / 2
        for n, projection in enumerate((one.projection, *others)):
            where = (lefts[2] + (n % 2) * (half + 0.04), y + (1 - n // 2) * (half + 0.04), half, half)
            axes = place(figure, stretched(projection), where)
            for spine in axes.spines.values():  # the image's own is framed, as in the paper
                spine.set(linewidth=1.6 if n == 0 else 0.4, color="k" if n == 0 else "0.4")
    else:
        place(figure, stretched(one.projection), (lefts[2], y, SIDE, SIDE))
    _values(figure, one, one.probability, (lefts[3], y), (0.0, max(1e-9, float(max(one.probability)))))
    _classes(figure, one, names, (lefts[4], y))


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    across, down = figure.get_size_inches()
    return figure.add_axes((x / across, y / down, width / across, height / down))


def _extent(one: Occlusion) -> tuple[float, float, float, float]:
    """The range of the windows' centres, each with half a stride around it, in pixels."""
    ends = []
    for starts, square, step in zip(one.occluder.grid, one.occluder.square, one.occluder.stride, strict=True):
        ends.append((starts[0] + square / 2 - step / 2, starts[-1] + square / 2 + step / 2))
    (top, bottom), (left, right) = ends
    return left, right, bottom, top


def _values(
    figure: Figure, one: Occlusion, values: NDArray[Any], corner: tuple[float, float], span: tuple[float, float] | None
) -> None:
    axes = _axes(figure, *corner, SIDE, SIDE)
    low, high = span or (None, None)
    shown = axes.imshow(one.grid(values), cmap="viridis", extent=_extent(one), vmin=low, vmax=high, aspect="auto")
    _ticks(axes)
    bar = figure.colorbar(shown, cax=_axes(figure, corner[0] + SIDE + 0.06, corner[1], 0.09, SIDE))
    bar.ax.tick_params(labelsize=5.5)


def _ticks(axes: Axes) -> None:
    axes.tick_params(labelsize=5, length=2, pad=1)
    axes.locator_params(nbins=4)


def _called(index: int, names: Sequence[str], outputs: int) -> str:
    return names[index] if len(names) == outputs else f"class {index}"


def _classes(figure: Figure, one: Occlusion, names: Sequence[str], corner: tuple[float, float]) -> None:
    """The most probable class under each window; the most frequent ones have colours of their own."""
    labels, counts = np.unique(one.top, return_counts=True)
    order = labels[np.argsort(-counts, kind="stable")]
    ranks = {int(label): min(n, CLASSES) for n, label in enumerate(order)}
    shades = [*matplotlib.colormaps["viridis"](np.linspace(0.95, 0, min(len(order), CLASSES))), (0.6, 0.6, 0.6, 1)]
    shown = np.vectorize(ranks.__getitem__)(one.grid(one.top)).clip(max=len(shades) - 1)
    axes = _axes(figure, *corner, SIDE, SIDE)
    axes.imshow(
        shown,
        cmap=ListedColormap(shades),
        vmin=-0.5,
        vmax=len(shades) - 0.5,
        extent=_extent(one),
        aspect="auto",
        interpolation="nearest",
    )
    _ticks(axes)
    told = [_called(int(label), names, one.outputs)[:24] for label in order[:CLASSES]]
    told += [f"{len(order) - CLASSES} others"] if len(order) > CLASSES else []
    patches = [Patch(color=shade, label=text) for shade, text in zip(shades, told, strict=False)]
    axes.legend(handles=patches, fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)

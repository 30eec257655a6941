"""Ablation as figures: the trained variants beside what they cost, and lesions of a trained network, ranked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deconvviz.studies.ablation.train import VariantTable
    from deconvviz.studies.lesions.result import Lesions

TRAINING, VALIDATION = "#9bb4d1", "#21436b"  # told apart by lightness alone
MOST = 20  # lesions shown by name
Values = NDArray[np.float64]
Colour = Any


def draw_variants(found: VariantTable, title: str, caption: str) -> Figure:
    """Draw a row for each variant: its errors, how far it is from the full network, and its parameters."""
    rows, places = found.rows, np.arange(len(found.rows))[::-1]
    figure, height = _page(11, 1.6 + 0.36 * len(rows), title, caption)
    errors, differences, parameters = figure.subplots(1, 3, sharey=True, width_ratios=(1.25, 1, 1))
    figure.subplots_adjust(left=0.2, right=0.965, top=1 - 0.7 / height, bottom=_bottom(caption) / height, wspace=0.09)
    for shift, colour, label, values in (
        (0.19, TRAINING, "training", [100 * row.training_error for row in rows]),
        (-0.19, VALIDATION, "validation", [100 * row.validation_error for row in rows]),
    ):
        bars = errors.barh(places + shift, values, 0.36, color=colour, label=label)
        errors.bar_label(bars, fmt="%.1f", fontsize=6, padding=2)
    errors.set_xlim(0, 1.14 * max(1.0, *(100 * max(row.training_error, row.validation_error) for row in rows)))
    errors.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, borderaxespad=0.1)
    errors.set_yticks(places, [row.name for row in rows], fontsize=8)
    for row, place in zip(rows, places, strict=True):
        if row.difference is not None and row.low is not None and row.high is not None:
            _interval(differences, 100 * np.array([row.difference, row.low, row.high]), float(place), VALIDATION)
    differences.axvline(0, color="0.5", linewidth=0.8)
    bars = parameters.barh(places, [row.parameters for row in rows], 0.6, color="0.6")
    parameters.bar_label(bars, [_short(row.parameters) for row in rows], fontsize=7, padding=2)
    parameters.set_xscale("log")
    counts = [row.parameters for row in rows]
    parameters.set_xlim(min(counts) / 2, max(counts) * 3)
    parameters.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(int(value))))
    labels = ("top-1 error (%)", "validation error above the full network's\n(percentage points, 95 % interval)")
    for axes, label in zip((errors, differences, parameters), (*labels, "parameters (log scale)"), strict=True):
        _tidy(axes, label)
    return figure


def draw_lesions(found: Lesions, title: str, caption: str) -> Figure:
    """Draw the lesions with the largest drops by name, their log-loss, and beside them all drops, layer by layer."""
    ranking, layers = found.ranking[:MOST], found.config["layers"]
    whole, count = found.config["by"] == "layer", len(found.config["layers"])
    tall = max(0.19 * len(ranking), (0.19 if whole else 0.4) * count, 1.5)
    named = [found.name(i) for i in ranking]
    rooms = [0.35 + 0.062 * max(map(len, names)) for names in (named, layers)]
    width = max(11, sum(rooms) + 7.3)
    figure, _ = _page(width, 1.75 + tall, title, caption)
    ranked, losses, spread = _panels(figure, rooms, 0.7, _bottom(caption))
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, count))
    drops = 100 * np.column_stack([found.drop, found.interval])
    rises = found.loss_rise[:, None] + found.loss_rise_error[:, None] * np.array([0, -1, 1])
    for place, lesion in zip(_down(len(ranking)), ranking.tolist(), strict=True):
        for axes, values in ((ranked, drops), (losses, rises)):
            _interval(axes, values[lesion], place, colours[found.layer[lesion]])
    for n, place in enumerate(_down(count)):
        own = drops[found.layer == n]
        if whole:
            _interval(spread, own[0], place, colours[n])
        else:
            _cloud(spread, own[:, 0], place, colours[n])
    for axes, names in ((ranked, named), (losses, [""] * len(ranking)), (spread, layers)):
        axes.set_yticks(_down(len(names)), names, fontsize=7)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.axvline(0, color="0.5", linewidth=0.8)
    what = "layers" if whole else "filters"
    ranked.set_title(f"the {len(ranking)} {what} with the largest drops", fontsize=8)
    losses.set_title("the same", fontsize=8)
    spread.set_title("in the order given" if whole else f"all {len(found.drop)} {what}; quartiles in grey", fontsize=8)
    _tidy(ranked, "loss of accuracy\n(percentage points, 95 % interval)")
    _tidy(losses, "rise of the log-loss\n(nats, 95 % interval)")
    _tidy(spread, "loss of accuracy\n(percentage points" + (", 95 % interval)" if whole else ")"))
    return figure


def _down(count: int) -> list[float]:
    """Places of rows from the top down."""
    return [float(place) for place in range(count - 1, -1, -1)]


def _panels(figure: Figure, rooms: Sequence[float], top: float, bottom: float) -> list[Axes]:
    """Place three panels, the second close to the first; rooms: inches for the labels of the first and the third."""
    width, height = figure.get_size_inches()
    free = width - sum(rooms) - 0.5
    wide, x, found = (0.37 * free, 0.29 * free, 0.34 * free), rooms[0], []
    for own, gap in zip(wide, (0.2, rooms[1], 0.0), strict=True):
        found.append(figure.add_axes((x / width, bottom / height, own / width, 1 - (top + bottom) / height)))
        x += own + gap
    return found


def _page(width: float, height: float, title: str, caption: str) -> tuple[Figure, float]:
    """Make a figure that has room for its caption below; return it with its height in inches."""
    height += _bottom(caption) - 0.75
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.08 / height, _wrapped(caption), ha="center", va="bottom", fontsize=6.5, color="0.25")
    return figure, height


def _wrapped(caption: str) -> str:
    return "\n".join(textwrap.fill(line, 200) for line in caption.splitlines())


def _bottom(caption: str) -> float:
    """Inches below the panels: the axis label and the caption."""
    return 0.75 + 0.13 * (_wrapped(caption).count("\n") + 1)


def _interval(axes: Axes, value: Values, place: float, colour: Colour) -> None:
    """Draw (value, low, high): a bar, and a dot with whiskers on it."""
    centre, low, high = value
    axes.barh(place, centre, 0.62, color=0.4 * np.asarray(to_rgb(colour)) + 0.6)
    whiskers = [[max(centre - low, 0)], [max(high - centre, 0)]]
    axes.errorbar(centre, place, xerr=whiskers, fmt="o", color=colour, markersize=3, capsize=2, linewidth=1.1)


def _cloud(axes: Axes, values: Values, place: float, colour: Colour) -> None:
    """Draw all values of a layer as dots, apart in height by a fixed rule, over the range of their quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    axes.plot([low, high], [place, place], color="0.75", linewidth=7, solid_capstyle="butt", zorder=1)
    axes.plot([middle] * 2, [place - 0.36, place + 0.36], color="0.2", linewidth=1.2)
    heights = place + 0.6 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
    axes.plot(values, heights, "o", color=colour, markersize=2.6, alpha=0.7, markeredgewidth=0)


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _tidy(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=7.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

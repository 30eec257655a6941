"""Probes as figures: accuracy against the depth of the layer, and against the number of training images."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from deconvviz.studies.probing.measure import Probed
    from deconvviz.studies.probing.transfer import Transfer

TITLES = {"svm": "linear SVM", "softmax": "softmax"}
STYLES = ("-", "--", ":", "-.")


def draw_probing(found: Transfer, title: str, caption: str) -> Figure:
    """Draw accuracy against depth with the most training images, and at the deepest layer against their number.

    Whiskers are standard deviations over the splits, the dotted line is chance. Without several numbers of images
    there is the first panel only. The lines are named in the first panel.
    """
    first = next(iter(found.found.values()))
    several = len(first.settings.per_class) > 1
    longest = max(len(name) for name in first.layers)
    left = max(0.65, 0.045 * longest)  # the names hang down to the left of their layers
    wide = left + max(3.4, 0.4 + 0.55 * len(first.layers))
    width, height = wide + (4.0 if several else 0.2), 4.6 + 0.03 * longest
    lines = textwrap.wrap(caption, int(width * 17))
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, "\n".join(lines), ha="center", va="bottom", fontsize=6.5, color="0.25")
    low = (0.55 + 0.04 * longest + 0.13 * len(lines)) / height
    tall = 1 - 0.62 / height - low
    _draw_depth(figure.add_axes((left / width, low, (wide - left - 0.15) / width, tall)), found)
    if several:
        _draw_counts(figure.add_axes(((wide + 0.5) / width, low, 3.2 / width, tall)), found)
    return figure


def _draw_depth(axes: Axes, found: Transfer) -> None:
    first = next(iter(found.found.values()))
    places = np.arange(len(first.layers))
    for name, kind, style, colour in _lines(found):
        probed = found.found[name]
        at = probed.settings.probes.index(kind)
        mean, deviation = 100 * probed.mean[:, at, -1], 100 * probed.deviation[:, at, -1]
        _whiskers(axes, places, mean, deviation, style, colour, f"{name}, {TITLES.get(kind, kind)}")
    axes.set_xticks(places, list(first.layers), rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_xlabel("layer, in the order of depth", fontsize=8)
    axes.set_title(f"{first.settings.per_class[-1]} training images a class", fontsize=8)
    axes.set_xlim(-0.4, len(places) - 0.6)
    _finish(axes, first)
    axes.legend(fontsize=6.5, frameon=False, loc="best", handlelength=3.2)


def _draw_counts(axes: Axes, found: Transfer) -> None:
    first = next(iter(found.found.values()))
    counts, layer = first.settings.per_class, list(first.layers)[-1]
    for name, kind, style, colour in _lines(found):
        mean, deviation = found.curve(name, layer, kind)
        label = f"{name}, {TITLES.get(kind, kind)}"
        _whiskers(axes, np.array(counts), 100 * mean, 100 * deviation, style, colour, label)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("training images a class", fontsize=8)
    axes.set_title(f"at {layer}", fontsize=8)
    _finish(axes, first)


def _lines(found: Transfer) -> list[tuple[str, str, str, object]]:
    """Return network, probe, line style (of the network) and colour (of the probe) of each line."""
    kinds = next(iter(found.found.values())).settings.probes
    colours = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.7, len(kinds)))
    return [
        (name, kind, STYLES[n % len(STYLES)], colour)
        for n, name in enumerate(found.found)
        for kind, colour in zip(kinds, colours, strict=True)
    ]


def _whiskers(
    axes: Axes, x: np.ndarray, mean: np.ndarray, deviation: np.ndarray, style: str, colour: object, label: str
) -> None:
    axes.errorbar(
        x,
        mean,
        deviation,
        fmt="o",
        linestyle=style,
        color=colour,
        label=label,
        markersize=3,
        linewidth=1.2,
        capsize=2,
        elinewidth=0.8,
    )


def _finish(axes: Axes, probed: Probed) -> None:
    axes.axhline(100 * probed.chance, linestyle=":", color="0.35", linewidth=1, label="chance")
    axes.set_ylabel("mean accuracy of a class (%)", fontsize=8)
    axes.set_ylim(0, min(axes.get_ylim()[1], 102))
    axes.tick_params(labelsize=7)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)

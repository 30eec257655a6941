"""Curves over the epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deconvviz.arrays import evenly
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet
from deconvviz.types import Floats

HEIGHT, PANEL, LEAST = 2.2, 3.2, 1.2  # inches: height and width of a panel, and the least width
LABELS, EDGE = 0.55, 0.15  # inches: for a panel's labels, and at the page's border
MARKED = 40  # epochs: the points of a longer training are not marked
STYLES = ("-", "--", ":", "-.")
NO_METRICS = ("epoch", "phase", "lr", "seconds")  # values of a record that do not measure the training
OWN_PANELS: Mapping[str, str] = {"dead_share": "share of filters"}  # metric -> label of a panel of its own
HARDLY = 1e-3  # curves that change by less, of their size, have ticks that are told from a number beside the panel
ACROSS = 3  # panels in a row
NAMED = 8  # lines of a panel that the legend names; of more, as many at even steps


def panels_of(
    records: Sequence[Mapping[str, Any]],
    without: Collection[str] = NO_METRICS,
    left_out: str = "-",
    own: Mapping[str, str] = OWN_PANELS,
) -> dict[str, dict[str, Floats]]:
    """Return what is drawn of a training: label of a panel -> name of a metric -> float64 [points, 2], (epoch, value).

    Shares of images have a panel, and so has each figure that is measured layer by layer ("figure/layer").

    Args:
        records: a record for each epoch; in a training of several phases, the epochs are counted through.
        without: names of a record that are not metrics.
        left_out: what the names of metrics begin with that are left out.
        own: metric -> label of the panel that it has for itself.

    >>> panels = panels_of([{"epoch": 1, "loss": 2.0, "accuracy": 0.5, "kept/conv1": 0.9}])
    >>> {label: list(curves) for label, curves in panels.items()}
    {'value': ['loss'], 'share of images': ['accuracy'], 'kept': ['conv1']}
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number, record in enumerate(records, 1):
        epoch = number if "phase" in record else record.get("epoch", number)
        for name, value in record.items():
            if name not in without and not name.startswith(left_out) and isinstance(value, int | float):
                pairs.setdefault(name, []).append((epoch, value))
    panels: dict[str, dict[str, Floats]] = {}
    for name, of_name in pairs.items():
        points = np.array(of_name, np.float64)
        figure, _, layer = name.partition("/")
        if layer:
            panels.setdefault(figure.replace("_", " "), {})[layer.replace("all_layers", "all layers")] = points
            continue
        is_share = name == "right" or "acc" in name.lower() or "top" in name or name.endswith("_map")
        label = "share of images" if is_share and (points[:, 1] <= 1).all() else "value"
        panels.setdefault(own.get(name, label), {})[name.replace("_", " ")] = points
    return panels


def draw_curves(panels: Mapping[str, Mapping[str, Floats]], title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a panel for each quantity, with a line for each metric that is measured in it; three panels in a row.

    Args:
        panels: label of the vertical axis -> name of a metric -> float64 [points, 2], (epoch, value).
        title: text above.
        caption: text below.
        page: what is asked for of the page.

    >>> figure = draw_curves({"share of images": {"accuracy": np.array([[1.0, 0.5], [2.0, 0.7]])}}, "", "")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['share of images']
    """
    across = min(len(panels), ACROSS)
    fixed, rows = across * LABELS + EDGE, math.ceil(len(panels) / across)
    width = page.fitted(PANEL, fixed, across, LEAST)
    sheet = Sheet(fixed + across * width, rows * (LABELS + HEIGHT + EDGE), title, caption, page=page)
    for number, (label, curves) in enumerate(panels.items()):
        row, column = divmod(number, across)
        bottom = sheet.bottom + LABELS + (rows - 1 - row) * (LABELS + HEIGHT + EDGE)
        axes = sheet.panel(LABELS + column * (width + LABELS), bottom, width, HEIGHT)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(curves)))
        named = set(evenly(len(curves), NAMED).tolist())
        for place, (name, points) in enumerate(curves.items()):
            style: dict[str, Any] = {
                "linestyle": STYLES[place % len(STYLES)],
                "marker": "o" if len(points) <= MARKED else "",
            }
            style["label"] = name if place in named else None
            axes.plot(*points.T, color=colours[place], markersize=2.5, linewidth=1.2, **style)
        axes.set_xlabel("epoch", fontsize=7)
        axes.set_ylabel(label, fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Longer numbers would reach into the panel beside
        low, high = sorted(np.abs(axes.get_ylim()))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=bool(high - low < HARDLY * high))
        axes.yaxis.get_offset_text().set_fontsize(SMALL)
        axes.legend(fontsize=SMALL, framealpha=0.6, edgecolor="none")
    return sheet.figure

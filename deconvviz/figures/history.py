"""Curves over the epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
HARDLY = 1e-3  # curves that change by less, of their size, have ticks that are told from a number beside the panel
ACROSS = 3  # panels in a row
NAMED = 8  # lines of a panel that the legend names; of more, as many at even steps


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

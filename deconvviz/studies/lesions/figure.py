"""Lesions as a figure: the largest drops by name, and all drops layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deconvviz.figures.bars import draw_interval, label_values, rows_from_top
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.lesions.result import Lesions
    from deconvviz.types import Floats

MOST = 20  # lesions that are named
ROW = 0.19  # inches of a named lesion, or of a layer that is silenced as a whole
CLOUD = 0.4  # inches of a layer whose filters are dots
LETTER = 0.062  # inches of a letter of a row's name
BELOW, ABOVE = 0.5, 0.2  # inches for the axes' labels below the panels, and for their titles above
BETWEEN = 0.15  # inches between panels that stand below each other
GOLDEN = 0.618034  # multiples of it, taken modulo 1, spread evenly: dots of a cloud are drawn apart


def draw_lesions(lesions: Lesions, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw three panels: the largest drops by name, the rise of their log-loss, and all drops layer by layer.

    A narrow page has the third panel below the others.

    Args:
        lesions: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    ranking, layers = lesions.ranking[:MOST], lesions.config["layers"]
    whole = lesions.config["by"] == "layer"
    names = [lesions.name(i) for i in ranking]
    height = max(ROW * len(ranking), (ROW if whole else CLOUD) * len(layers), 1.5)
    figure, ranked, losses, spread = _panels(names, layers, height, title, caption, page)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(layers)))
    drops = 100 * np.column_stack([lesions.drop, lesions.interval])
    rise, half = lesions.loss_rise, lesions.loss_rise_error
    rises = np.column_stack([rise, rise - half, rise + half])
    for row, i in zip(rows_from_top(len(ranking)), ranking.tolist(), strict=True):
        for axes, estimates in ((ranked, drops), (losses, rises)):
            draw_interval(axes, estimates[i], row, colours[lesions.layer[i]])
    for number, row in enumerate(rows_from_top(len(layers))):
        drops_of_layer = drops[lesions.layer == number]
        if whole:
            draw_interval(spread, drops_of_layer[0], row, colours[number])
        else:
            _draw_cloud(spread, drops_of_layer[:, 0], row, colours[number])
    if not whole:
        low, high = spread.get_xlim()
        spread.set_xlim(min(low, -1), max(high, 1))  # drops that are all zero stand in the middle of the panel
    for axes, labels in ((ranked, names), (losses, [""] * len(ranking)), (spread, layers)):
        axes.set_yticks(rows_from_top(len(labels)), labels, fontsize=7)
        axes.set_ylim(-0.7, len(labels) - 0.3)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    unit = "layer" if whole else "filter"
    ranked.set_title(f"the first {counted(len(ranking), unit)} by loss of accuracy", fontsize=8)
    losses.set_title("the same, in the same order", fontsize=8)
    what = "in the order given" if whole else "median and quartiles in grey"
    whole_count = f"all {counted(len(lesions.drop), unit)}" if len(lesions.drop) > 1 else f"the only {unit}"
    spread.set_title(f"{whole_count}; {what}", fontsize=8)
    label_values(ranked, "loss of accuracy\n(percentage points, 95 % interval)")
    label_values(losses, "rise of the log-loss\n(nats, 95 % interval)")
    label_values(spread, "loss of accuracy\n(percentage points" + (", 95 % interval)" if whole else ")"))
    return figure


def _panels(
    names: list[str], layers: list[str], height: float, title: str, caption: str, page: Page
) -> tuple[Figure, Axes, Axes, Axes]:
    """Place three panels of this height in inches, the second close to the first, with room for the rows' names."""
    rooms = [0.35 + LETTER * max(map(len, labels)) for labels in (names, layers)]
    width = page.width or max(11, sum(rooms) + 7.3)
    page.fitted(0, max(rooms) + 0.5, 1, 0 if page.width is None else 2.6)  # refuses a page that is too narrow
    stacked = width < sum(rooms) + 5.5
    band = BELOW + height + ABOVE
    below = min(height, CLOUD * len(layers) + 0.4)  # height of the third panel where it stands below
    sheet = Sheet(width, band + (BELOW + below + ABOVE + BETWEEN if stacked else 0), title, caption, page=page)
    bottom = sheet.top - ABOVE - height
    free = sheet.width - (rooms[0] + 0.35 if stacked else sum(rooms) + 0.5)
    shares = (0.56, 0.44) if stacked else (0.37, 0.29)
    ranked = sheet.axes(rooms[0], bottom, shares[0] * free, height)
    left = rooms[0] + shares[0] * free + 0.2
    losses = sheet.axes(left, bottom, shares[1] * free, height)
    if stacked:
        spread = sheet.axes(rooms[1], sheet.bottom + BELOW, width - rooms[1] - 0.15, below)
    else:
        spread = sheet.axes(left + shares[1] * free + rooms[1], bottom, 0.34 * free, height)
    return sheet.figure, ranked, losses, spread


def _draw_cloud(axes: Axes, values: Floats, row: float, colour: Any) -> None:
    """Draw the values of a layer as dots around its row, over the range of their quartiles and their median."""
    low, median, high = np.percentile(values, (25, 50, 75))
    axes.plot([low, high], [row, row], color="0.75", linewidth=7, solid_capstyle="butt", zorder=1)
    axes.plot([median] * 2, [row - 0.36, row + 0.36], color="0.2", linewidth=1.2)
    heights = row + 0.6 * (np.arange(len(values)) * GOLDEN % 1 - 0.5)
    axes.plot(values, heights, "o", color=colour, markersize=2.6, alpha=0.7, markeredgewidth=0)

"""Figure of the range of a layer's filters: nine images from the weakest to the strongest, and the histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.studies.mining.range_bars import bars_of, short, ticks_of
from deconvviz.studies.mining.spread import SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deconvviz.studies.mining.range_result import FilterRange, LayerRange
    from deconvviz.types import Ints

PATCH, LEAST, GAP = 0.72, 0.3, 0.06  # inches: of a patch, of the smallest one, and between two
LEFT, HISTOGRAM, RIGHT = 0.75, 1.5, 0.2  # inches: of the number, of the histogram, and beside it
HEADING, BELOW, BETWEEN = 0.25, 0.27, 0.14  # inches: above the first row, below a patch, and between two rows
MARK, BARS, ZEROS = "#b2182b", "#35608d", "0.55"
PIXELS = 200  # of a patch at least, so that those of a small image are drawn as squares


def draw_range(layer: LayerRange, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw a row for each filter: its number, images at quantiles of its range, and the histogram of its maxima.

    Args:
        layer: the range of some filters.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    count = max((len(each.values) for each in layer.filters), default=1) or 1
    fixed = LEFT + count * GAP + 0.35 + HISTOGRAM + RIGHT
    side = page.fitted(PATCH, fixed, count, LEAST)
    row = side + BELOW + BETWEEN
    sheet = Sheet(fixed + count * side, HEADING + len(layer.filters) * row, title, caption, page=page)
    for number, each in enumerate(layer.filters):
        bottom = sheet.top - HEADING - number * row - side
        _draw_number(sheet, each, bottom + side / 2)
        _draw_patches(sheet, each, side, bottom, with_quantiles=number == 0)
        left = LEFT + count * (side + GAP) + 0.35
        _draw_histogram(sheet.axes(left, bottom, HISTOGRAM, side), each.counts, number == 0)
    return sheet.figure


def _draw_number(sheet: Sheet, each: FilterRange, middle: float) -> None:
    """Write the channel's number, and below it the two likenesses, in colour where the strongest images mislead."""
    sheet.text(LEFT - 0.1, middle + 0.1, str(each.channel), ha="right", va="center", fontsize=9, weight="bold")
    if np.isnan(each.likeness_of_upper) or np.isnan(each.likeness_of_top):
        return
    text = f"{_hundredths(each.likeness_of_upper)} of {_hundredths(each.likeness_of_top)}"
    text = f"top misleads\n{text}" if each.misleading else text
    style = {"color": MARK, "weight": "bold"} if each.misleading else {"color": "0.35"}
    sheet.text(LEFT - 0.1, middle - 0.02, text, ha="right", va="top", fontsize=5, **style)


def _draw_patches(sheet: Sheet, each: FilterRange, side: float, bottom: float, with_quantiles: bool) -> None:
    small = {"ha": "center", "fontsize": 5}
    for place, (quantile, value) in enumerate(zip(each.quantiles, each.values, strict=True)):
        left = LEFT + place * (side + GAP)
        sheet.picture(enlarged(each.patches[place], PIXELS), left, bottom, side)
        label = f"{short(value)}\n{shortened(each.classes[place], max(int(side / 0.045), 4))}".strip()
        sheet.text(left + side / 2, bottom - 0.02, label, va="top", **small)
        if with_quantiles:
            words = {0.0: "weakest", 1.0: "strongest"}.get(float(quantile), f"{100 * quantile:.3g} %")
            sheet.text(left + side / 2, bottom + side + 0.04, words, va="bottom", ha="center", fontsize=SMALL)


def _draw_histogram(axes: Axes, counts: Ints, first: bool) -> None:
    """Draw the bins, each a quarter of an octave, from the smallest one with images on; zeros have their own bar."""
    groups = bars_of(counts)
    for bins, left, width in groups:
        places, colour = left + width * (np.arange(len(bins)) + 0.5), ZEROS if SIDE in bins else BARS
        axes.bar(places, counts[bins.start : bins.stop], 0.95 * width, color=colour, linewidth=0)
    if groups:
        axes.set_xlim(-0.02 * groups[-1].right, 1.01 * groups[-1].right)
        ticks = ticks_of(groups)
        axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(labelsize=5, length=2, pad=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.set_ylabel("images", fontsize=5, labelpad=1)
    axes.set_xlabel("activation, logarithmic", fontsize=5, labelpad=1)
    if first:
        axes.set_title("maximum on each image", fontsize=SMALL, pad=3)


def _hundredths(value: float) -> str:
    """Return a number with two decimals, and none below zero that is printed as zero.

    >>> _hundredths(-0.001), _hundredths(-0.251)
    ('0.00', '-0.25')
    """
    return f"{round(value, 2) + 0.0:.2f}"

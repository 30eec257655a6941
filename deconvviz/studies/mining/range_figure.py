"""Figure of the range of a layer's filters: nine images from the weakest to the strongest, and the histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.studies.mining.spread import SIDE, edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deconvviz.studies.mining.range_result import FilterRange, LayerRange
    from deconvviz.types import Ints

PATCH, LEAST, GAP = 0.72, 0.3, 0.06  # inches: of a patch, of the smallest one, and between two
LEFT, HISTOGRAM, RIGHT = 0.75, 1.5, 0.2  # inches: of the number, of the histogram, and beside it
HEADING, BELOW, BETWEEN = 0.25, 0.27, 0.14  # inches: above the first row, below a patch, and between two rows
MARK, BARS, ZEROS = "#b2182b", "#35608d", "0.55"
APART = 25  # of all bars: the zeros' bar is as wide as this part of them at least, and as far from the others
TICKS = 0.22  # of the histogram's width: between two ticks at least, so that their labels do not touch
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
        label = f"{_short(value)}\n{shortened(each.classes[place], max(int(side / 0.045), 4))}".strip()
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


class Bars(NamedTuple):
    """Neighbouring bars of a histogram.

    Attributes:
        bins: numbers of the bins; see `spread.edges`.
        left: place of their left side.
        width: of one bar.
    """

    bins: range
    left: float
    width: float

    @property
    def right(self) -> float:
        """Place of their right side."""
        return self.left + len(self.bins) * self.width


def bars_of(counts: Ints) -> list[Bars]:
    """Return the bars that are drawn: of the values below zero, of the zeros, and of those above.

    On both sides of zero the bins go from the smallest to the largest with images, so that what lies between zero and
    the smallest takes no room. The bar of the zeros is wide enough to be seen beside many bins.

    Args:
        counts: int64 [BINS]; see `spread.edges`.

    >>> counts = np.zeros(2 * SIDE + 1, np.int64)
    >>> counts[[SIDE, SIDE + 40, SIDE + 42]] = 1
    >>> [(len(bars.bins), bars.left, bars.width) for bars in bars_of(counts)]
    [(1, 0.0, 1.0), (3, 2.0, 1.0)]
    """
    occupied = np.flatnonzero(counts)
    groups = [occupied[occupied < SIDE], occupied[occupied == SIDE], occupied[occupied > SIDE]]
    ranges = [range(int(group[0]), int(group[-1]) + 1) for group in groups if len(group)]
    apart = max(1.0, sum(map(len, ranges)) / APART)
    bars: list[Bars] = []
    for bins in ranges:
        left = bars[-1].right + apart if bars else 0.0
        bars.append(Bars(bins, left, apart if SIDE in bins else 1.0))
    return bars


def ticks_of(groups: list[Bars]) -> dict[float, str]:
    """Return the ticks of the bars, place -> label: below the zeros' bar, and at powers of two where bins begin.

    Where a group has fewer than two of these, the edges of its bins are taken.

    Args:
        groups: what `bars_of` returns.

    >>> ticks_of([Bars(range(SIDE, SIDE + 1), 0.0, 1.0), Bars(range(SIDE + 48, SIDE + 58), 2.0, 1.0)])
    {0.5: '0', 11.0: '4', 7.0: '2'}
    """
    ends = edges()
    ticks = {bars.left + bars.width / 2: "0" for bars in groups if SIDE in bars.bins}
    for bins, left, width in (bars for bars in groups[::-1] if SIDE not in bars.bins):
        values = {left + width * place: float(ends[bins.start + place]) for place in range(len(bins) + 1)}
        values = {place: value for place, value in values.items() if np.isfinite(value)}
        octaves = [place for place, value in values.items() if np.log2(abs(value)) % 1 == 0]
        for place in reversed(octaves if len(octaves) > 1 else list(values)):
            if all(abs(place - other) >= TICKS * groups[-1].right for other in ticks):
                ticks[place] = _short(values[place])
    return ticks


def _hundredths(value: float) -> str:
    """Return a number with two decimals, and none below zero that is printed as zero.

    >>> _hundredths(-0.001), _hundredths(-0.251)
    ('0.00', '-0.25')
    """
    return f"{round(value, 2) + 0.0:.2f}"


def _short(value: float) -> str:
    """Return a value with three digits, and without an exponent where it is of a usual size.

    >>> _short(2345.6), _short(0.01234), _short(3e6)
    ('2346', '0.0123', '3e+06')
    """
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value + 0.0:.3g}"

"""Where the bars of a filter's histogram stand, and the ticks below them: for figures and for pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deconvviz.studies.mining.spread import SIDE, edges
from deconvviz.types import Ints

APART = 25  # of all bars: the zeros' bar is as wide as this part of them at least, and as far from the others
TICKS = 0.22  # of the histogram's width: between two ticks at least, so that their labels do not touch


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
                ticks[place] = short(values[place])
    return ticks


def short(value: float) -> str:
    """Return a value with three digits, and without an exponent where it is of a usual size.

    >>> short(2345.6), short(0.01234), short(3e6)
    ('2346', '0.0123', '3e+06')
    """
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value + 0.0:.3g}"

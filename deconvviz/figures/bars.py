"""Horizontal bars with their intervals, one below the other: the rows of the figures that compare variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray


def rows_from_top(count: int) -> list[float]:
    """Return the heights of `count` rows, the first one at the top.

    >>> rows_from_top(3)
    [2.0, 1.0, 0.0]
    """
    return [float(place) for place in range(count - 1, -1, -1)]


def draw_interval(axes: Axes, estimate: Sequence[float] | NDArray[np.float64], row: float, colour: Any) -> None:
    """Draw an estimate as a pale bar from zero, with a dot at its end and whiskers over its interval.

    Args:
        axes: where to draw.
        estimate: (value, lower end, upper end), in the units of the horizontal axis; where the ends are NaN, the value
            is known and has no interval, and the bar stands alone.
        row: height of the row.
        colour: of dot and whiskers; the bar has a paler shade.
    """
    value, low, high = estimate
    axes.barh(row, value, 0.62, color=0.4 * np.asarray(to_rgb(colour)) + 0.6)
    if np.isnan(low):
        return
    whiskers = [[max(value - low, 0)], [max(high - value, 0)]]
    axes.errorbar(value, row, xerr=whiskers, fmt="o", color=colour, markersize=3, capsize=2, linewidth=1.1)


def label_values(axes: Axes, label: str) -> None:
    """Label the horizontal axis, with small ticks, a light grid and no frame above and to the right."""
    axes.set_xlabel(label, fontsize=7.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

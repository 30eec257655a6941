"""Statistics that several studies need: intervals of means and of paired differences, and correlations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Floats, Ints

NORMAL_95 = 1.959964  # the 97.5 % quantile of the normal distribution
# Filters whose answers correlate by this much or more repeat one another: 90 % of the variance of one is the other's.
# This package's choice, used wherever filters are called duplicates.
DUPLICATE = 0.95


def paired_interval(lost: Ints, gained: Ints, count: int) -> Floats:
    """Return the 95 % interval of the change of accuracy on the same images, (lost - gained) / count.

    One image that was lost and one that was gained are added to those seen. The interval then has a width, and
    covers, also where nothing changed; the plain 1.96 standard errors would say that nothing ever can.

    Args:
        lost: int64 [...], images that are right before a change only.
        gained: int64 [...], images that are right after it only.
        count: number of images.

    Returns:
        float64 [..., 2], the lower and the upper end, in fractions of the images.

    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, pages 479-488.

    >>> paired_interval(np.array(4), np.array(2), 100).round(3)
    array([-0.033,  0.072])
    """
    more, fewer, size = np.asarray(lost) + 1.0, np.asarray(gained) + 1.0, count + 2.0
    centre = (more - fewer) / size
    half = NORMAL_95 * np.sqrt(((more + fewer) / size - centre**2) / size)
    return np.stack([np.maximum(centre - half, -1), np.minimum(centre + half, 1)], -1)


def standard_error(values: NDArray[Any]) -> float:
    """Return the standard error of the mean of values [n]; NaN where there are fewer than two.

    >>> standard_error(np.array([1.0, 2.0, 3.0])).__round__(4)
    0.5774
    """
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def unit_columns(values: NDArray[Any], centred: bool = True) -> Floats:
    """Return the columns of values [n, C], less their means where `centred`, scaled to length 1.

    The product of two such columns is their Pearson correlation, or their cosine where they are not centred. A column
    without length (a constant one) becomes zeros.
    """
    columns = values - values.mean(0, dtype=np.float64) if centred else np.asarray(values, np.float64)
    lengths = np.linalg.norm(columns, axis=0)
    return np.asarray(np.divide(columns, lengths, out=np.zeros_like(columns, np.float64), where=lengths > 0))


def correlation(first: Any, second: Any, centred: bool = True) -> float:
    """Return the Pearson correlation of two arrays or tensors of one shape; 0 where either does not vary.

    With `centred=False` it is the cosine of the angle between them.

    >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    pair = np.stack([np.asarray(each, np.float64).ravel() for each in (first, second)], 1)
    one, other = unit_columns(pair, centred).T
    return float(np.clip(one @ other, -1, 1))

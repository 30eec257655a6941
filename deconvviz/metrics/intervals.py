"""Statistics that several studies need: the interval of a paired difference, standard errors, and correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Floats, Ints

NORMAL_95 = 1.959964  # the 97.5 % quantile of the normal distribution
# Filters whose responses correlate by this much or more are called duplicates: 90 % of the variance of one is explained
# by the other. This package's choice.
DUPLICATE = 0.95


def paired_interval(lost: Ints, gained: Ints, count: int) -> Floats:
    """Return the 95 % confidence interval of the loss of accuracy on the same images, (lost - gained) / count.

    One lost and one gained image are added to the counts. The interval then has a width, and covers the true value as
    often as it should, also where nothing changed; the plain 1.96 standard errors would be zero there.

    Args:
        lost: int64 [...], number of images that are classified correctly before a change only.
        gained: int64 [...], number of images that are classified correctly after the change only.
        count: number of images.

    Returns:
        float64 [..., 2], the lower and the upper end, in fractions of the images.

    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, pages 479-488.

    >>> paired_interval(np.array(4), np.array(2), 100).round(3)  # (5 - 3) / 102 +- 1.96 sqrt((8 / 102 - ...) / 102)
    array([-0.035,  0.074])
    """
    more, fewer, size = np.asarray(lost) + 1.0, np.asarray(gained) + 1.0, count + 2.0
    centre = (more - fewer) / size
    half = NORMAL_95 * np.sqrt(((more + fewer) / size - centre**2) / size)
    return np.stack([np.maximum(centre - half, -1), np.minimum(centre + half, 1)], -1)


def share_interval(hits: Ints, count: int) -> Floats:
    """Return the 95 % confidence interval of shares, hits / count; NaN where the count is 0.

    Args:
        hits: int64 [...].
        count: number of images.

    Returns:
        float64 [..., 2], the lower and the upper end.

    Source: Wilson 1927, Journal of the American Statistical Association 22, pages 209-212.

    >>> share_interval(np.array([0, 9]), 10).round(3)
    array([[0.   , 0.278],
           [0.596, 0.982]])
    """
    shares, size = np.asarray(hits) / (count or np.nan), count + NORMAL_95**2
    centre = (np.asarray(hits) + NORMAL_95**2 / 2) / size
    half = NORMAL_95 / size * np.sqrt(shares * (1 - shares) * count + NORMAL_95**2 / 4)
    return np.stack([np.maximum(centre - half, 0), np.minimum(centre + half, 1)], -1)


def difference_interval(hits: tuple[int, int], counts: tuple[int, int]) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares on different images, hits[0] / counts[0] less the other.

    Args:
        hits: of both.
        counts: of images, at least 1 each.

    Source: Newcombe 1998, Statistics in Medicine 17, pages 873-890, method 10 (from memory): the ends of Wilson's
    intervals of both shares are combined.

    >>> [round(end, 3) for end in difference_interval((56, 48), (70, 80))], difference_interval((1, 0), (1, 1))[0] < 0
    ([0.052, 0.334], True)
    """
    (first, (low, high)), (second, (other_low, other_high)) = (
        (hit / count, share_interval(np.array(hit), count).tolist()) for hit, count in zip(hits, counts, strict=True)
    )
    below, above = np.hypot(first - low, other_high - second), np.hypot(high - first, second - other_low)
    return float(first - second - below), float(first - second + above)


def area_under(curves: Floats, steps: Sequence[float]) -> Floats:
    """Return the area under curves by the trapezoid rule, divided by the length of the axis: a mean over the steps.

    Args:
        curves: float64 [..., S].
        steps: [S], rising; of a single one the value itself is returned.

    Returns:
        float64 [...].

    >>> area_under(np.array([[0.0, 0.5, 1.0]]), (1, 2, 3))
    array([0.5])
    """
    places = np.asarray(steps, np.float64)
    if len(places) == 1:
        return np.asarray(curves[..., 0])
    means = (curves[..., 1:] + curves[..., :-1]) / 2
    return np.asarray(means @ np.diff(places) / (places[-1] - places[0]))


def median_interval(values: NDArray[Any], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return the median of values [n] with its 95 % interval by the bootstrap: (median, lower end, upper end).

    The ends are NaN where there are fewer than two values, and so is the median where there is none.

    Source: Efron and Tibshirani 1993, chapter 13, the percentile interval.

    >>> median_interval(np.array([1.0, 2.0, 3.0]))
    (2.0, 1.0, 3.0)
    """
    if len(values) < 2:  # every draw would be the same value again
        return (float(values[0]) if len(values) else float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(np.median(np.asarray(values)[drawn], axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def mean_interval(values: NDArray[Any]) -> tuple[float, float, float]:
    """Return the mean of values [n] with its 95 % interval, 1.96 standard errors: (mean, lower end, upper end).

    The ends are NaN where there are fewer than two values, and so is the mean where there is none.

    >>> [round(each, 2) for each in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, 0.87, 3.13]
    """
    mean, half = float(np.mean(values)) if len(values) else float("nan"), NORMAL_95 * standard_error(values)
    return mean, mean - half, mean + half


def standard_error(values: NDArray[Any]) -> float:
    """Return the standard error of the mean of values [n]; it is NaN where there are fewer than two.

    >>> round(standard_error(np.array([1.0, 2.0, 3.0])), 4)
    0.5774
    """
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def unit_columns(values: NDArray[Any], centred: bool = True) -> Floats:
    """Return columns scaled to length 1: the product of two of them is their Pearson correlation.

    Args:
        values: [n, C].
        centred: whether the mean of each column is subtracted first; without it the product of two columns is the
            cosine of the angle between them.

    Returns:
        float64 [n, C]. A column without length (a constant one, where it is centred) becomes zeros.

    >>> unit_columns(np.array([[1.0, 5.0], [3.0, 5.0]])).round(3)
    array([[-0.707,  0.   ],
           [ 0.707,  0.   ]])
    """
    columns = values - values.mean(0, dtype=np.float64) if centred else np.asarray(values, np.float64)
    lengths = np.linalg.norm(columns, axis=0)
    return np.asarray(np.divide(columns, lengths, out=np.zeros_like(columns, np.float64), where=lengths > 0))


def correlations(samples: NDArray[Any]) -> Floats:
    """Return the correlations between the columns of samples [rows, m].

    Returns:
        float64 [m, m], zeros on the diagonal and for columns that do not vary.
    """
    columns = unit_columns(samples)
    products = np.asarray(columns.T @ columns, np.float64)
    np.fill_diagonal(products, 0)
    return products


def correlation(first: Any, second: Any, centred: bool = True) -> float:
    """Return the Pearson correlation of two arrays or tensors of one shape; 0 where either is constant.

    Args:
        first: numbers of any shape.
        second: as many numbers.
        centred: False returns the cosine of the angle between the two instead; it is 0 where either is zero.

    >>> round(correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 3)
    0.5
    """
    columns = np.stack([np.asarray(numbers, np.float64).ravel() for numbers in (first, second)], 1)
    unit = unit_columns(columns, centred)
    return float(np.clip(unit[:, 0] @ unit[:, 1], -1, 1))

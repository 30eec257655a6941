"""Which filter of one network is which of another: one to one, by how alike they respond to the same images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from deconvviz.types import Floats, Ints, Mask

TIE = 1e-9  # what a filter's own number is worth: of equal correlations it wins
CONSTANT = 1e-12  # of the mean square: a variance below it is rounding


class Moments(NamedTuple):
    """Sums over the responses of two networks' filters at the same places of the same images.

    Attributes:
        places: how many there are, over all images.
        totals: float64 [2, C], sums of the responses, before and after.
        squares: float64 [2, C], sums of their squares.
        products: float64 [C, C], sums of the products of each filter before with each filter after.
    """

    places: int
    totals: Floats
    squares: Floats
    products: Floats

    @property
    def alive(self) -> Mask:
        """bool [2, C], whether a filter's response varies at all."""
        mean = self.totals / max(self.places, 1)
        mean_squares = self.squares / max(self.places, 1)
        return np.asarray(mean_squares - mean**2 > CONSTANT * mean_squares)

    @property
    def correlations(self) -> Floats:
        """float64 [C, C], the Pearson correlation of each filter before with each filter after.

        Those of a filter that never varies are 0.
        """
        count, alive = max(self.places, 1), self.alive
        mean = self.totals / count
        deviations = np.sqrt(np.where(alive, self.squares / count - mean**2, 1))
        covariances = self.products / count - mean[0][:, None] * mean[1]
        correlations = covariances / (deviations[0][:, None] * deviations[1])
        return np.clip(np.where(alive[0][:, None] & alive[1], correlations, 0), -1, 1)


class Matching(NamedTuple):
    """The filters of one layer of two networks, matched one to one.

    Attributes:
        partner: int64 [C], for each filter before the filter after that it is matched with.
        correlation: float64 [C], that of both.
        same: float64 [C], the correlation of each filter before with the filter after of the same number.
        best_before: float64 [C], for each filter before its largest correlation with any filter after.
        best_after: float64 [C], for each filter after its largest correlation with any filter before.
    """

    partner: Ints
    correlation: Floats
    same: Floats
    best_before: Floats
    best_after: Floats


def match(correlations: Floats) -> Matching:
    """Match filters one to one so that the sum of the correlations of the pairs is as large as can be.

    Of several such matchings, that is taken in which more filters keep their number: dead filters, which correlate with
    none, therefore keep theirs where they can.

    Args:
        correlations: float64 [C, C], of each filter before with each filter after.

    Source: Li, Yosinski, Clune, Lipson and Hopcroft 2016, arXiv 1511.07543, "Convergent learning", sections 2 and 3
    (from memory): one-to-one matching by correlations over images and places. The assignment is that of Kuhn 1955.

    >>> match(np.array([[0.1, 0.9], [0.8, 0.2]])).partner
    array([1, 0])
    >>> match(np.zeros((3, 3))).partner
    array([0, 1, 2])
    """
    count = len(correlations)
    _, partner = linear_sum_assignment(correlations + TIE * np.eye(count), maximize=True)
    rows = np.arange(count)
    return Matching(
        partner=np.asarray(partner, np.int64),
        correlation=correlations[rows, partner],
        same=correlations[rows, rows].copy(),
        best_before=correlations.max(1, initial=-1),
        best_after=correlations.max(0, initial=-1),
    )


def sharpness(maxima: Floats) -> Floats:
    """Return how sharply each filter chooses among images: the Gini index of its largest responses.

    Args:
        maxima: [N, C], the largest response of each filter to each image; what is below zero counts as zero.

    Returns:
        float64 [C], 0 for a filter that responds to all images alike (or to none), 1 - 1 / N for one that responds to a
        single one.

    Source: Hurley and Rickard 2009 for the index; to take it over images is our choice.

    >>> sharpness(np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]])).tolist()
    [0.0, 0.5, 0.0]
    """
    values = np.sort(np.maximum(np.asarray(maxima, np.float64), 0), 0)
    count, total = len(values), values.sum(0)
    weights = 2 * np.arange(1, count + 1) - count - 1
    return np.asarray((weights @ values) / np.where(total > 0, count * total, 1))


def sharpness_error(before: Floats, after: Floats) -> Floats:
    """Return the standard error of the difference of the sharpness of two filters, over the images that were chosen.

    With d the difference of the Gini indices, and d_i that without image i, it is the jackknife's
    sqrt((N - 1) / N sum_i (d_i - mean d_i)^2).

    Args:
        before: [N, C], the largest response of each filter to each image; what is below zero counts as zero.
        after: [N, C], the same of the filters that they are compared with, on the same images.

    Returns:
        float64 [C]; NaN where there are fewer than three images: the Gini index of the one that is left is 0 always.

    Source: Efron and Stein 1981, "The jackknife estimate of variance", Annals of Statistics 9 (from memory).

    >>> rising, even = np.array([[1.0], [2.0], [3.0]]), np.ones((3, 1))
    >>> bool(sharpness_error(rising, even) > 0), sharpness_error(rising, 2 * rising).item()
    (True, 0.0)
    """
    count = len(before)
    if count < 3:
        return np.full(before.shape[1], np.nan)
    differences = _sharpness_without_each(after) - _sharpness_without_each(before)
    return np.asarray(np.sqrt((count - 1) * differences.var(0)))


def _sharpness_without_each(maxima: Floats) -> Floats:
    """Return the Gini index of each filter [C] without each of the images [N], float64 [N, C].

    It takes one sort: leaving the image of rank r out moves the weights 2 i - N - 1 of all lower ranks up by 1, and of
    all higher ones down by 1.
    """
    values = np.maximum(np.asarray(maxima, np.float64), 0)
    order = values.argsort(0, kind="stable")
    ranked = np.take_along_axis(values, order, 0)
    count, total = len(ranked), ranked.sum(0)
    weights = (2 * np.arange(1, count + 1) - count - 1)[:, None]
    up_to = ranked.cumsum(0)
    weighed = (weights * ranked).sum(0) - weights * ranked + (up_to - ranked) - (total - up_to)
    rest = (count - 1) * (total - ranked)
    without = np.empty_like(ranked)
    np.put_along_axis(without, order, np.where(rest > 0, weighed / np.where(rest > 0, rest, 1), 0), 0)
    return without

"""The statistics of a correspondence: Hamming distances of signs, and a permutation test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Floats, Ints

CHANCE = 0.5  # what independent signs give: the distance of a pair of images without a dimension left to compare
AT_ONCE = 1000  # permutations whose scores are computed together


def hamming(signs: NDArray[np.int8], sign_zero: str = "three-valued", normalisation: str = "mean") -> Floats:
    """Return the Hamming distance of each pair of sign vectors.

    Args:
        signs: int8 [..., D] of -1, 0 and 1.
        sign_zero: "three-valued", "drop" or "positive", see `CorrespondenceOptions`.
        normalisation: "mean" takes the share of the dimensions, "sum" counts them.

    Returns:
        float64 [..., ...]: the axes before the last one, twice.

    >>> hamming(np.array([[1, -1, 0, 1], [1, 1, 0, 1]], np.int8))
    array([[0.  , 0.25],
           [0.25, 0.  ]])
    """
    vectors = signs.reshape(-1, signs.shape[-1])
    up, unchanged, down = (vectors == value for value in (1, 0, -1))
    values = {"three-valued": (up, unchanged, down), "drop": (up, down), "positive": (up | unchanged, down)}[sign_zero]
    # Products of zeros and ones count dimensions, exactly below 2 ** 24 of them.
    alike = sum(_common(value) for value in values)
    compared = _common(np.any(values, 0))
    differing = compared - alike
    if normalisation == "mean":
        differing = np.where(compared > 0, differing / np.maximum(compared, 1), CHANCE)
    return np.asarray(differing, np.float64).reshape(*signs.shape[:-1], *signs.shape[:-1])


def permutation_test(tables: Floats, permutations: int, rng: np.random.Generator) -> float:
    """Return how probable a score as low as the part's is if the part is a place like any other; one-sided.

    Under that hypothesis each image's part and random masks are exchangeable: a permutation picks, in each image of
    each set independently, one of the 1 + R masks as the part. p = (1 + hits) / (1 + permutations), where a hit is a
    score that is not above the observed one.

    Args:
        tables: float64 [S, n, 1 + R, n, 1 + R], the distances between images i, j under their masks a, b; mask 0 is the
            part's.
        permutations: how many are drawn.
        rng: that draws them.

    >>> always_equal = np.ones((1, 3, 2, 3, 2))
    >>> permutation_test(always_equal, 50, np.random.default_rng(0))
    1.0
    """
    observed = _mean_distances(tables, np.zeros((1, *tables.shape[:2]), np.int64))[0]
    hits = 0
    for start in range(0, permutations, AT_ONCE):
        size = (min(AT_ONCE, permutations - start), *tables.shape[:2])
        scores = _mean_distances(tables, rng.integers(0, tables.shape[2], size))
        hits += int((scores <= observed * (1 + 1e-9)).sum())  # sums in another order are equal too
    return (1 + hits) / (1 + permutations)


def _mean_distances(tables: Floats, masks: Ints) -> Floats:
    """Return the mean distance over the pairs of all sets under the masks that were picked, [P, S, n] -> [P]."""
    sets, (first, second) = np.arange(len(tables))[:, None], np.triu_indices(tables.shape[1], 1)
    return np.asarray(tables[sets, first, masks[..., first], second, masks[..., second]].mean((1, 2)))


def _common(marked: NDArray[np.bool_]) -> Floats:
    """Count the dimensions that are marked in both rows of each pair, bool [R, D] -> [R, R]."""
    values = marked.astype(np.float32)
    return np.asarray(values @ values.T, np.float64)

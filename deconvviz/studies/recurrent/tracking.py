"""How well each unit tracks a property of the steps, against the same property out of step with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.types import Floats, Ints

AT_ONCE = 16  # rotated properties that are compared in one product


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """How well the units of a layer track a property.

    Attributes:
        correlation: float64 [H], Pearson's, of each unit's activity with the property, in -1..1; 0 for a unit that does
            not vary.
        p: float64 [H], the share of rotated properties with which some unit of the layer correlates as much as this one
            does with the property itself.
        chance: the 95 % quantile of the largest absolute correlation of any unit with a rotated property.

    >>> Tracked(correlation=np.array([0.1, -0.9]), p=np.array([0.7, 0.01]), chance=0.3).order.tolist()
    [1, 0]
    """

    correlation: Floats
    p: Floats
    chance: float

    @property
    def order(self) -> Ints:
        """int64 [H], the units by the absolute correlation, the largest first."""
        return np.argsort(-np.abs(self.correlation), kind="stable").astype(np.int64)


def tracked(
    activity: NDArray[np.floating[Any]], values: Floats, lengths: Ints, *, permutations: int = 200, seed: int = 0
) -> Tracked:
    """Rank the units of a layer by their correlation with a property.

    A permutation rotates the property within each sequence by a number of steps of its own. What the property is like,
    how long it stays and how often it changes, stays as it is; that it belongs to these steps is lost. To permute
    single steps would make chance look smaller than it is, for states change slowly. The largest correlation of any
    unit is compared, so that among many units none tracks something by chance alone.

    Args:
        activity: [N, H].
        values: float64 [N], the property.
        lengths: int64 [sequences], steps of each.
        permutations: how many; the smallest p is 1 / (permutations + 1).
        seed: of the rotations.

    Raises:
        DataError: the property does not vary.

    Source: the properties are those of Karpathy, Johnson and Fei-Fei 2015; correlation and null are our choice. The
    largest statistic is the way of Westfall and Young 1993.

    >>> depth = np.tile([0.0, 1.0, 2.0, 1.0, 0.0, 0.0], 20)
    >>> noise = np.random.default_rng(0).normal(size=120)
    >>> found = tracked(np.stack([noise, depth], 1), depth, np.full(20, 6))
    >>> found.order[0].item(), found.correlation[1].round(3).item(), bool(found.p[1] < 0.01 < found.p[0])
    (1, 1.0, True)
    """
    if np.ptp(values) == 0:
        raise DataError("the property is the same at every step; nothing tracks it")
    scaled = _standard(np.asarray(activity, np.float64)) / len(values)
    wanted = _standard(values)
    own = np.abs(correlation := wanted @ scaled)
    rng, starts = np.random.default_rng(seed), np.cumsum(lengths) - lengths
    sequence_of = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(values)) - starts[sequence_of]
    largest = list[float]()
    while len(largest) < permutations:  # some at once, so that the activities are read from memory once for them
        rotated = np.empty((min(AT_ONCE, permutations - len(largest)), len(values)))
        for row in rotated:
            by = rng.integers(0, lengths)[sequence_of]
            row[:] = wanted[starts[sequence_of] + (places + by) % lengths[sequence_of]]
        largest += np.abs(rotated @ scaled).max(1).tolist()
    # A correlation that equals one by chance up to rounding is no larger than it.
    p = ((np.array(largest)[:, None] >= own - 1e-12).sum(0) + 1) / (permutations + 1)
    return Tracked(correlation=np.clip(correlation, -1, 1), p=p, chance=float(np.quantile(largest, 0.95)))


def _standard(values: Floats) -> Floats:
    """Return values with mean 0 and deviation 1 over the steps; zeros where they do not vary."""
    centred = values - values.mean(0)
    deviation = values.std(0)
    small = deviation <= 1e-12 * np.maximum(np.abs(values).max(0), 1e-300)
    return np.asarray(np.where(small, 0.0, centred / np.where(small, 1.0, deviation)))

"""Which filters of a layer are alike: the correlation of their maxima over many images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.metrics.intervals import DUPLICATE, unit_columns
from deconvviz.types import Floats, Ints

FIRED = 10  # images in which both filters must have fired to be called duplicates: fewer agree by chance
AT_ONCE = 512  # filters whose correlations with all others are in memory together
DEFINITION = "Pearson correlation of the maxima of the filters' maps over the images"


class Similar(NamedTuple):
    """Which filters are similar to each of F filters.

    Attributes:
        neighbours: int64 [F, n], the channels that are most similar to it, -1 where there are fewer.
        similarity: float32 [F, n], their correlation with it, -1 to 1; 0 where there are fewer.
        duplicate_of: int64 [F], a lower channel that it repeats, or -1.
    """

    neighbours: Ints
    similarity: NDArray[np.float32]
    duplicate_of: Ints


def similar_filters(maxima: NDArray[np.float32], channels: Ints, count: int = 6) -> Similar:
    """Return the filters that are most similar to each one, among those chosen.

    Similarity is the Pearson correlation of two filters' maxima over the images. A filter whose maximum is the same in
    all images (a dead one) has no correlation, and so no neighbours. A filter is a duplicate of a lower channel if they
    correlate by DUPLICATE or more, and each of them fired (lay above its minimum) in at least FIRED images.

    Args:
        maxima: float32 [N, C], the maximum of each filter's map in each image.
        channels: int64 [F], the filters to compare.
        count: neighbours of each filter, or all others where there are fewer.

    Source: our choice, with its thresholds.

    >>> maxima = np.array([[3.0, 0.0, 6.1], [2.0, 5.0, 4.0], [1.0, 1.0, 2.0]], np.float32)
    >>> similar = similar_filters(maxima, np.arange(3), count=1)
    >>> similar.neighbours.ravel(), similar.similarity.ravel().round(2)
    (array([2, 0, 0]), array([ 1.  , -0.19,  1.  ], dtype=float32))
    """
    neighbour_count = max(min(count, len(channels) - 1), 0)
    values = maxima[:, channels].astype(np.float64)
    images_fired = (values > values.min(0)).sum(0)
    compared = _Compared(unit_columns(values).astype(np.float32), images_fired, channels)
    parts = [compared.similar(start, neighbour_count) for start in range(0, len(channels), AT_ONCE)]
    return Similar(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class _Compared(NamedTuple):
    """The filters that are compared.

    Attributes:
        unit: float32 [N, F], each filter's maxima less their mean, of length 1.
        images_fired: int64 [F], in how many images the maximum lies above its minimum.
        channels: int64 [F].
    """

    unit: NDArray[np.float32]
    images_fired: Ints
    channels: Ints

    def similar(self, start: int, count: int) -> Similar:
        """Compare AT_ONCE filters, from `start` on, with all."""
        rows = np.arange(start, min(start + AT_ONCE, len(self.channels)))
        correlations = self.unit[:, rows].T @ self.unit
        correlations[:, self.images_fired == 0] = -np.inf
        correlations[self.images_fired[rows] == 0] = -np.inf
        correlations[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-correlations, axis=1, kind="stable")[:, :count]
        similarity = np.take_along_axis(correlations, nearest, 1)
        absent = np.isneginf(similarity)
        return Similar(
            np.where(absent, -1, self.channels[nearest]),
            np.where(absent, 0, similarity),
            self._duplicates(rows, correlations),
        )

    def _duplicates(self, rows: Ints, correlations: Floats | NDArray[np.float32]) -> Ints:
        """Return for each row the lower channel that it correlates with most, where it is a duplicate; else -1."""
        often = self.images_fired >= FIRED
        lower = (self.channels[None, :] < self.channels[rows, None]) & often[None, :] & often[rows, None]
        candidates = np.where(lower, correlations, -np.inf)
        best = candidates.argmax(1)
        repeats = candidates[np.arange(len(rows)), best] >= DUPLICATE
        return np.asarray(np.where(repeats, self.channels[best], -1), np.int64)

"""Which filters of a layer are alike: the correlation of their maxima over many images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DUPLICATE = 0.95  # a correlation from which on a filter is called a duplicate; this package's choice
FIRED = 10  # images in which both must have fired for that: fewer agree by chance
AT_ONCE = 512  # filters whose correlations with all others are in memory together
WORDS = "Pearson correlation of the maxima of the filters' maps over the images"


class Similar(NamedTuple):
    """For each of F filters: `neighbours` int64 [F, n], the channels most similar to it, -1 where there are fewer;
    `similarity` float32 [F, n], 0 there; `duplicate_of` int64 [F], a lower channel that it repeats, or -1."""

    neighbours: NDArray[np.int64]
    similarity: NDArray[np.float32]
    duplicate_of: NDArray[np.int64]


def similar_filters(maxima: NDArray[np.float32], channels: NDArray[np.int64], count: int = 6) -> Similar:
    """Return the filters most similar to each one, among those chosen.

    Similarity is the Pearson correlation of two filters' maxima over the images: -1 to 1, whatever their scale. A
    filter that is the same for all images (a dead one) has no correlation, hence no neighbours. A duplicate correlates
    by DUPLICATE or more with a lower channel, where both fired (lay above their minimum) in FIRED images at least.

    Args:
        maxima: [N, C], the maximum of each filter's map in each image.
        channels: int64 [F], those to compare.
        count: neighbours of each, or fewer where there are not so many others.
    """
    n = max(min(count, len(channels) - 1), 0)
    values = maxima[:, channels].astype(np.float64)
    fired = (values > values.min(0)).sum(0)
    centred = values - values.mean(0)
    length = np.sqrt((centred**2).sum(0))
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=fired > 0).astype(np.float32)
    parts = [_rows(unit, fired, channels, start, n) for start in range(0, len(channels), AT_ONCE)]
    return Similar(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _rows(
    unit: NDArray[np.float32], fired: NDArray[np.int64], channels: NDArray[np.int64], start: int, n: int
) -> Similar:
    """Compare the filters from `start` on, AT_ONCE of them, with all."""
    rows = np.arange(start, min(start + AT_ONCE, len(channels)))
    found = unit[:, rows].T @ unit
    found[:, fired == 0] = -np.inf
    found[fired[rows] == 0] = -np.inf
    found[np.arange(len(rows)), rows] = -np.inf
    nearest = np.argsort(-found, axis=1, kind="stable")[:, :n]
    similarity = np.take_along_axis(found, nearest, 1)
    none = np.isneginf(similarity)
    often = fired >= FIRED
    lower = (channels[None, :] < channels[rows, None]) & often[None, :] & often[rows, None]
    candidates = np.where(lower, found, -np.inf)
    best = candidates.argmax(1)
    repeats = candidates[np.arange(len(rows)), best] >= DUPLICATE
    return Similar(
        np.where(none, -1, channels[nearest]), np.where(none, 0, similarity), np.where(repeats, channels[best], -1)
    )

"""How well scores rank what has a label above what has not: average precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deconvviz.errors import DataError
from deconvviz.types import Floats, Ints, Mask

DRAWS, AT_ONCE = 1000, 100  # of the bootstrap; that many are in memory together


def average_precision(truth: Mask, scores: Floats) -> Floats:
    """Return the average precision of each label: the sum over thresholds of (recall - recall before) * precision.

    Thresholds are the scores themselves, from the highest one; images of equal scores come together. Nothing is
    interpolated, as in scikit-learn's `average_precision_score`.

    Args:
        truth: bool [N, labels], whether an image has a label.
        scores: float [N, labels], the higher, the likelier.

    Returns:
        float64 [labels], in 0..1; NaN for a label that no image has, whose recall is not defined.

    Raises:
        DataError: the shapes differ or are not two-dimensional, or a score is not finite.

    Source: the definition in the documentation of scikit-learn, without the eleven points of PASCAL VOC 2007.

    >>> truth = np.array([[True], [False], [True], [False]])
    >>> average_precision(truth, np.array([[0.9], [0.8], [0.3], [0.1]])).round(4)  # 1/2 * 1 + 1/2 * 2/3
    array([0.8333])
    """
    truth, scores = np.asarray(truth, bool), np.asarray(scores, np.float64)
    return np.asarray(weighted_average_precision(truth, scores, np.ones((len(scores), 1)))[0])


def weighted_average_precision(truth: Mask, scores: Floats, weights: Floats) -> Floats:
    """Return the average precision of each label where each image counts as often as its weight says.

    Args:
        truth: bool [N, labels], whether an image has a label.
        scores: float64 [N, labels], the higher, the likelier.
        weights: float64 [N, draws], 0 or more; such as how often a draw of the bootstrap has each image.

    Returns:
        float64 [draws, labels], in 0..1; NaN for a label that no image of a weight above 0 has.

    Raises:
        DataError: the shapes differ or are not two-dimensional, or a score is not finite.

    >>> twice = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    >>> truth = np.array([[True], [False], [True], [False]])
    >>> weighted_average_precision(truth, np.array([[0.9], [0.8], [0.3], [0.1]]), twice).round(4).tolist()
    [[0.8333], [0.3333]]
    """
    if truth.shape != scores.shape or truth.ndim != 2 or not np.isfinite(scores).all():
        raise DataError(
            f"labels {list(truth.shape)} and scores {list(scores.shape)} given; expected two tables [images, labels] "
            "of one size, with finite scores"
        )
    columns = [_of_one(truth[:, label], scores[:, label], weights) for label in range(truth.shape[1])]
    return np.stack(columns, 1) if columns else np.zeros((weights.shape[1], 0))


def resampled_average_precision(
    truth: Mask, tables: Sequence[Floats], draws: int = DRAWS, seed: int = 0
) -> Iterator[Floats]:
    """Yield the average precisions of several scores of the same images, in draws of these images with replacement.

    A draw has the same images for all scores, so that differences between them are paired. Draws are made a hundred at
    a time by numpy's generator with this seed: seed, number of images and number of draws give the same draws again.

    Args:
        truth: bool [N, labels], whether an image has a label.
        tables: float64 [N, labels] each, the scores.
        draws: how many.
        seed: of the draws.

    Yields:
        float64 [tables, n, labels], the next n draws; NaN for a label that no image of the draw has.

    Raises:
        DataError: as for `average_precision`; or a number of draws below 1.

    Source: Efron and Tibshirani 1993, chapter 6, whose units are here the images.

    >>> truth, scores = np.array([[True], [False]]), np.array([[0.9], [0.8]])
    >>> [block.shape for block in resampled_average_precision(truth, [scores, -scores], draws=150)]
    [(2, 100, 1), (2, 50, 1)]
    """
    if draws < 1:
        raise DataError(f"{draws} draws given; expected at least 1")
    rng, count = np.random.default_rng(seed), len(truth)
    for first in range(0, draws, AT_ONCE):
        often = rng.multinomial(count, np.full(count, 1 / count), min(AT_ONCE, draws - first))
        weights = np.ascontiguousarray(often.T, np.float64)
        yield np.stack([weighted_average_precision(truth, scores, weights) for scores in tables])


def _of_one(truth: Mask, scores: Floats, weights: Floats) -> Floats:
    """Return the average precision of one label, [draws]; truth and scores [N], weights [N, draws]."""
    order = np.argsort(-scores, kind="stable")
    ranked, has = scores[order], truth[order]
    if not has.any():
        return np.full(weights.shape[1], np.nan)
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) + 1  # of the images of one score
    before: Ints = np.cumsum(has, dtype=np.int64)[ends - 1]
    rising = np.diff(before, prepend=0) > 0  # recall stays where no image of a score has the label
    ends, before = ends[rising], before[rising]
    seen = _sums(weights[order[: ends[-1]]], ends)
    hits = _sums(weights[order[has]], before)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    total = np.where(hits[-1] > 0, hits[-1], np.nan)
    return np.asarray((np.diff(hits, axis=0, prepend=0.0) * precision).sum(0) / total)


def _sums(rows: Floats, ends: Ints) -> Floats:
    """Return the sum of the rows before each end, [ends, draws]; the last end is that of the rows."""
    return np.asarray(np.cumsum(np.add.reduceat(rows, np.concatenate([[0], ends[:-1]]), axis=0), 0))

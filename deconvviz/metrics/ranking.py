"""How well scores rank what has a label above what has not: average precision."""

from __future__ import annotations

import numpy as np

from deconvviz.errors import DataError
from deconvviz.types import Floats, Mask


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
    if truth.shape != scores.shape or truth.ndim != 2 or not np.isfinite(scores).all():
        raise DataError(
            f"labels {list(truth.shape)} and scores {list(scores.shape)} given; expected two tables [images, labels] "
            "of one size, with finite scores"
        )
    return np.array([_of_one(truth[:, label], scores[:, label]) for label in range(truth.shape[1])])


def _of_one(truth: Mask, scores: Floats) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.zeros(0, int)
    if not len(hits) or not hits[-1]:
        return float("nan")
    recall, precision = hits[last] / hits[-1], hits[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))

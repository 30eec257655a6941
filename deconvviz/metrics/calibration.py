"""Calibration: whether a network is right as often as its confidence says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deconvviz.errors import DataError
from deconvviz.types import Floats, Ints, Mask

BINS = 15  # Guo et al. 2017
DRAWS, AT_ONCE = 1000, 100  # of the bootstrap; that many are in memory together


class Estimate(NamedTuple):
    """A number that was measured on some images, with its 95 % interval.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often a network is right at each degree of confidence. There are B bins of equal width.

    Attributes:
        edges: float64 [B + 1], from 0 to 1; a bin holds the confidences above its lower edge, up to its upper one.
        count: int64 [B], images in each bin.
        accuracy: float64 [B], the share of them that is classified correctly; NaN where there are none.
        confidence: float64 [B], the mean of their confidences; NaN where there are none.
    """

    edges: Floats
    count: Ints
    accuracy: Floats
    confidence: Floats

    @property
    def error(self) -> float:
        """The expected calibration error, in 0..1: the mean over the images of their bin's |accuracy - confidence|.

        Source: Guo et al. 2017, arXiv 1706.04599, equation 3 (from memory). It grows with the number of bins and
        shrinks with the number of images: compare networks on the same images and with the same bins.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.count * np.nan_to_num(gaps)) / max(int(self.count.sum()), 1))

    @property
    def overconfidence(self) -> float:
        """The mean confidence less the accuracy, in -1..1: above 0 the network is more confident than it is right."""
        total = max(int(self.count.sum()), 1)
        return float(np.nansum(self.count * np.nan_to_num(self.confidence - self.accuracy)) / total)


def reliability(confidence: Floats, correct: Mask, bins: int = BINS) -> Reliability:
    """Sort images by the confidence of a network, and compare it with how often the network is right.

    Args:
        confidence: float64 [N], the probability of the class that the network names, in 0..1.
        correct: bool [N], whether it is the class of the image.
        bins: how many there are.

    Raises:
        DataError: arrays of different lengths, no bin, or a confidence outside of 0..1.

    Source: Guo et al. 2017, arXiv 1706.04599, section 2 (from memory).

    >>> result = reliability(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]), bins=2)
    >>> result.count, result.accuracy, round(result.error, 2)  # 0.75 against a mean confidence of 0.75
    (array([0, 4]), array([ nan, 0.75]), 0.0)
    """
    place, edges = _placed(confidence, correct, bins)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, values, bins) / count for values in (correct.astype(float), confidence)]
    return Reliability(edges=edges, count=count, accuracy=means[0], confidence=means[1])


def calibration_change(
    before: tuple[Floats, Mask], after: tuple[Floats, Mask], bins: int = BINS, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Return by how much the expected calibration error of a network rose, with its 95 % interval over the images.

    Args:
        before: confidence float64 [N] and correctness bool [N] of the network before a change.
        after: the same of the network after it, on the same images.
        bins: as for `reliability`.
        draws: of the bootstrap: images are drawn with replacement, the same ones for both networks.
        seed: of the draws.

    Returns:
        The error after the change less the error before it; the interval is that of the percentiles, and NaN where
        there is a single image.

    Raises:
        DataError: as for `reliability`, or arrays of different numbers of images.

    Source: our choice, after Efron and Tibshirani 1993, chapter 13.

    >>> same = np.array([0.9, 0.8]), np.array([True, False])
    >>> calibration_change(same, same)
    Estimate(value=0.0, low=0.0, high=0.0)
    """
    if len(before[0]) != len(after[0]):
        raise DataError(f"{len(before[0])} images before and {len(after[0])} after; expected the same images")
    gaps = [_gaps(*each, bins) for each in (before, after)]
    value = _errors(np.ones((1, len(before[0]))), gaps[1])[0] - _errors(np.ones((1, len(before[0]))), gaps[0])[0]
    if len(before[0]) == 1:  # every draw would be that image again
        return Estimate(float(value), np.nan, np.nan)
    rng, count, changes = np.random.default_rng(seed), len(before[0]), []
    for first in range(0, draws, AT_ONCE):
        weights = rng.multinomial(count, np.full(count, 1 / count), min(AT_ONCE, draws - first)).astype(np.float64)
        changes.append(_errors(weights, gaps[1]) - _errors(weights, gaps[0]))
    low, high = np.percentile(np.concatenate(changes), [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def _gaps(confidence: Floats, correct: Mask, bins: int) -> Floats:
    """Return float64 [N, bins]: in the bin of each image whether it is right less its confidence, else 0."""
    place, _ = _placed(confidence, correct, bins)
    gaps = np.zeros((len(confidence), bins))
    gaps[np.arange(len(confidence)), place] = correct - confidence
    return gaps


def _errors(weights: Floats, gaps: Floats) -> Floats:
    """Return the calibration error of each row of weights [draws, N] of the images: sum_b |sum_{i in b} gap_i| / N."""
    return np.asarray(np.abs(weights @ gaps).sum(1) / len(gaps))


def _placed(confidence: Floats, correct: Mask, bins: int) -> tuple[Ints, Floats]:
    """Return the bin of each image, int64 [N], and the edges of the bins, float64 [bins + 1]."""
    if bins < 1 or len(confidence) != len(correct) or not len(confidence):
        raise DataError(
            f"{len(confidence)} confidences, {len(correct)} decisions and {bins} bins given; expected as many "
            "confidences as decisions, one or more, and at least 1 bin"
        )
    if not (confidence >= 0).all() or not (confidence <= 1).all():
        raise DataError("a confidence outside of 0..1 given; expected probabilities")
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, "left") - 1, 0, bins - 1), edges

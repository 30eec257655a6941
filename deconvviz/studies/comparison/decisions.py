"""What two networks decide about the same images: accuracy, agreement, calibration, each with its paired interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deconvviz.metrics.calibration import Estimate, Reliability, calibration_change, reliability
from deconvviz.metrics.intervals import mean_interval, paired_interval
from deconvviz.types import Floats, Ints, Mask

UNCHANGED = Estimate(0.0, 0.0, 0.0)  # of a network and itself: no other images would give another number
UNKNOWN = Estimate(np.nan, np.nan, np.nan)  # of images of unknown class


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What both networks decide about N images; the first row of two is of the network before the change.

    Attributes:
        images: int64 [N], the images, by their indices.
        targets: int64 [N], the output that stands for the class of each image, -1 where it is unknown.
        predicted: int64 [2, N], the class that each network names.
        confidence: float64 [2, N], the probability that it gives that class.
        loss: float64 [2, N], the log-loss of the image's class in nats; NaN where that is unknown.
        identical: whether both networks are one and the same: differences are then exactly 0.

    >>> confidence = np.array([[0.9, 0.6, 0.7], [0.8, 0.9, 0.7]])
    >>> decisions = Decisions(
    ...     images=np.arange(3), targets=np.array([0, 1, 1]), predicted=np.array([[0, 0, 1], [0, 1, 1]]),
    ...     confidence=confidence, loss=np.zeros((2, 3)), identical=False,
    ... )
    >>> decisions.gained.tolist(), round(decisions.accuracy[0], 2), round(decisions.difference.value, 2)
    ([1], 0.67, 0.33)
    """

    images: Ints
    targets: Ints
    predicted: Ints
    confidence: Floats
    loss: Floats
    identical: bool

    @property
    def labelled(self) -> Mask:
        """bool [N], whether the class of the image is known and stands for an output."""
        return np.asarray(self.targets >= 0)

    @property
    def correct(self) -> Mask:
        """bool [2, N], whether each network classifies the image correctly; false where its class is unknown."""
        return np.asarray((self.predicted == self.targets) & self.labelled)

    @property
    def lost(self) -> Ints:
        """int64, places of the images that only the network before classifies correctly."""
        return np.flatnonzero(self.correct[0] & ~self.correct[1])

    @property
    def gained(self) -> Ints:
        """int64, places of the images that only the network after classifies correctly."""
        return np.flatnonzero(~self.correct[0] & self.correct[1])

    @property
    def agreement(self) -> float:
        """Share of all images of which both networks name the same class."""
        return float((self.predicted[0] == self.predicted[1]).mean())

    @property
    def accuracy(self) -> tuple[float, float]:
        """Share of the images of known class that each network classifies correctly; NaN where there are none."""
        count = int(self.labelled.sum())
        before, after = (float(each.sum() / count) if count else float("nan") for each in self.correct)
        return before, after

    @property
    def difference(self) -> Estimate:
        """The accuracy after less that before, with the paired interval of Bonett and Price 2012."""
        count = int(self.labelled.sum())
        if self.identical:
            return UNCHANGED
        if not count:
            return UNKNOWN
        lost, gained = len(self.lost), len(self.gained)
        low, high = paired_interval(np.array(gained), np.array(lost), count).tolist()
        return Estimate((gained - lost) / count, low, high)

    @property
    def loss_change(self) -> Estimate:
        """The mean log-loss after less that before, in nats: 1.96 standard errors of the paired differences.

        A single image has a change, and an interval of NaN.
        """
        if self.identical:
            return UNCHANGED
        return Estimate(*mean_interval((self.loss[1] - self.loss[0])[self.labelled]))

    @property
    def reliability(self) -> tuple[Reliability, Reliability]:
        """How often each network is right at each degree of confidence, over the images of known class."""
        before, after = (reliability(*self._known(side)) for side in range(2))
        return before, after

    @property
    def calibration_change(self) -> Estimate:
        """The expected calibration error after less that before, with a bootstrap interval over the images."""
        if self.identical:
            return UNCHANGED
        if not self.labelled.any():
            return UNKNOWN
        return calibration_change(self._known(0), self._known(1))

    def _known(self, side: int) -> tuple[Floats, Mask]:
        """Return confidence and correctness of one network on the images of known class."""
        return self.confidence[side][self.labelled], self.correct[side][self.labelled]

"""The whole range of each channel: a histogram of its maxima over all images, and the maxima on a sample of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Floats, Ints

SAMPLE = 1000  # images whose maxima are kept
PARTS = 4  # bins in each octave: a bin's upper edge is at most 25 % above its lower one
LOWEST, HIGHEST = -12, 16  # powers of two between which values have bins of their own
SIDE = (HIGHEST - LOWEST) * PARTS  # bins of the positive values, and of the negative ones
BINS = 2 * SIDE + 1


def edges() -> Floats:
    """Return the edges of the histogram's bins, float64 [BINS + 1]: bin b holds what lies between edges b and b + 1.

    An edge belongs to the bin that is further from zero.

    They are the same for every channel and every network, so that histograms add up: a quarter of an octave each, on
    both sides of zero. The bin in the middle holds what is nearer to zero than 2^-12, and the outer bins hold all that
    lies further out, so that the outer edges are infinite.

    >>> edges()[[SIDE, SIDE + 1, SIDE + 2]].tolist() == [-(2.0**-12), 2.0**-12, 1.25 * 2.0**-12]
    True
    """
    places = np.arange(SIDE)
    positive = 2.0 ** (LOWEST + places // PARTS) * (1 + places % PARTS / PARTS)
    upper = np.concatenate([positive, [np.inf]])
    return np.concatenate([-upper[::-1], upper])


def sample_of(images: Ints, size: int = SAMPLE) -> Ints:
    """Return a sample of images that does not depend on how they are divided: those with the lowest random numbers.

    The number of an image depends on its index alone. The sample of a union is therefore the sample of the samples.

    Args:
        images: int64 [N], distinct indices into the store.
        size: of the sample, at most.

    Returns:
        int64 [at most size], ascending.

    Source: bottom-k sampling, Cohen and Kaplan 2007; the mixing function is that of SplitMix64 (Steele et al. 2014).

    >>> whole, odd, even = np.arange(100), np.arange(1, 100, 2), np.arange(0, 100, 2)
    >>> parts = np.concatenate([sample_of(odd, 9), sample_of(even, 9)])
    >>> sample_of(parts, 9).tolist() == sample_of(whole, 9).tolist()
    True
    """
    mixed = (images.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.sort(images[np.lexsort((images, mixed))[:size]])


@dataclass(frozen=True)
class Spread:
    """How the maxima of a layer's channels are spread over the images; it merges as `Activity` does.

    Attributes:
        counts: int64 [C, BINS], number of images whose maximum lies in each bin; see `edges`.
        sampled: int64 [S], indices into the store of a random sample of the images, ascending.
        maxima: float32 [C, S], the channel's maximum on each of them; minus infinity where it is not mined yet, or has
            no finite value.
    """

    counts: Ints
    sampled: Ints
    maxima: NDArray[np.float32]

    @classmethod
    def empty(cls, channels: int, images: Ints) -> Spread:
        """Return the record before the first of the images, int64 [N], that will be mined."""
        sampled = sample_of(images)
        lowest = np.full((channels, len(sampled)), -np.inf, np.float32)
        return cls(np.zeros((channels, BINS), np.int64), sampled, lowest)

    def merge(self, other: Spread) -> Spread:
        """Return the record of both records' images, which must not overlap.

        >>> one, two = Spread.empty(1, np.array([4, 7])), Spread.empty(1, np.array([5]))
        >>> one.merge(two).sampled.tolist()
        [4, 5, 7]
        """
        images = np.concatenate([self.sampled, other.sampled])
        maxima = np.concatenate([self.maxima, other.maxima], 1)
        sampled = sample_of(images)
        order = np.argsort(images)
        return Spread(self.counts + other.counts, sampled, maxima[:, order[np.searchsorted(images[order], sampled)]])

    def at_quantiles(self, channel: int, count: int = 9) -> tuple[Ints, Floats]:
        """Return the sampled images at quantiles of a channel's maxima, from its weakest image to its strongest.

        Of N sampled images in the order of their maxima (and of their indices where these tie), image
        round(q (N - 1)) stands at quantile q.

        Args:
            channel: number of the channel.
            count: number of quantiles, evenly from 0 to 1.

        Returns:
            Images int64 [n] and their maxima float64 [n]; n is smaller than `count` where the sample is smaller.

        >>> spread = Spread(np.zeros((1, BINS), np.int64), np.arange(5), np.array([[3, 0, 9, 1, 5]], np.float32))
        >>> spread.at_quantiles(0, 3)[0].tolist()
        [1, 0, 2]
        """
        order = self._ascending(channel)
        places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        return self.sampled[order[places]], self.maxima[channel, order[places]].astype(np.float64)

    def weakest(self, channel: int, count: int) -> tuple[Ints, Floats]:
        """Return the sampled images on which a channel's maximum is smallest, as `at_quantiles` does.

        >>> spread = Spread(np.zeros((1, BINS), np.int64), np.arange(5), np.array([[3, 0, 9, 1, 5]], np.float32))
        >>> spread.weakest(0, 2)
        (array([1, 3]), array([0., 1.]))
        """
        first = self._ascending(channel)[:count]
        return self.sampled[first], self.maxima[channel, first].astype(np.float64)

    def _ascending(self, channel: int) -> Ints:
        """Return the places of the sampled images in the order of a channel's maxima, without those not finite."""
        maxima = self.maxima[channel]
        order = np.lexsort((self.sampled, maxima))
        return np.asarray(order[np.isfinite(maxima[order])], np.int64)

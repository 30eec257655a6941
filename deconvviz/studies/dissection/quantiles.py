"""A quantile of every channel over any number of values: a histogram that merges, on the device, with a known error."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.types import Ints

MANTISSA = 6  # bits of a float's fraction that are kept: 64 bins between two powers of two
ERROR = 2.0**-MANTISSA  # of a quantile, relative to it: the width of a bin, by its lower edge
SMALLEST, LARGEST = -24, 24  # powers of two: what is closer to zero is zero; what is larger shares the last bin
_SHIFT = 23 - MANTISSA
_FIRST = (127 + SMALLEST) << MANTISSA  # the bits of 2^SMALLEST that are kept
SIDE = (LARGEST - SMALLEST) << MANTISSA  # bins of positive values
BINS = 2 * SIDE + 1
AT_ONCE = 1 << 24  # values that are counted in one go


def bins_of(values: Tensor) -> Tensor:
    """Return the bin of each value, int32, in the order of the values; SIDE is the bin of zero.

    A float's bits are a sign, an exponent and a fraction; without the last bits of the fraction they number bins whose
    width is a 64th of their lower end.

    >>> (bins_of(torch.tensor([0.0, 1.0, 1.01, 1.02, -1.0])) - SIDE).tolist()
    [0, 1537, 1537, 1538, -1537]
    """
    bits = values.float().view(torch.int32)
    places = bits & 0x7FFFFFFF
    places >>= _SHIFT
    places -= _FIRST - 1
    places.clamp_(0, SIDE)
    places *= (bits >> 31) * 2 + 1  # an arithmetic shift: -1 for negative values
    places += SIDE
    return places


def count(histogram: Tensor, maps: Tensor) -> None:
    """Add the values of maps to a histogram of their channels, in place; nothing waits for the device.

    Args:
        histogram: int64 [C, BINS], on the device of the maps.
        maps: [N, C, h, w], of any float dtype.

    >>> histogram = torch.zeros(1, BINS, dtype=torch.long)
    >>> count(histogram, torch.tensor([0.0, 0.0, 2.5, 2.5]).reshape(1, 1, 2, 2))
    >>> histogram[histogram > 0].tolist()
    [2, 2]
    """
    channels = maps.shape[1]
    first = torch.arange(channels, device=maps.device, dtype=torch.int32)[:, None, None] * BINS
    for some in torch.split(maps, max(AT_ONCE // maps[0].numel(), 1)):
        places = bins_of(some) + first
        # In the order in which they lie in memory: a copy in another order takes as long as all the rest.
        places = (places if places.is_contiguous() else places.permute(0, 2, 3, 1)).reshape(-1)
        if maps.device.type == "cpu":
            histogram += places.bincount(minlength=channels * BINS).view(channels, BINS)
        else:  # where `bincount` would wait for the largest bin
            histogram.view(-1).scatter_add_(0, places.long(), torch.ones_like(places, dtype=torch.long))


def quantiles(histogram: Ints, share: float) -> NDArray[np.float32]:
    """Return the threshold of each channel: just below the bin that holds the quantile.

    What is above the threshold is the bin of the quantile and all that is larger. A channel that is limited from above,
    as by ReLU6, and is at its limit more often than 1 - share, is thus above the threshold at its limit; the quantile
    itself is never exceeded there. The quantile is the smallest value that at least a share of all values do not
    exceed, NumPy's `method="inverted_cdf"`.

    Args:
        histogram: int64 [C, BINS].
        share: of the values that do not exceed the quantile, in 0..1.

    Returns:
        float32 [C]. It is below the quantile by a 64th of it at most (`ERROR`), if the quantile is between 2^-24 and
        2^24 in size; 0 where the quantile is zero, or is closer to zero than 2^-24.

    Source: Bau et al. 2017, section 2.2 takes the exact quantile; the histogram, and that its bin counts, are our
    choice. The bins are those of DDSketch (Masson et al. 2019) with powers of two instead of logarithms.

    >>> histogram = torch.zeros(1, BINS, dtype=torch.long)
    >>> count(histogram, torch.arange(1, 1001.0).reshape(1, 1, 20, 50))
    >>> float(quantiles(histogram.numpy(), 0.995)[0])  # the quantile is 995, in the bin from 992 on
    991.9999389648438
    """
    total = histogram.sum(1)
    needed = np.maximum(np.ceil(share * total - 1e-9 * total), 1)
    place = (histogram.cumsum(1) < needed[:, None]).sum(1)
    return _below(np.minimum(place, BINS - 1))


def _below(places: Ints) -> NDArray[np.float32]:
    """Return the largest float32 below each bin; 0 for that of zero."""
    size = np.abs(places - SIDE)
    positive = places > SIDE
    edges = ((np.where(positive, size - 1, size) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32)
    below = np.nextafter(np.where(positive, edges, -edges), np.float32(-np.inf))
    thresholds: NDArray[np.float32] = np.where(places == SIDE, np.float32(0), below).astype(np.float32)
    return thresholds

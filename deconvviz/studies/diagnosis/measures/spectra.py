"""Which spatial frequencies the filters of a first layer hold, and whether they look like noise.

A frequency is given in cycles per pixel: stripes that repeat every 4 pixels have 1/4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma  # type: ignore[import-untyped]

from deconvviz.graph.filters import Filters
from deconvviz.types import Floats

GRID = 128  # samples of a spectrum in each direction: frequencies in steps of 1/128; kernels are smaller
# In units of what Gaussian noise has. Measured: of 4000 noisy 5x5 filters of colour pictures 99 % have a flatness above
# 0.83 and a spread above 0.73; the flatness of SqueezeNet's first filters, edges and blobs, is 0.03 to 0.54.
NOISE_FLATNESS, NOISE_SPREAD = 0.6, 0.55
# Share of a filter's energy in its mean colour: a filter that has more is a filter of that colour, however noisy the
# rest of it is.
COLOUR = 0.4
LEAST_KERNEL = 5  # pixels: smaller kernels hold too few weights to tell noise from a pattern


def spectra(weights: Floats) -> Floats:
    """Return the power spectra of filters, summed over their inputs.

    Args:
        weights: float64 [n, inputs, rows, columns].

    Returns:
        float64 [n, GRID, GRID], in the order of `numpy.fft.fftfreq(GRID)` by rows and columns. Each spectrum has the
        sum 1; that of a filter without weights has the sum 0.
    """
    power = (np.abs(np.fft.fft2(weights, (GRID, GRID))) ** 2).sum(1)
    total = power.sum((1, 2), keepdims=True)
    return np.asarray(np.divide(power, total, out=np.zeros_like(power), where=total > 0))


def band_shares(filters: Filters) -> Floats:
    """Return how much of each filter's energy lies in the low, the middle and the high band.

    A kernel of k pixels cannot hold a whole period of a frequency below 1/k: that is the low band, of blobs and plain
    colours. A layer with a stride of s samples its response every s pixels and confuses frequencies above 1/(2 s) with
    lower ones: that is the high band. What lies between is the middle band.

    Returns:
        float64 [channels, 3]: rows of sum 1; zeros for a filter without weights.
    """
    return np.asarray(np.stack([spectra(filters.weights)[:, band].sum(1) for band in _bands(filters)], 1))


def noise_share(filters: Filters) -> float:
    """Return the share of energy that Gaussian noise in the same kernel has in the middle band.

    The spectrum of noise is flat, so that this is the share of all frequencies that lie in the middle band.
    """
    return float(_bands(filters)[1].mean())


def noisy(weights: Floats) -> NDArray[np.bool_]:
    """Return which filters look like noise: their energy is spread over the kernel and over the frequencies.

    The energy of an edge or a grating lies in few frequencies, that of a dot in few positions, and a plain colour has
    most of its energy in its mean. Filters of kernels smaller than 5x5 are never called noise.

    Args:
        weights: float64 [n, inputs, rows, columns].

    Returns:
        bool [n].
    """
    if min(weights.shape[2:]) < LEAST_KERNEL:
        return np.zeros(len(weights), bool)
    plain = (weights.mean((2, 3)) ** 2).sum(1) >= COLOUR * (weights**2).mean((2, 3)).sum(1)
    return np.asarray(~plain & (flatness(weights) >= NOISE_FLATNESS) & (_spread(weights) >= NOISE_SPREAD))


def flatness(weights: Floats) -> Floats:
    """Return how flat the spectrum of each filter is: about 1 for noise, far below for edges, blobs and gratings.

    This is the spectral flatness: the geometric mean of the power at the kernel's own frequencies, divided by the
    arithmetic mean, in units of what Gaussian noise is expected to have. Frequency 0, the mean colour, is left out.

    Args:
        weights: float64 [n, inputs, rows, columns].

    Returns:
        float64 [n]; 0 for a filter of one colour.

    Source: Johnston 1988 (spectral flatness); the expectation is derived from that of the logarithm of a chi-squared
    variable.
    """
    _, inputs, rows, columns = weights.shape
    power = (np.abs(np.fft.fft2(weights)) ** 2).sum(1).reshape(len(weights), -1)
    live = power[:, 1:].sum(1) > 1e-12 * power.sum(1)
    others, ratio = power[live, 1:], np.zeros(len(power))
    mean = others.mean(1, keepdims=True)
    ratio[live] = np.exp(np.log(np.maximum(others / mean, 1e-300)).mean(1))
    # A frequency that is its own mirror image has a real amplitude; the others have complex ones, which have twice the
    # degrees of freedom.
    mirrored = (2 - rows % 2) * (2 - columns % 2) - 1
    real, full = (float(digamma(freedom / 2)) - np.log(freedom / 2) for freedom in (inputs, 2 * inputs))
    share = mirrored / (rows * columns - 1)
    return np.asarray(ratio / np.exp(share * real + (1 - share) * full))


def _bands(filters: Filters) -> tuple[NDArray[np.bool_], ...]:
    """Return the low, middle and high frequencies as masks on a spectrum, bool [GRID, GRID]."""
    cycles = np.abs(np.fft.fftfreq(GRID))
    high = (cycles[:, None] > 1 / (2 * filters.stride[0])) | (cycles > 1 / (2 * filters.stride[1]))
    low = np.hypot(cycles[:, None], cycles) < 1 / max(filters.weights.shape[2:])
    return low & ~high, ~low & ~high, high


def _spread(weights: Floats) -> Floats:
    """Return how much of its kernel each filter fills, in units of what Gaussian noise does: a dot has little."""
    energy = (weights**2).sum(1).reshape(len(weights), -1)
    squares = energy.shape[1] * (energy**2).sum(1)
    filled = np.divide(energy.sum(1) ** 2, squares, out=np.zeros(len(energy)), where=squares > 0)
    return np.asarray(filled * (1 + 2 / weights.shape[1]))

"""Checks of the first layer's filters as pictures: which spatial frequencies they cover, and whether they are noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deconvviz.studies.diagnosis.finding import Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.measures.filters import GRID, Filters, noisy, spectra
from deconvviz.studies.diagnosis.subject import Subject

# Of the first layer's energy, how little may lie in its middle band. Measured: SqueezeNet (7x7, stride 2) 0.36, the
# packaged ZFNet 0.35; tools/figure6 prints it for 11x11, stride 4, against 7x7, stride 2, on the same pictures.
MIDDLE = (0.25, 0.18, 0.1)
NOISE = (0.1, 0.25, 0.5)  # of the layer's live filters; measured: SqueezeNet 0, the packaged ZFNet 1 of 19
BANDS = ("low", "middle", "high")


@check("frequency", "Frequencies that the first layer covers")
def frequency(subject: Subject) -> Iterator[Finding]:
    """Share of the first layer's energy in its middle band, the mean over the filters that are neither dead nor noise.

    A kernel of k pixels holds whole periods from 1/k cycles per pixel on: below is the low band, blobs and colours. A
    stride of s samples the response at 1/s, and what oscillates faster than 1/(2s) down or across is folded onto slower
    ones: the high band. Between is what the layer can tell and carry. From 25 % downwards a note, 18 % a warning, 10 %
    serious. The evidence shows the spectrum beside that of noise in the same kernel, whose share says how much of
    the finding is the geometry's.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6: with 11x11, stride 4, "a mix of extremely high and low
    frequency information, with little coverage of the mid frequencies". The limits are measured.
    """
    layer, filters = _first(subject)
    if filters is None:
        return subject.skip("frequency", "the first layer is no convolution of an image among the layers looked at")
    size, stride = max(filters.weights.shape[2:]), max(filters.stride)
    if size <= 2 * stride:
        return subject.skip(
            "frequency",
            f"kernels of {size} with stride {stride} leave no band between 1/{size} and "
            f"1/{2 * stride} cycles per pixel",
        )
    clear = ~subject.responses[layer].constant & ~noisy(filters.weights)
    if clear.sum() < 2:
        return subject.skip("frequency", f"{clear.sum()} filters of {layer} are neither dead nor noise")
    shares = band_shares(filters)[clear].mean(0)
    low, middle, high = (float(share) for share in shares)
    severity = graded(-middle, (-MIDDLE[0], -MIDDLE[1], -MIDDLE[2]))
    if severity is None:
        return
    expected = noise_share(filters)
    what = (
        f"{middle:.0%} of the energy of {int(clear.sum())} filters lies in the middle, from 1/{size} to "
        f"1/{2 * stride} cycles per pixel; {low:.0%} is slower than the {size}-pixel kernel, {high:.0%} too fast for "
        f"stride {stride}. Noise would have {expected:.0%} in the middle: so much is the geometry's."
    )
    fast = high > low
    yield Finding(
        "frequency",
        severity,
        layer,
        tuple(int(channel) for channel in np.flatnonzero(clear)),
        what,
        middle,
        MIDDLE[0],
        "share of the filters' energy",
        "Zeiler and Fergus 2013, section 4.1 and figure 6; measured: 36 % in SqueezeNet (7x7, stride 2)",
        "A smaller kernel and stride, 7x7 with stride 2 as in the paper; or blur before the stride (Zhang 2019)."
        if fast
        else "Train longer or augment less: only blobs and colours were learned; look at the filters.",
        _spectrum(filters, clear, stride),
    )


@check("noise", "First-layer filters that are noise")
def noise(subject: Subject) -> Iterator[Finding]:
    """Filters of the first layer that are still, or again, noise, in kernels from 5x5.

    Their energy is spread over the kernel and over its frequencies as a Gaussian's is (spread from 0.55 and flatness
    from 0.6 of what noise has), and less than 40 % of it is that of their mean colour.

    A note from 10 % of the layer's live filters, a warning from 25 %, serious from 50 %.

    Source: Zeiler and Fergus 2013, section 4.1 (features that did not form); flatness: Johnston 1988; the limits are
    measured.
    """
    layer, filters = _first(subject)
    if filters is None or min(filters.weights.shape[2:]) < 5:
        return subject.skip("noise", "no first convolution of an image with kernels from 5x5 among the layers")
    live = ~subject.responses[layer].constant
    found = np.flatnonzero(live & noisy(filters.weights))
    share = len(found) / max(int(live.sum()), 1)
    severity = graded(share, NOISE)
    if severity is None:
        return
    yield Finding(
        "noise",
        severity,
        layer,
        tuple(int(channel) for channel in found),
        f"{len(found)} of {int(live.sum())} live filters look like noise: no edge, colour or grating formed in them.",
        share,
        NOISE[0],
        "share of the layer's live filters",
        "measured: no filter of SqueezeNet's first layer; flatness as of Johnston 1988",
        "Train longer or with a higher rate at first; fewer filters may do; weight decay empties what is not used.",
        Evidence("tiles", {"pictures": subject.tiles(layer, found)}, tuple(str(int(channel)) for channel in found)),
    )


def band_shares(filters: Filters) -> NDArray[np.float64]:
    """Return the share of each filter's energy in BANDS, float64 [channels, 3]: rows of sum 1, of empty filters 0."""
    return np.asarray(np.stack([spectra(filters.weights)[:, band].sum(1) for band in _bands(filters)], 1))


def noise_share(filters: Filters) -> float:
    """Return the share of energy that Gaussian noise in the same kernel has in the middle band.

    The spectrum of noise is flat: it is the band's share of all frequencies.
    """
    return float(_bands(filters)[1].mean())


def _bands(filters: Filters) -> tuple[NDArray[np.bool_], ...]:
    """The low, middle and high frequencies as masks on a spectrum, bool [GRID, GRID]."""
    cycles = np.abs(np.fft.fftfreq(GRID))
    high = (cycles[:, None] > 1 / (2 * filters.stride[0])) | (cycles > 1 / (2 * filters.stride[1]))
    low = np.hypot(cycles[:, None], cycles) < 1 / max(filters.weights.shape[2:])
    return low & ~high, ~low & ~high, high


def _first(subject: Subject) -> tuple[str, Filters | None]:
    for layer in subject.layers:
        found = subject.filters(layer)
        if found is not None and found.of_image:
            return layer, found
    return "", None


def _spectrum(filters: Filters, clear: NDArray[np.bool_], stride: int) -> Evidence:
    """The share of energy by frequency, of the filters and of noise, in steps of two samples of the spectrum."""
    cycles = np.fft.fftfreq(GRID)
    edges = np.arange(0, 0.5 * np.sqrt(2) + 2 / GRID, 2 / GRID)
    place = np.digitize(np.hypot(cycles[:, None], cycles).ravel(), edges) - 1
    mean = spectra(filters.weights[clear]).mean(0).ravel()
    lines = [np.bincount(place, weights, len(edges)) for weights in (mean, np.full(GRID**2, 1 / GRID**2))]
    return Evidence(
        "line",
        {"x": edges + 1 / GRID, "y": np.stack(lines)},
        ("filters", "noise in the same kernel"),
        "spatial frequency (cycles per pixel)",
        "share of the energy",
        1 / (2 * stride),
    )

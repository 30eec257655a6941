"""Checks of the first layer's filters as pictures: which spatial frequencies they cover, and whether they are noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvviz.graph.filters import Filters
from deconvviz.models.zfnet import PAPER_KERNEL, PAPER_STRIDE
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, graded, verb
from deconvviz.studies.diagnosis.measures.build import either
from deconvviz.studies.diagnosis.measures.spectra import (
    GRID,
    LEAST_KERNEL,
    band_shares,
    noise_share,
    noisy,
    spectra,
)
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject

# Of the first layer's energy, how little may lie in its middle band. Measured: SqueezeNet (7x7, stride 2) 0.36, the
# packaged ZFNet 0.35; tools/figure6 prints it for 11x11, stride 4, against 7x7, stride 2, on the same pictures.
MIDDLE = (0.25, 0.18, 0.1)
NOISE = (0.1, 0.25, 0.5)  # of the layer's live filters; measured: SqueezeNet 0, the packaged ZFNet 1 of 19


@check("frequency", "Spatial frequencies that the first layer covers")
def frequency(subject: Subject) -> CheckRun:
    """How much of the first layer's energy lies in its middle band of spatial frequencies.

    A kernel of k pixels cannot hold a whole period of a frequency below 1/k cycles per pixel: that is the low band, of
    blobs and plain colours. A stride of s samples the response every s pixels and confuses frequencies above 1/(2s)
    with lower ones: that is the high band. Between them lies what the layer can both resolve and pass on. The value is
    the mean share over the filters that are neither dead nor noise. The figure shows their spectrum beside that of
    noise in the same kernel, whose share says how much of the finding is due to the size of kernel and stride.

    Severity: a note from 25 % downwards, a warning from 18 %, serious from 10 %.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6: with 11x11, stride 4, "a mix of extremely high and low
    frequency information, with little coverage of the mid frequencies". The limits are measured.
    """
    layer, filters = _first(subject)
    if filters is None:
        return CheckRun.not_made("the first layer is no convolution of an image, or is not among the layers looked at")
    size, stride = max(filters.weights.shape[2:]), max(filters.stride)
    if size <= 2 * stride:
        return CheckRun.not_made(
            f"kernels of {size} pixels with stride {stride} leave no band between 1/{size} and 1/{2 * stride} cycles "
            "per pixel"
        )
    clear = ~subject.responses[layer].constant & ~noisy(filters.weights)
    if clear.sum() < 2:
        return CheckRun.not_made(
            f"the shares need two filters of {layer} that are neither dead nor noise; there {verb(int(clear.sum()))} "
            f"{clear.sum()}"
        )
    shares = band_shares(filters)[clear].mean(0)
    severity = graded(float(shares[1]), MIDDLE)
    return CheckRun() if severity is None else CheckRun(findings=(_uncovered(layer, filters, clear, shares),))


def _uncovered(layer: str, filters: Filters, clear: NDArray[np.bool_], shares: NDArray[np.float64]) -> Finding:
    """Return the finding about a middle band that has little of the energy."""
    size, stride = max(filters.weights.shape[2:]), max(filters.stride)
    low, middle, high = (float(share) for share in shares)
    severity = graded(middle, MIDDLE)
    assert severity is not None
    what = (
        f"{middle:.0%} of the energy of {int(clear.sum())} filters lies in the middle band, from 1/{size} to "
        f"1/{2 * stride} cycles per pixel. {low:.0%} lies below it, in periods longer than the kernel of {size} "
        f"pixels, and {high:.0%} above it, too fast for stride {stride}. Noise in such a kernel would have "
        f"{noise_share(filters):.0%} in the middle band."
    )
    return Finding(
        check="frequency",
        severity=severity,
        layer=layer,
        channels=tuple(np.flatnonzero(clear).tolist()),
        what=what,
        value=middle,
        threshold=MIDDLE[0],
        unit="share of the filters' energy",
        source="lower is worse: it is 36 % in SqueezeNet with 7x7, stride 2 (measured); Zeiler and Fergus 2013, "
        "section 4.1 and figure 6",
        remedy=_covered(size, stride)
        if high > low
        else "Train longer or augment the images less: the filters hold only blobs and colours. Look at them.",
        evidence=_spectrum(filters, clear, stride),
    )


def _covered(size: int, stride: int) -> str:
    """Return what to try against a first layer that holds mostly high frequencies."""
    options = [
        f"use a smaller kernel and stride, such as {PAPER_KERNEL}x{PAPER_KERNEL} with stride {PAPER_STRIDE} as in the "
        "paper"
        if size > PAPER_KERNEL or stride > PAPER_STRIDE
        else "",
        "blur before the stride (Zhang 2019)" if stride > 1 else "train longer, with weight decay",
    ]
    return either(options)


@check("noise", "First-layer filters that are noise")
def noise(subject: Subject) -> CheckRun:
    """Filters of the first layer in which no pattern has formed, or whose pattern was lost.

    Such a filter is spread over its kernel and over its frequencies as Gaussian noise is (spread from 0.55 and flatness
    from 0.6, in units of what noise has), and has less than 40 % of its energy in its mean colour. Only kernels from
    5x5 pixels are looked at.

    Severity: a note from 10 % of the layer's live filters, a warning from 25 %, serious from 50 %.

    Source: Zeiler and Fergus 2013, section 4.1 (features that did not form); Johnston 1988 (spectral flatness). The
    limits are measured.
    """
    layer, filters = _first(subject)
    if filters is None or min(filters.weights.shape[2:]) < LEAST_KERNEL:
        return CheckRun.not_made(
            f"there is no first convolution of an image with kernels from {LEAST_KERNEL}x{LEAST_KERNEL} among the "
            "layers looked at"
        )
    live = ~subject.responses[layer].constant
    channels, count = np.flatnonzero(live & noisy(filters.weights)), int(live.sum())
    share = len(channels) / max(count, 1)
    severity = graded(share, NOISE)
    if severity is None:
        return CheckRun()
    finding = Finding(
        check="noise",
        severity=severity,
        layer=layer,
        channels=tuple(channels.tolist()),
        what=f"{len(channels)} of {count} live filters {verb(len(channels), 'looks', 'look')} like noise: no edge, "
        "colour or grating has formed in them.",
        value=share,
        threshold=NOISE[0],
        unit="share of the layer's live filters",
        source="the share is this package's grading; SqueezeNet's first layer has "
        "none (measured); flatness as of Johnston 1988",
        remedy="Train longer, or with a higher learning rate at first. If that changes nothing, fewer filters may be "
        "enough; weight decay empties those that are not used.",
        evidence=Evidence(
            kind="tiles",
            arrays={"pictures": subject.tiles(layer, channels)},
            labels=subject.tile_names(layer, channels),
            x=subject.tiles_show(layer),
        ),
    )
    return CheckRun(findings=(finding,))


def _first(subject: Subject) -> tuple[str, Filters | None]:
    """Return the layer whose filters are pictures, and these; an empty name and None where there is none."""
    for layer in subject.layers:
        filters = subject.filters(layer)
        if filters is not None and filters.of_image:
            return layer, filters
    return "", None


def _spectrum(filters: Filters, clear: NDArray[np.bool_], stride: int) -> Evidence:
    """Show the share of energy by frequency, of the filters and of noise, in steps of two samples of the spectrum."""
    cycles = np.fft.fftfreq(GRID)
    edges = np.arange(0, 0.5 * np.sqrt(2) + 2 / GRID, 2 / GRID)
    step = np.digitize(np.hypot(cycles[:, None], cycles).ravel(), edges) - 1
    mean = spectra(filters.weights[clear]).mean(0).ravel()
    lines = [np.bincount(step, weights, len(edges)) for weights in (mean, np.full(GRID**2, 1 / GRID**2))]
    return Evidence(
        kind="line",
        arrays={"x": edges + 1 / GRID, "y": np.stack(lines)},
        labels=("filters", "noise in the same kernel"),
        x="spatial frequency (cycles per pixel); the middle band ends at the dashed line",
        y="share of the energy",
        mark=1 / (2 * stride),
    )

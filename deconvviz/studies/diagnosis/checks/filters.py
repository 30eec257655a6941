"""Checks of single filters: dead ones, and ones that dominate their layer.

Shares of a layer are graded alike: from 1 % of its filters a note, from 10 % a warning, from 50 % serious. That grading
is this package's; what is counted comes from the sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvviz.graph.filters import Filters
from deconvviz.models.zfnet import PAPER_RADIUS, PAPER_RANGE
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, Measured, graded, verb
from deconvviz.studies.diagnosis.measures.build import either
from deconvviz.studies.diagnosis.measures.responses import LayerResponses
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject

SHARES = (0.01, 0.1, 0.5)
RARE = 0.01  # of the images: a filter that fires in fewer is nearly dead
RARE_SHARES = (0.05, 0.25, 0.75)  # of the layer: a filter that rarely fires may be the right one for a rare thing
ENOUGH = 200  # images: with fewer, to fire in less than 1 % of them is to fire in none or one
VANISHED = 0.01  # of the layer's median RMS: weights that are smaller count as zero
# A filter's RMS divided by the layer's median. Measured: the largest ratio in SqueezeNet's 25 layers is 2.3, in the
# packaged ZFNet's seven 1.6 (tests/studies/diagnosis/checks/test_trained_networks.py verifies it).
RATIOS = (3.0, 5.0, 10.0)
ROUNDING = 1.002  # weights kept in half precision may lie this far above the radius that they were scaled to
SHOWN = 24  # tiles or bars of a figure


@check("dead", "Dead and nearly dead filters")
def dead(subject: Subject) -> CheckRun:
    """Filters that never respond.

    A filter is dead where its value is the same at every position of every image; that of a rectified filter is then
    zero. A filter is nearly dead where it fires (is above zero) in fewer than 1 % of the images. The second is asked
    only of rectified layers, and only with at least 200 images.

    Severity: of dead filters a note from 1 % of the layer's filters, a warning from 10 %, serious from 50 %. Of nearly
    dead ones a note from 5 %, a warning from 25 %, serious from 75 %, because a filter that rarely fires may be the
    right one for a rare thing.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6 (b): "dead" features in the first layer. The shares are
    this package's grading.
    """
    findings: list[Finding] = []
    for layer, responses in subject.responses.items():
        for finding in (_dead(subject, layer, responses), _nearly_dead(subject, layer, responses)):
            findings += [] if finding is None else [finding]
    shares = [float(responses.constant.mean()) for responses in subject.responses.values()]
    measured = Measured(value=max(shares, default=None), unit="share of a layer's filters, the worst layer")
    return CheckRun(findings=tuple(findings), measured=measured)


def _dead(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    channels, (images, count) = np.flatnonzero(responses.constant), responses.maxima.shape
    share, filters = len(channels) / count, subject.filters(layer)
    severity = graded(share, SHARES)
    if severity is None:
        return None
    if subject.rectified(layer):
        how = f"{verb(len(channels), 'it is', 'they are')} never above zero in {images} images"
    else:
        how = f"{verb(len(channels), 'its value is', 'their values are')} constant over {images} images"
    what = f"{len(channels)} of {count} filters {verb(len(channels))} dead: {how}."
    if filters is not None:
        empty = int((filters.rms[channels] < VANISHED * np.median(filters.rms)).sum())
        what += f" {empty} of them {verb(empty, 'has', 'have')} weights that are practically zero." if empty else ""
    evidence = _firing_rates(responses)
    if filters is not None and filters.of_image:
        evidence = Evidence(
            kind="tiles",
            arrays={"pictures": subject.tiles(layer, channels[:SHOWN])},
            labels=tuple(f"filter {channel}" for channel in channels[:SHOWN]),
            x=subject.tiles_show(layer),
        )
    return Finding(
        check="dead",
        severity=severity,
        layer=layer,
        channels=tuple(channels.tolist()),
        what=what,
        value=share,
        threshold=SHARES[0],
        unit="share of the layer's filters",
        source="Zeiler and Fergus 2013, section 4.1 and figure 6 (dead features); the share is this package's grading",
        remedy=_revived(subject, layer),
        evidence=evidence,
    )


def _revived(subject: Subject, layer: str) -> str:
    """Return what to try against dead filters."""
    rectifier, normalised = subject.build.rectifier(layer), subject.build.standardised
    options = [
        "train with a lower learning rate at first",
        "" if normalised else "train with BatchNorm",
        "take a leaky rectifier" if rectifier is not None and rectifier.flat_below else "",
    ]
    shut = " Look at the factors and shifts of the normalisation too: a factor of 0 or a shift far below zero shuts a "
    shut += "filter, and weight decay on the factors leads there."
    removed = " The dead filters can also be removed: that costs nothing, once their constant value is added to the "
    removed += "next layer's bias."
    if subject.depthwise(layer):
        removed = " The dead filters can also be removed, together with the channels that they read: add their "
        removed += "constant value to the next layer's bias."
    return either(options) + (shut if normalised else "") + removed


def _nearly_dead(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    fired, images = (responses.maxima > 0).mean(0), len(responses.maxima)
    channels = np.flatnonzero((fired < RARE) & ~responses.constant)
    share = len(channels) / len(fired)
    severity = graded(share, RARE_SHARES)
    if severity is None or not subject.rectified(layer) or images < ENOUGH:
        return None
    return Finding(
        check="dead",
        kind="nearly dead",
        severity=severity,
        layer=layer,
        channels=tuple(channels.tolist()),
        what=f"{len(channels)} of {len(fired)} filters {verb(len(channels), 'fires', 'fire')} in fewer than {RARE:.0%} "
        f"of {images} images.",
        value=share,
        threshold=RARE_SHARES[0],
        unit="share of the layer's filters",
        source="the share is this package's grading; Zeiler and Fergus 2013, figure 6",
        remedy="Look at the images that these filters respond to (deconvviz mine). If they show one rare thing, the "
        "filters are right; if they show nothing in common, treat them as dead filters.",
        evidence=_firing_rates(responses),
    )


def _firing_rates(responses: LayerResponses) -> Evidence:
    """Show how many filters fire in how many images."""
    return Evidence(
        kind="histogram",
        arrays={"values": (responses.maxima > 0).mean(0)},
        x="share of the images in which a filter fires",
        y="number of filters",
        mark=RARE,
    )


@check("dominating", "Filters that dominate their layer")
def dominating(subject: Subject) -> CheckRun:
    """Filters whose weights are much larger than those of the other filters of their layer.

    The size of a filter is the root mean square (RMS) of its weights, times the factor of the BatchNorm that follows.
    It is compared with the median of the layer's live filters. In a network that was trained on inputs of the paper's
    range (about -128 to 128) it is compared with 0.1 as well, the radius to which the paper scales such filters back.

    Severity: a note from 3 times the median, a warning from 5 times, serious from 10 times. An RMS above the paper's
    radius is a warning.

    Source: Zeiler and Fergus 2013, section 3 and figure 6 (a): a few filters dominate unless their RMS is kept to 0.1.
    The ratios are measured.
    """
    findings = []
    for layer, responses in subject.responses.items():
        filters = subject.filters(layer)
        if filters is not None and not responses.constant.all():
            finding = _dominating(subject, layer, responses, filters)
            findings += [] if finding is None else [finding]
    return CheckRun(findings=tuple(findings))


def _dominating(subject: Subject, layer: str, responses: LayerResponses, filters: Filters) -> Finding | None:
    rms = filters.rms
    median = float(np.median(rms[~responses.constant]))
    ratio = rms / median if median > 0 else np.zeros(len(rms))
    largest, paper = float(ratio.max()), _of_the_papers_inputs(subject)
    over = bool(paper and filters.weights.shape[2] > 1 and rms.max() > PAPER_RADIUS * ROUNDING)
    severity = graded(max(largest, RATIOS[1] if over else 0.0), RATIOS)
    if severity is None:
        return None
    relative = largest >= RATIOS[0]
    limit = RATIOS[0] * median if relative else PAPER_RADIUS
    large = np.flatnonzero(rms >= limit)
    large = large[np.argsort(-rms[large], kind="stable")]
    energy = responses.squares[large].sum() / responses.squares.sum()
    passed = [f"{RATIOS[0]:g} times the median"] * relative + [f"the paper's radius of {PAPER_RADIUS}"] * over
    count, limits = len(large), " and ".join(passed)
    what = (
        f"{count} of {len(rms)} filters {verb(count, 'has', 'have')} weights whose RMS is above {limits}. The largest "
        f"is that of filter {large[0]}: {rms[large[0]]:.3g}, {ratio[large[0]]:.1f} times the median. "
        f"{verb(count, 'The filter makes', 'These filters make')} {energy:.0%} of the layer's squared response."
    )
    return Finding(
        check="dominating",
        kind="" if relative else "radius",
        severity=severity,
        layer=layer,
        channels=tuple(large.tolist()),
        what=what,
        value=largest if relative else float(rms.max()),
        threshold=RATIOS[0] if relative else PAPER_RADIUS,
        unit="RMS of the weights, in medians of the layer" if relative else "RMS of the weights",
        source="measured: at most 2.3 in SqueezeNet and the packaged ZFNet"
        if relative
        else "Zeiler and Fergus 2013, section 3",
        remedy=_reined(subject, layer, paper, bool((filters.scale != 1).any())),
        evidence=_largest(rms, limit),
    )


def _reined(subject: Subject, layer: str, paper: bool, scaled: bool) -> str:
    """Return what to try against filters that dominate."""
    if scaled:
        return (
            "The size includes the factor of the layer's BatchNorm. Weight decay on the weights alone changes nothing, "
            "because BatchNorm undoes it: put it on the factors, and see whether the inputs of these filters vary "
            "little, which makes BatchNorm amplify them."
        )
    radius = "deconvviz train --radius 0.1" if paper else f"such as {RATIOS[0]:g} times the layer's median"
    return either(
        [
            f"scale filters back whose RMS exceeds a radius, as the paper does ({radius})",
            "use weight decay",
            "" if subject.build.standardised else "use a normalisation layer",
        ]
    )


def _of_the_papers_inputs(subject: Subject) -> bool:
    """Return whether the network takes inputs of the paper's range, about -128 to 128."""
    return all(abs(deviation - PAPER_RANGE[0]) < 1e-9 for deviation in subject.preprocess.std)


def _largest(rms: NDArray[np.float64], limit: float) -> Evidence:
    """Show the RMS of the largest filters."""
    order = np.argsort(-rms, kind="stable")[:SHOWN]
    return Evidence(
        kind="bars",
        arrays={"values": rms[order]},
        labels=tuple(str(channel) for channel in order),
        x="filter, the largest first",
        y="RMS of the weights",
        mark=float(limit),
    )

"""Checks of single filters: dead ones, and ones that dominate their layer.

Shares of a layer are graded alike: from 1 % of its filters a note, from 10 % a warning, from 50 % serious. That grading
is this package's; what is counted comes from the sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.graph.filters import Filters
from deconvviz.models.zfnet import PAPER_RADIUS, PAPER_RANGE
from deconvviz.run.responses import LayerResponses
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, Measured, graded, verb
from deconvviz.studies.diagnosis.measures.build import either
from deconvviz.studies.diagnosis.measures.readers import constant_by_input, readers_of
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Floats

SHARES = (0.01, 0.1, 0.5)
RARE = 0.01  # of the images: a filter that fires in fewer is nearly dead
RARE_SHARES = (0.05, 0.25, 0.75)  # of the layer: a filter that rarely fires may be the right one for a rare thing
ENOUGH = 200  # images: with fewer, to fire in less than 1 % of them is to fire in none or one
VANISHED = 0.01  # of the layer's median RMS: weights that are smaller count as zero
# A filter's RMS divided by the layer's median. Measured: the largest ratio in SqueezeNet's 25 layers is 2.3, in the
# packaged ZFNet's seven 1.6 (tests/studies/diagnosis/checks/test_trained_networks.py verifies it).
RATIOS = (3.0, 5.0, 10.0)
# The share of the layer's squared response that large filters make, less their share of the filters. Measured on 40
# photos: 0.13 in the first layer of EfficientNet-Lite0, at most 0.05 in its others; no filter of SqueezeNet is large.
EXCESS = (0.1, 0.25, 0.5)
ROUNDING = 1.002  # weights kept in half precision may lie this far above the radius that they were scaled to
SHOWN = 24  # tiles or bars of a figure


@check("dead", "Dead and nearly dead filters")
def dead(subject: Subject) -> CheckRun:
    """Filters that never respond.

    A filter is dead where its value is the same at every position of every image; that of a rectified filter is then
    zero. A filter is nearly dead where it fires (is above zero) in fewer than 1 % of the images. The second is asked
    only of rectified layers, and only with at least 200 images. A filter of a depthwise layer that is constant because
    the one channel that it reads is dead is told with that channel, in the layer that it comes from.

    Severity: of dead filters a note from 1 % of the layer's filters, a warning from 10 %, serious from 50 %. Of nearly
    dead ones a note from 5 %, a warning from 25 %, serious from 75 %, because a filter that rarely fires may be the
    right one for a rare thing.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6 (b): "dead" features in the first layer. The shares are
    this package's grading.
    """
    findings: list[Finding] = []
    shares: list[float] = []
    for layer, responses in subject.responses.items():
        source, caused = constant_by_input(subject, layer)
        dead = responses.constant & ~caused
        shares.append(float(dead.mean()))
        consequence = f" {_and_more(int(caused.sum()), source)}" if caused.any() else ""
        for finding in (_dead(subject, layer, dead, consequence), _nearly_dead(subject, layer, responses)):
            findings += [] if finding is None else [finding]
    measured = Measured(value=max(shares, default=None), unit="share of a layer's filters, the worst layer")
    return CheckRun(findings=tuple(findings), measured=measured)


def _dead(subject: Subject, layer: str, dead: NDArray[np.bool_], consequence: str) -> Finding | None:
    """Return the finding about filters that are dead by themselves, bool [channels]; None where they are few."""
    channels, count = np.flatnonzero(dead), len(dead)
    share, filters = len(channels) / count, subject.filters(layer)
    severity = graded(share, SHARES)
    if severity is None:
        return None
    evidence = _firing_rates(subject.responses[layer])
    if filters is not None and filters.of_image:
        evidence = Evidence(
            kind="tiles",
            arrays={"pictures": subject.tiles(layer, channels[:SHOWN])},
            labels=subject.tile_names(layer, channels[:SHOWN]),
            x=subject.tiles_show(layer),
        )
    return Finding(
        check="dead",
        severity=severity,
        layer=layer,
        channels=tuple(channels.tolist()),
        what=f"{len(channels)} of {count} filters {verb(len(channels))} dead: {_how_dead(subject, layer, channels)}."
        f"{_without_weights(filters, channels)}{consequence}",
        value=share,
        threshold=SHARES[0],
        unit="share of the layer's filters",
        source="the share is this package's grading; Zeiler and Fergus 2013, section 4.1 and figure 6 (dead features)",
        remedy=_revived(subject, layer, channels),
        evidence=evidence,
    )


def _how_dead(subject: Subject, layer: str, channels: NDArray[np.intp]) -> str:
    """Say what dead filters do instead of responding."""
    responses, is_single = subject.responses[layer], len(channels) == 1
    images = len(responses.maxima)
    if subject.rectified(layer) and (responses.highest[channels] <= 0).all():
        return f"{'it is' if is_single else 'they are'} never above zero in {images} images"
    return f"{'its value is' if is_single else 'their values are'} constant over {images} images"


def _without_weights(filters: Filters | None, channels: NDArray[np.intp]) -> str:
    """Return a sentence about dead filters whose weights have vanished, with a space before it; "" for none."""
    if filters is None:
        return ""
    empty = int((filters.rms[channels] < VANISHED * np.median(filters.rms)).sum())
    if not empty:
        return ""
    if len(channels) == 1:
        return " Its weights are practically zero."
    if empty == len(channels):
        return " The weights of all of them are practically zero."
    return f" {empty} of them {verb(empty, 'has', 'have')} weights that are practically zero."


def _and_more(count: int, source: str) -> str:
    """Return a sentence about filters that are constant because of what they read; they are told there."""
    return (
        f"{count} more {verb(count)} constant only because the {verb(count, 'channel', 'channels')} that "
        f"{verb(count, 'it reads', 'they read')} {verb(count)} dead in {source}."
    )


def _revived(subject: Subject, layer: str, channels: NDArray[np.intp]) -> str:
    """Return what to try against dead filters."""
    rectifier, normalised = subject.build.rectifier(layer), subject.build.standardised
    options = [
        "train with a lower learning rate at first",
        "" if normalised else "train with BatchNorm",
        "take a leaky rectifier" if rectifier is not None and rectifier.flat_below else "",
    ]
    shut = " Look at the factors and shifts of the normalisation too: a factor of 0 or a shift far below zero shuts a "
    shut += "filter, and weight decay on the factors leads there."
    return f"{either(options)}{shut if normalised else ''} {_removed(subject, layer, channels)}"


def _removed(subject: Subject, layer: str, channels: NDArray[np.intp]) -> str:
    """Say whether dead filters can be removed, what has to go with them, and what that costs."""
    readers = readers_of(subject.network, layer)
    if readers.mixed:
        return (
            "The dead filters cannot be removed by themselves, because their channels are added to or multiplied with "
            "those of another layer, or returned."
        )
    can = "The dead filters can also be removed"
    left = layer  # the layer whose constant values are missing in the end
    if subject.depthwise(layer):
        can += ", together with the channels that they read"
    if readers.depthwise:
        can += ", together with the filters of the depthwise layer that read their channels"
        left = readers.depthwise[0]
    values = subject.responses.get(left)
    matches = values is not None and len(values.constant) == len(subject.responses[layer].constant)
    if values is not None and matches and (values.constant & (values.highest == 0))[channels].all():
        return f"{can}: that costs nothing, because what they hand on is always zero."
    if values is not None and matches and values.constant[channels].all():
        return f"{can}, once the constant value that they hand on is added to the bias of the layer that reads it."
    return f"{can}, and the network trained on a little."


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
        mark_name="the limit of nearly dead filters",
    )


@check("dominating", "Filters that dominate their layer")
def dominating(subject: Subject) -> CheckRun:
    """Filters whose weights are much larger than those of the others, and which make much of the layer's response.

    The size of a filter is the root mean square (RMS) of its weights, times the factor of the BatchNorm that follows.
    It is compared with the median of the layer's live filters. Large weights alone are no finding, because they may
    only make up for a quiet input: the filters must also make more of the layer's mean squared response than their
    part of its filters. Depthwise layers are left out: each of their filters has an input of its own, and its size says
    how quiet that is. In a network that was trained on inputs of the paper's range (about -128 to 128), weights are
    compared with 0.1 as well, the radius to which the paper scales such filters back.

    Severity: the lower one of two grades. By weights: a note from 3 times the median, a warning from 5 times, serious
    from 10 times. By response: a note where the filters' share of the squared response is 10 percentage points above
    their share of the filters, a warning from 25 points, serious from 50. An RMS above the paper's radius is a warning
    by itself.

    Source: Zeiler and Fergus 2013, section 3 and figure 6 (a): a few filters dominate unless their RMS is kept to 0.1.
    The ratios are measured; that both grades are needed, and the points, are this package's.
    """
    findings = []
    for layer, responses in subject.responses.items():
        filters = subject.filters(layer)
        if filters is not None and not responses.constant.all() and not subject.depthwise(layer):
            finding = _dominating(subject, layer, responses, filters)
            findings += [] if finding is None else [finding]
    return CheckRun(findings=tuple(findings))


def _dominating(subject: Subject, layer: str, responses: LayerResponses, filters: Filters) -> Finding | None:
    rms = filters.rms
    median = float(np.median(rms[~responses.constant]))
    ratio = rms / median if median > 0 else np.zeros(len(rms))
    paper = _of_the_papers_inputs(subject)
    over = bool(paper and filters.weights.shape[2] > 1 and rms.max() > PAPER_RADIUS * ROUNDING)
    by_response = _graded_by_response(responses, ratio)
    relative = by_response is not None
    by_radius: Severity | None = "warning" if over else None
    grades = [grade for grade in (by_radius, by_response) if grade is not None]
    if not grades:
        return None
    limit, sizes = (RATIOS[0], ratio) if relative else (PAPER_RADIUS, rms)
    large = np.flatnonzero(sizes >= limit)
    large = large[np.argsort(-rms[large], kind="stable")]
    passed = [f"{RATIOS[0]:g} times the median"] * relative + [f"the paper's radius of {PAPER_RADIUS}"] * over
    return Finding(
        check="dominating",
        kind="" if relative else "radius",
        severity=max(grades, key=SEVERITIES.index),
        layer=layer,
        channels=tuple(large.tolist()),
        what=_large(responses, rms, ratio, large, " and ".join(passed)),
        value=float(sizes.max()),
        threshold=limit,
        unit="times the layer's median RMS of the weights" if relative else "RMS of the weights",
        source="measured: at most 2.3 in SqueezeNet and the packaged ZFNet; the filters must also make 10 points more "
        "of the layer's response than their part, which is this package's grading"
        if relative
        else "Zeiler and Fergus 2013, section 3",
        remedy=_reined(subject, layer, paper, bool((filters.scale != 1).any())),
        evidence=_largest(sizes, limit, f"RMS of the weights{' (times the median of the layer)' if relative else ''}"),
    )


def _graded_by_response(responses: LayerResponses, ratio: Floats) -> Severity | None:
    """Return the lower one of the grades by weights and by response; None where either is missing."""
    large = ratio >= RATIOS[0]
    grades = (graded(float(ratio.max()), RATIOS), graded(_energy(responses, large) - float(large.mean()), EXCESS))
    given = [grade for grade in grades if grade is not None]
    return min(given, key=SEVERITIES.index) if len(given) == len(grades) else None


def _energy(responses: LayerResponses, filters: NDArray[Any]) -> float:
    """Return the share of the layer's squared response that some filters make, in 0..1."""
    return float(responses.squares[filters].sum() / max(float(responses.squares.sum()), 1e-300))


def _large(responses: LayerResponses, rms: Floats, ratio: Floats, large: NDArray[np.intp], limits: str) -> str:
    """Say which filters are large, and what they make of the layer's response."""
    count, first = len(large), large[0]
    return (
        f"{count} of {len(rms)} filters {verb(count, 'has', 'have')} weights whose RMS is above {limits}. The largest "
        f"is that of filter {first}: {rms[first]:.3g}, {ratio[first]:.1f} times the median. "
        f"{verb(count, 'The filter makes', 'These filters make')} {_energy(responses, large):.0%} of the layer's "
        f"squared response, and {verb(count, 'is', 'are')} {count / len(rms):.0%} of its filters."
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


def _largest(sizes: Floats, limit: float, axis: str) -> Evidence:
    """Show the sizes of the largest filters, float64 [channels], with their limit."""
    order = np.argsort(-sizes, kind="stable")[:SHOWN]
    return Evidence(
        kind="bars",
        arrays={"values": sizes[order]},
        labels=tuple(str(channel) for channel in order),
        x="filter, the largest first",
        y=axis,
        mark=float(limit),
        named=tuple(np.flatnonzero(sizes[order] >= limit).tolist()),
    )

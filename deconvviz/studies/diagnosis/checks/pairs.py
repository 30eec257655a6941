"""Checks of pairs of filters: the same one twice, and each other's negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from deconvviz.metrics.intervals import DUPLICATE
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, graded
from deconvviz.studies.diagnosis.measures.responses import LayerResponses
from deconvviz.studies.diagnosis.measures.similarity import comparable_cosines, correlations
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject

SHARES = (0.01, 0.1, 0.5)  # of the layer's filters; this package's grading
FLIPPED_SHARES = (0.05, 0.25, 0.5)
# Cosine between the weights of two filters. Measured: 10 pairs of live filters in SqueezeNet's 25 layers reach it, none
# in the packaged ZFNet; by chance 4 in 10^11 pairs of directions do in 27 dimensions, 2 in 10^4 in 9.
SAME = 0.9
# Correlation of two filters' responses, from which equal weights count. Measured: SqueezeNet's features.10.expand1x1
# has 6 pairs with a cosine above 0.9 whose responses do not correlate (0.02): their largest weights read a channel that
# is dead, and mean nothing.
AGREE = 0.5
SHOWN = 24  # tiles of a figure


@check("duplicates", "Filters that repeat another one")
def duplicates(subject: Subject) -> CheckRun:
    """Pairs of live filters with nearly the same weights (cosine from 0.9) or responses (correlation from 0.95).

    The weights count only where the responses agree at all (correlation from 0.5), because weights that read an input
    which is always zero mean nothing. Weights are not compared where chance alone would bring a pair so close, as in
    1x1 convolutions of a few channels, nor between the groups of a grouped convolution. The value is the share of
    filters that could be left out: all but the first of each set of alike ones.

    Severity: a note from 1 % of the layer's filters, a warning from 10 %, serious from 50 %.

    Source: cosine and correlation as measures of redundancy; the limits are measured on SqueezeNet and the packaged
    ZFNet.
    """
    findings = [_duplicates(subject, layer, responses) for layer, responses in subject.responses.items()]
    return CheckRun(findings=tuple(finding for finding in findings if finding is not None))


def _duplicates(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    live, count = np.flatnonzero(~responses.constant), len(responses.constant)
    cosines = comparable_cosines(subject.filters(layer), live, SAME)
    agreement = correlations(responses.samples[:, live])
    by_weights, by_responses = (cosines >= SAME) & (agreement >= AGREE), agreement >= DUPLICATE
    alike = by_weights | by_responses
    share = (len(live) - connected_components(alike, directed=False)[0]) / count
    severity = graded(share, SHARES)
    if severity is None:
        return None
    pairs = _pairs(np.maximum(cosines - SAME, agreement - DUPLICATE), alike)
    (first, second), nearest = live[pairs[0]], tuple(pairs[0])
    what = (
        f"{share:.0%} of {count} filters repeat another one. Pairs with nearly the same weights (cosine from {SAME}): "
        f"{_count(by_weights)}; pairs with nearly the same responses (correlation from {DUPLICATE}): "
        f"{_count(by_responses)}. The nearest pair is filters {first} and {second}: cosine {cosines[nearest]:.2f}, "
        f"correlation {agreement[nearest]:.2f}."
    )
    return Finding(
        check="duplicates",
        severity=severity,
        layer=layer,
        channels=tuple(np.unique(live[pairs]).tolist()),
        what=what,
        value=share,
        threshold=SHARES[0],
        unit="share of the layer's filters",
        source=f"measured: cosine {SAME}, correlation {DUPLICATE}",
        remedy=_fewer(subject.depthwise(layer)),
        evidence=_side_by_side(subject, layer, live[pairs]),
    )


def _fewer(depthwise: bool) -> str:
    """Return what to try against filters that repeat each other."""
    often = " If many repeat each other, see whether the weights were initialised at random."
    if depthwise:
        return (
            "Each filter reads a channel of its own, so equal weights cost little. Where the responses are the same "
            f"too, use fewer channels in the layer before, whose channels then repeat each other.{often}"
        )
    return (
        "Use fewer filters, or remove one of each pair and add its weights in the next layer to those of the other."
        f"{often}"
    )


@check("flipped", "Filters that are each other's negative")
def flipped(subject: Subject) -> CheckRun:
    """Pairs of live filters whose weights are each other's negative (cosine down to -0.9): one pattern, both signs.

    Their responses must not rise together (correlation below 0). Such pairs cost little and are common in first layers,
    because a rectifier passes one sign only; they say that half of these filters could be saved.

    Severity: a note from 5 % of the layer's filters, a warning from 25 %, serious from 50 %.

    Source: Shang et al. 2016: lower layers learn filters in pairs of opposite phase. The cosine is measured.
    """
    findings = [_flipped(subject, layer, responses) for layer, responses in subject.responses.items()]
    return CheckRun(findings=tuple(finding for finding in findings if finding is not None))


def _flipped(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    live, count = np.flatnonzero(~responses.constant), len(responses.constant)
    cosines = comparable_cosines(subject.filters(layer), live, SAME)
    opposite = (cosines <= -SAME) & (correlations(responses.samples[:, live]) < 0)
    share = float(opposite.any(1).sum()) / count
    severity = graded(share, FLIPPED_SHARES)
    if severity is None:
        return None
    pairs = _pairs(-cosines, opposite)
    first, second = live[pairs[0]]
    what = (
        f"{share:.0%} of {count} filters have a negative among the others (pairs: {len(pairs)}). The nearest pair is "
        f"filters {first} and {second}, with a cosine of {cosines[tuple(pairs[0])]:.2f}."
    )
    return Finding(
        check="flipped",
        severity=severity,
        layer=layer,
        channels=tuple(np.unique(live[pairs]).tolist()),
        what=what,
        value=share,
        threshold=FLIPPED_SHARES[0],
        unit="share of the layer's filters",
        source=f"Shang et al. 2016 (pairs of opposite phase); measured: cosine -{SAME}",
        remedy="A rectifier that keeps both signs (concatenated ReLU) needs only one filter for each such pair."
        if subject.build.rectifier(layer) is not None
        else "No rectifier follows that would drop a sign: the next layer can read both from one filter of each pair.",
        evidence=_side_by_side(subject, layer, live[pairs]),
    )


def _pairs(strength: NDArray[np.float64], alike: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the pairs that are alike, int [pairs, 2], the strongest first."""
    rows, columns = np.nonzero(np.triu(alike, 1))
    order = np.argsort(-strength[rows, columns], kind="stable")
    return np.stack([rows[order], columns[order]], 1)


def _count(alike: NDArray[np.bool_]) -> int:
    """Return the number of pairs in a symmetric matrix."""
    return int(np.triu(alike, 1).sum())


def _side_by_side(subject: Subject, layer: str, pairs: NDArray[np.intp]) -> Evidence:
    """Show the filters of pairs [n, 2], the two of a pair next to each other."""
    channels = pairs[: SHOWN // 2].ravel()
    return Evidence(
        kind="tiles",
        arrays={"pictures": subject.tiles(layer, channels)},
        labels=tuple(f"filter {channel}" for channel in channels),
        x=f"Pairs of filters, the nearest pair first. {subject.tiles_show(layer)}",
    )

"""Checks of pairs of filters: the same one twice, and each other's negative."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from deconvviz.metrics.intervals import DUPLICATE, correlations
from deconvviz.run.responses import LayerResponses
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, TileSet, graded
from deconvviz.studies.diagnosis.measures.readers import readers_of
from deconvviz.studies.diagnosis.measures.similarity import comparable_cosines
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Floats

SHARES = (0.01, 0.1, 0.5)  # of the layer's filters; this package's grading
FLIPPED_SHARES = (0.05, 0.25, 0.5)
# Cosine between the weights of two filters. Measured: 10 pairs of live filters in SqueezeNet's 25 layers reach it, none
# in the packaged ZFNet; by chance 4 in 10^11 pairs of directions do in 27 dimensions, 2 in 10^4 in 9.
SAME = 0.9
# Correlation of two filters' responses, from which equal weights count. Measured: SqueezeNet's features.10.expand1x1
# has 6 pairs with a cosine above 0.9 whose responses do not correlate (0.02): their largest weights read a channel that
# is dead, and mean nothing.
AGREE = 0.5
EQUAL = 0.9999  # cosine from which weights are the same but for rounding
SHOWN, EACH = 24, 6  # tiles of a figure, and of a set of filters in it


class Alike(NamedTuple):
    """Which live filters of a layer are alike, or each other's negative.

    Attributes:
        live: int [m], the channels that are compared.
        cosines: float64 [m, m], of their weights.
        agreement: float64 [m, m], the correlations of their responses.
        by_weights: bool [m, m], symmetric: which pairs count because of their weights.
        by_responses: bool [m, m]: which do because of their responses.
        pairs: int [pairs, 2], the pairs that count for either reason, the nearest first, as places in `live`.
    """

    live: NDArray[np.intp]
    cosines: Floats
    agreement: Floats
    by_weights: NDArray[np.bool_]
    by_responses: NDArray[np.bool_]
    pairs: NDArray[np.intp]

    @property
    def either(self) -> NDArray[np.bool_]:
        """bool [m, m], which pairs count."""
        return self.by_weights | self.by_responses

    def sets(self) -> list[list[int]]:
        """Return the filters that are connected by pairs, as places in `live`, the set of the nearest pair first."""
        of = connected_components(self.either, directed=False)[1]
        members: dict[int, list[int]] = {}
        for place in self.pairs.ravel().tolist():
            together = members.setdefault(int(of[place]), [])
            if place not in together:
                together.append(place)
        return list(members.values())

    def label(self, members: list[int]) -> str:
        """Say why the filters of a set count as alike, with the range of their cosines and correlations."""
        rows, columns = np.nonzero(np.triu(self.either[np.ix_(members, members)], 1))
        first, second = np.array(members)[rows], np.array(members)[columns]
        reasons = [
            name
            for name, which in (("weights", self.by_weights), ("responses", self.by_responses))
            if which[first, second].any()
        ]
        left = len(members) - EACH
        more = f"; {left} more {'filter' if left == 1 else 'filters'}" if left > 0 else ""
        return (
            f"by {' and '.join(reasons)}: cosine {_range(self.cosines[first, second])}, "
            f"correlation {_range(self.agreement[first, second])}{more}"
        )


def _range(values: Floats) -> str:
    """Return the smallest and the largest value as text, one of them where they look the same."""
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"


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
    findings = [_duplicates(subject, *item) for item in subject.watched_layers("repeated filters")]
    return CheckRun(findings=tuple(finding for finding in findings if finding is not None))


def _duplicates(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    count = len(responses.constant)
    alike = _alike(subject, layer, responses)
    share = (len(alike.live) - connected_components(alike.either, directed=False)[0]) / count
    severity = graded(share, SHARES)
    if severity is None:
        return None
    nearest = alike.pairs[0]
    first, second = alike.live[nearest]
    what = (
        f"{share:.0%} of {count} filters repeat another one. Pairs with nearly the same weights (cosine from {SAME}): "
        f"{_count(alike.by_weights)}; pairs with nearly the same responses (correlation from {DUPLICATE}): "
        f"{_count(alike.by_responses)}. The nearest pair is filters {first} and {second}: cosine "
        f"{alike.cosines[tuple(nearest)]:.2f}, correlation {alike.agreement[tuple(nearest)]:.2f}."
    )
    return Finding(
        check="duplicates",
        severity=severity,
        layer=layer,
        channels=tuple(np.unique(alike.live[alike.pairs]).tolist()),
        what=what,
        value=share,
        threshold=SHARES[0],
        unit="share of the layer's filters",
        source=f"the share is this package's grading. From which cosine ({SAME}) and "
        f"correlation ({DUPLICATE}) two are alike was measured on SqueezeNet and the packaged ZFNet",
        remedy=_fewer(subject, layer, alike),
        evidence=_in_sets(subject, layer, alike),
    )


def _alike(subject: Subject, layer: str, responses: LayerResponses) -> Alike:
    """Return which live filters of a layer are alike."""
    live = np.flatnonzero(~responses.constant)
    cosines = comparable_cosines(subject.filters(layer), live, SAME)
    agreement = correlations(responses.samples[:, live])
    by_weights, by_responses = (cosines >= SAME) & (agreement >= AGREE), agreement >= DUPLICATE
    strength = np.maximum(cosines - SAME, agreement - DUPLICATE)
    return Alike(live, cosines, agreement, by_weights, by_responses, _pairs(strength, by_weights | by_responses))


def _fewer(subject: Subject, layer: str, alike: Alike) -> str:
    """Return what to try against filters that repeat each other."""
    equal = alike.by_weights & (alike.cosines >= EQUAL)
    began = " Most of these pairs have exactly the same weights: filters that begin alike and read alike stay so. See "
    began += "how the weights were initialised."
    often = began if 2 * _count(equal) > len(alike.pairs) else ""
    return f"{_merged(subject, layer)}{often}"


def _merged(subject: Subject, layer: str) -> str:
    """Say how one filter of each pair can be taken out: it depends on who reads the layer."""
    readers = readers_of(subject.network, layer)
    if subject.depthwise(layer):
        return (
            "Each filter reads a channel of its own, so equal weights cost little. Where the responses are the same "
            "too, use fewer channels in the layer before, whose channels then repeat each other."
        )
    if readers.mixed:
        return (
            "Use fewer filters. None can be removed by itself, because their channels are added to or multiplied with "
            "those of another layer, or returned."
        )
    if readers.depthwise:
        return (
            "Use fewer filters. To remove one of a pair from the trained network, remove the depthwise filter that "
            "reads it as well, and in the layer after that add its weights to those of the other one. That is right "
            "only where the two depthwise filters are alike too; otherwise train on afterwards."
        )
    return (
        "Use fewer filters, or, where the responses are the same, remove one of each pair and add its weights in the "
        "next layer to those of the other, times the ratio of their responses."
    )


@check("flipped", "Filters that are each other's negative")
def flipped(subject: Subject) -> CheckRun:
    """Pairs of live filters whose weights are each other's negative (cosine down to -0.9): one pattern, both signs.

    Their responses must not rise together (correlation below 0). Such pairs cost little and are common in first layers,
    because a rectifier passes one sign only; they say that half of these filters could be saved.

    Severity: a note from 5 % of the layer's filters, a warning from 25 %, serious from 50 %.

    Source: Shang et al. 2016: lower layers learn filters in pairs of opposite phase. The cosine is measured.
    """
    findings = [_flipped(subject, *item) for item in subject.watched_layers("opposite filters")]
    return CheckRun(findings=tuple(finding for finding in findings if finding is not None))


def _flipped(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    count = len(responses.constant)
    opposite = _opposite(subject, layer, responses)
    share = float(opposite.either.any(1).sum()) / count
    severity = graded(share, FLIPPED_SHARES)
    if severity is None:
        return None
    nearest = opposite.pairs[0]
    first, second = opposite.live[nearest]
    what = (
        f"{share:.0%} of {count} filters have a negative among the others (pairs: {len(opposite.pairs)}). The nearest "
        f"pair is filters {first} and {second}, with a cosine of {opposite.cosines[tuple(nearest)]:.2f}."
    )
    return Finding(
        check="flipped",
        severity=severity,
        layer=layer,
        channels=tuple(np.unique(opposite.live[opposite.pairs]).tolist()),
        what=what,
        value=share,
        threshold=FLIPPED_SHARES[0],
        unit="share of the layer's filters",
        source="the share is this package's grading. From which cosine "
        f"(-{SAME}) two are opposite was measured; Shang et al. 2016 find pairs of opposite phase",
        remedy="A rectifier that keeps both signs (concatenated ReLU) needs only one filter for each such pair."
        if subject.build.rectifier(layer) is not None
        else "No rectifier follows that would drop a sign: the next layer can read both from one filter of each pair.",
        evidence=_in_sets(subject, layer, opposite),
    )


def _opposite(subject: Subject, layer: str, responses: LayerResponses) -> Alike:
    """Return which live filters of a layer are each other's negative, by their weights."""
    live = np.flatnonzero(~responses.constant)
    cosines = comparable_cosines(subject.filters(layer), live, SAME)
    agreement = correlations(responses.samples[:, live])
    opposite = (cosines <= -SAME) & (agreement < 0)
    return Alike(live, cosines, agreement, opposite, np.zeros_like(opposite), _pairs(-cosines, opposite))


def _pairs(strength: NDArray[np.float64], alike: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the pairs that are alike, int [pairs, 2], the strongest first."""
    rows, columns = np.nonzero(np.triu(alike, 1))
    order = np.argsort(-strength[rows, columns], kind="stable")
    return np.stack([rows[order], columns[order]], 1)


def _count(alike: NDArray[np.bool_]) -> int:
    """Return the number of pairs in a symmetric matrix."""
    return int(np.triu(alike, 1).sum())


def _in_sets(subject: Subject, layer: str, alike: Alike) -> Evidence:
    """Show the filters that are alike, each set of them next to each other, the set of the nearest pair first."""
    sets, channels, room = [], [], SHOWN
    for members in alike.sets():
        shown = alike.live[members[:EACH]].tolist()
        if len(shown) > room:
            break
        room -= len(shown)
        channels += shown
        sets.append(TileSet(tiles=len(shown), label=alike.label(members)))
    return Evidence(
        kind="tiles",
        arrays={"pictures": subject.tiles(layer, channels)},
        labels=subject.tile_names(layer, channels),
        x=f"Sets of filters, that of the nearest pair first. {subject.tiles_show(layer)}",
        sets=tuple(sets),
    )

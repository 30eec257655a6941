"""Checks of a layer's filters: dead ones, one that drowns the others, and the same one twice.

Shares of a layer are graded alike: from 1 % of its filters a note, from 10 % a warning, from 50 % serious. That grading
is this package's; what is counted is the sources'.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from scipy.special import betainc  # type: ignore[import-untyped]

from deconvviz.models.zfnet import PAPER_RADIUS, PAPER_RANGE
from deconvviz.studies.diagnosis.finding import Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.measures.filters import Filters
from deconvviz.studies.diagnosis.measures.responses import LayerResponses
from deconvviz.studies.diagnosis.subject import Subject

SHARES = (0.01, 0.1, 0.5)
RARE = 0.01  # of the images: a filter that fires in fewer is nearly dead
RARE_SHARES = (0.05, 0.25, 0.75)  # of the layer: a rare filter may be right for a rare thing
ENOUGH = 200  # images: with fewer, to fire in less than 1 % of them is to fire in none or one
# Of a filter's RMS to the layer's median. Measured: the largest ratio in SqueezeNet's 25 layers is 2.3, in the packaged
# ZFNet's seven 1.6 (tests/test_diagnosis_filters.py holds it).
RATIOS = (3.0, 5.0, 10.0)
ROUNDING = 1.002  # weights kept in half precision may lie this far above the radius that they were scaled to
# Cosine between the weights of two filters. Measured: 10 pairs of live filters in SqueezeNet's 25 layers reach it, none
# in the packaged ZFNet; by chance 4 in 10^11 pairs of directions do in 27 dimensions, 2 in 10^4 in 9.
SAME = 0.9
# ... where their responses agree as far. Measured: SqueezeNet's features.10.expand1x1 has 6 pairs of a cosine above 0.9
# whose responses do not correlate (0.02): their largest weights read a channel that is dead, and say nothing.
AGREE = 0.5
ECHO = 0.95  # correlation of two filters' responses over images and positions: 90 % of one's variance is the other's
FLIPPED_SHARES = (0.05, 0.25, 0.5)
SHOWN = 24  # tiles or bars of a figure


@check("dead", "Dead and nearly dead filters")
def dead(subject: Subject) -> Iterator[Finding]:
    """Filters that answer nothing: the same value at every position of every image, of a rectified filter zero.

    Dead: a note from 1 % of the layer's filters, a warning from 10 %, serious from 50 %. Nearly dead, where a rectified
    filter fires in fewer than 1 % of at least 200 images: from 5 %, 25 % and 75 %.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6 (b): "dead" features in the first layer.
    """
    for layer, found in subject.responses.items():
        gone = np.flatnonzero(found.constant)
        yield from _dead(subject, layer, gone, found)
        fired = (found.maxima > 0).mean(0)
        rare = np.flatnonzero((fired < RARE) & ~found.constant)
        severity = graded(len(rare) / len(fired), RARE_SHARES)
        if severity and subject.rectified(layer) and len(found.maxima) >= ENOUGH:
            what = f"{len(rare)} of {len(fired)} filters fire in fewer than {RARE:.0%} of {len(found.maxima)} images."
            yield Finding(
                "dead",
                severity,
                layer,
                _channels(rare),
                what,
                len(rare) / len(fired),
                RARE_SHARES[0],
                "share of the layer's filters",
                "the share is this package's grading; Zeiler and Fergus 2013, figure 6",
                "Look at what they answer to (mine): a rare thing, or nothing; if nothing, as for dead filters.",
                _rates(fired),
            )


def _dead(subject: Subject, layer: str, gone: NDArray[np.intp], found: LayerResponses) -> Iterator[Finding]:
    images, count = found.maxima.shape
    share, filters = len(gone) / count, subject.filters(layer)
    severity = graded(share, SHARES)
    if severity is None:
        return
    what = f"{len(gone)} of {count} filters are dead: {'never above zero' if subject.rectified(layer) else 'constant'}"
    what += f" in {images} images."
    remedy = (
        "Train with a lower rate at first, or with BatchNorm or a leaky rectifier; or remove them, which costs nothing."
    )
    if filters is not None:
        empty = int((filters.rms[gone] < 0.01 * np.median(filters.rms)).sum())
        what += f" The weights of {empty} of them have vanished." if empty else ""
    evidence = _rates((found.maxima > 0).mean(0))
    if filters is not None and filters.of_image:
        evidence = Evidence("tiles", {"pictures": subject.tiles(layer, gone[:SHOWN])}, _names(gone[:SHOWN]))
    yield Finding(
        "dead",
        severity,
        layer,
        _channels(gone),
        what,
        share,
        SHARES[0],
        "share of the layer's filters",
        "Zeiler and Fergus 2013, section 4.1 and figure 6 (dead features); the share is this package's grading",
        remedy,
        evidence,
    )


@check("dominating", "Filters that drown their layer")
def dominating(subject: Subject) -> Iterator[Finding]:
    """Filters whose weights are much larger than the others', by their root mean square (RMS).

    Two limits: 3 times the median of the layer's live filters is a note, 5 times a warning, 10 times serious; and in a
    network that was trained on the paper's inputs (about -128 to 128), 0.1, to which the paper scales such filters
    back, is a warning. Weights count with the factor of the BatchNorm behind them.

    Source: Zeiler and Fergus 2013, section 3 and figure 6 (a): a few filters dominate unless the RMS is kept to 0.1.
    """
    paper = all(abs(deviation - PAPER_RANGE[0]) < 1e-9 for deviation in subject.preprocess.std)
    for layer, found in subject.responses.items():
        filters = subject.filters(layer)
        if filters is None or found.constant.all():
            continue
        rms = filters.rms
        typical = float(np.median(rms[~found.constant]))
        ratio = rms / typical if typical > 0 else np.zeros(len(rms))
        over = bool(paper and filters.weights.shape[2] > 1 and rms.max() > PAPER_RADIUS * ROUNDING)
        severity = graded(max(float(ratio.max()), RATIOS[1] if over else 0.0), RATIOS)
        if severity is None:
            continue
        relative = bool(ratio.max() >= RATIOS[0])
        limit = RATIOS[0] * typical if relative else PAPER_RADIUS
        large = np.flatnonzero(rms >= limit)
        large = large[np.argsort(-rms[large], kind="stable")]
        energy = found.squares[large].sum() / found.squares.sum()
        fired = ["3 times the median"] * relative + [f"the paper's radius of {PAPER_RADIUS}"] * over
        what = (
            f"{len(large)} of {len(rms)} filters exceed {' and '.join(fired)}: filter {large[0]} has an RMS of "
            f"{rms[large[0]]:.3g}, {ratio[large[0]]:.1f} times the median; together they make {energy:.0%} of the "
            "layer's squared response."
        )
        value, threshold = (float(ratio.max()), RATIOS[0]) if relative else (float(rms.max()), PAPER_RADIUS)
        order = np.argsort(-rms, kind="stable")[:SHOWN]
        yield Finding(
            "dominating",
            severity,
            layer,
            _channels(large),
            what,
            value,
            threshold,
            "RMS of the weights, in medians of the layer" if relative else "RMS of the weights",
            "measured: at most 2.3 in SqueezeNet and the packaged ZFNet"
            if relative
            else "Zeiler and Fergus 2013, section 3",
            "Scale filters back whose RMS exceeds a radius (train --radius 0.1), decay weights, or normalise.",
            Evidence(
                "bars",
                {"values": rms[order]},
                _names(order),
                "filter, the largest first",
                "RMS of the weights",
                float(limit),
            ),
        )


@check("duplicates", "The same filter twice")
def duplicates(subject: Subject) -> Iterator[Finding]:
    """Pairs of live filters with nearly the same weights (cosine from 0.9) or answers (correlation from 0.95).

    The weights count where the answers agree at all (correlation from 0.5): weights of inputs that are always zero are
    idle. They are not compared where chance alone would bring a pair so close: in 1x1 convolutions of a few channels,
    or between groups. The share is that of the filters beyond the first of each set of alike ones: a note from 1 % of
    the layer's filters, a warning from 10 %, serious from 50 %.

    Source: cosine and correlation as measures of redundancy; the limits are measured, see this module's constants.
    """
    for layer, found in subject.responses.items():
        live = np.flatnonzero(~found.constant)
        cosines, echoes = _cosines(subject.filters(layer), live), _correlations(found.samples[:, live])
        twins = (cosines >= SAME) & (echoes >= AGREE)
        alike = twins | (echoes >= ECHO)
        share = (len(live) - connected_components(alike, directed=False)[0]) / len(found.constant)
        severity = graded(share, SHARES)
        if severity is None:
            continue
        pairs = _pairs(np.maximum(cosines - SAME, echoes - ECHO), alike)
        names = tuple(
            f"{live[i]} | {live[j]}: cosine {cosines[i, j]:.2f}, correlation {echoes[i, j]:.2f}" for i, j in pairs
        )
        both = [int(np.triu(matrix, 1).sum()) for matrix in (twins, echoes >= ECHO)]
        what = (
            f"{share:.0%} of {len(found.constant)} filters repeat another. Pairs by weights (cosine from {SAME}): "
            f"{both[0]}, by responses (correlation from {ECHO}): {both[1]}. Nearest: {names[0]}."
        )
        shown = live[pairs[: SHOWN // 2].ravel()]
        yield Finding(
            "duplicates",
            severity,
            layer,
            _channels(np.unique(live[pairs])),
            what,
            share,
            SHARES[0],
            "share of the layer's filters",
            f"measured: cosine {SAME}, correlation {ECHO}",
            "Use fewer filters, or remove one of each pair and give its readers' weights to the other; check the seed.",
            Evidence("tiles", {"pictures": subject.tiles(layer, shown)}, _names(shown)),
        )


@check("flipped", "Filters that are each other's negative")
def flipped(subject: Subject) -> Iterator[Finding]:
    """Pairs of live filters whose weights are each other's negative (cosine to -0.9, answers that do not go
    together): one pattern, both signs.

    It costs little and is common in first layers, since a rectifier passes one sign only; it says that half of these
    filters could be saved. A note from 5 % of the layer's filters, a warning from 25 %, serious from 50 %.

    Source: Shang et al. 2016 (lower layers learn filters in pairs of opposite phase).
    """
    for layer, found in subject.responses.items():
        live = np.flatnonzero(~found.constant)
        cosines = _cosines(subject.filters(layer), live)
        opposite = (cosines <= -SAME) & (_correlations(found.samples[:, live]) < 0)
        share = float(opposite.any(1).sum()) / len(found.constant)
        severity = graded(share, FLIPPED_SHARES)
        if severity is None:
            continue
        pairs = _pairs(-cosines, opposite)
        first, second = live[pairs[0]]
        shown = live[pairs[: SHOWN // 2].ravel()]
        what = (
            f"{share:.0%} of {len(found.constant)} filters have a negative among the others (pairs: {len(pairs)}). "
            f"Nearest: {first} | {second}, cosine {cosines[tuple(pairs[0])]:.2f}."
        )
        yield Finding(
            "flipped",
            severity,
            layer,
            _channels(np.unique(live[pairs])),
            what,
            share,
            FLIPPED_SHARES[0],
            "share of the layer's filters",
            f"Shang et al. 2016 (pairs of opposite phase); measured: cosine -{SAME}",
            "A rectifier that keeps both signs (concatenated ReLU) needs one filter for each such pair.",
            Evidence("tiles", {"pictures": subject.tiles(layer, shown)}, _names(shown)),
        )


def _cosines(filters: Filters | None, live: NDArray[np.intp]) -> NDArray[np.float64]:
    """Cosines between the live filters, zero on the diagonal and where chance would bring some pair to SAME."""
    nothing = np.zeros((len(live), len(live)))
    if filters is None:
        return nothing
    dimensions = filters.weights[0].size
    chance = 0.5 * betainc((dimensions - 1) / 2, 0.5, 1 - SAME**2) if dimensions > 1 else 1.0
    if chance * len(live) * (len(live) - 1) / 2 >= 0.5:
        return nothing
    found = filters.cosines[np.ix_(live, live)]
    np.fill_diagonal(found, 0)
    return found


def _correlations(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlations between columns, zero on the diagonal and for columns that do not vary."""
    centred = samples - samples.mean(0, dtype=np.float64)
    lengths = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    found = np.asarray(unit.T @ unit, np.float64)
    np.fill_diagonal(found, 0)
    return found


def _pairs(strength: NDArray[np.float64], alike: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The pairs that are alike, int [pairs, 2], the strongest first."""
    rows, columns = np.nonzero(np.triu(alike, 1))
    order = np.argsort(-strength[rows, columns], kind="stable")
    return np.stack([rows[order], columns[order]], 1)


def _rates(fired: NDArray[np.float64]) -> Evidence:
    return Evidence("histogram", {"values": fired}, (), "share of the images in which a filter fires", "filters", RARE)


def _channels(found: NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(channel) for channel in found)


def _names(found: NDArray[np.intp]) -> tuple[str, ...]:
    return tuple(str(int(channel)) for channel in found)

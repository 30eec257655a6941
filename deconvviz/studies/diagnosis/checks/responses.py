"""Checks of what a layer answers: filters that are always on or tell no class, layers that use few directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deconvviz.studies.diagnosis.finding import Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.subject import Subject

ALWAYS = 0.99  # of all positions of all images: above, the rectifier passes everything and might as well not be there
CEILING = 0.99  # of a filter's range: what is above stands at its ceiling
STUCK = 0.5  # of the positions: a filter that is at its ceiling as often says nothing by its height
ON_SHARES = (0.25, 0.5, 0.9)  # of the layer; measured: up to 0.38 in SqueezeNet's first squeeze layers, 0 in the ZFNet
LATE = 2 / 3  # of the depth: from here on filters are expected to tell classes
EACH = 5  # images that a class needs to take part
SHUFFLES, CONFIDENCE = 20, 0.95
BLIND_SHARES = (0.1, 0.5, np.inf)
RANKS = (0.03, 0.02, 0.01)  # measured: at least 0.052 in SqueezeNet's 25 layers on 500 photos, 0.09 in the ZFNet


@check("saturated", "Filters that are always on, or at their ceiling")
def saturated(subject: Subject) -> Iterator[Finding]:
    """Filters that fire at 99 % of all positions and more, and filters that are at their ceiling at half of them.

    The first are linear: their rectifier does nothing; only rectified layers are asked. At the ceiling means within 1 %
    of the largest value anywhere, as a clipped rectifier or a sigmoid ends up. A note from 25 % of the layer's filters,
    a warning from 50 %, serious from 90 %.

    Source: Glorot and Bengio 2010, section 3 (saturated units); the limits are this package's, the shares measured.
    """
    for layer, found in subject.responses.items():
        firing = found.firing.mean(0)
        reach = found.highest - found.lowest
        stuck = (found.samples >= found.highest - (1 - CEILING) * reach).mean(0)
        on = (firing >= ALWAYS) & ~found.constant & subject.rectified(layer)
        full = (stuck >= STUCK) & ~found.constant
        share = float((on | full).mean())
        severity = graded(share, ON_SHARES)
        if severity is None:
            continue
        yield Finding(
            "saturated",
            severity,
            layer,
            _channels(on | full),
            f"{int((on | full).sum())} of {len(on)} filters are saturated: {int(on.sum())} fire at {ALWAYS:.0%} of the "
            f"positions or more, {int(full.sum())} are at their ceiling at {STUCK:.0%} or more.",
            share,
            ON_SHARES[0],
            "share of the layer's filters",
            "measured: up to 38 % in SqueezeNet's first squeeze layers, which hand colours on; Glorot and Bengio 2010",
            "Where the layer shall not be linear: smaller biases, BatchNorm, a lower rate at the start, no clipping.",
            Evidence(
                "histogram",
                {"values": np.where(full, stuck, firing)},
                (),
                "share of the positions at which a filter fires",
                "filters",
                ALWAYS,
            ),
        )


@check("class-blind", "Late filters that tell no class", needs=("labels",))
def class_blind(subject: Subject) -> Iterator[Finding]:
    """Filters of late layers whose selectivity index is no higher than with the images' classes shuffled.

    The index is (m - r) / (m + r), of a filter's mean response to its best class m and to all others r. With few images
    a class it is above 0 by chance: a filter is blind where its index is below the 95th percentile of 20 shuffles, over
    the layer. Only rectified layers in the last third of the depth are asked: early ones are blind to classes and ought
    to be. A note from 10 % of the layer's live filters, a warning from 50 %; never serious, for networks that lean on
    single selective filters generalise worse.

    Source: Morcos et al. 2018, section 2.3 (the index), 3 (selectivity is no merit in itself); the null is this
    package's.
    """
    counts = np.bincount(subject.labels[subject.labels >= 0], minlength=len(subject.classes))
    if (counts >= EACH).sum() < 2:
        reason = f"needs two classes with {EACH} images each; the largest has {counts.max(initial=0)}"
        return subject.skip("class-blind", reason)
    labels = np.where(counts[np.maximum(subject.labels, 0)] >= EACH, subject.labels, -1)
    rng = np.random.default_rng([subject.seed, 11])
    for layer, found in subject.responses.items():
        live = ~found.constant
        if not subject.rectified(layer) or subject.depth(layer) < LATE or found.lowest.min() < 0 or not live.any():
            continue
        index = selectivity(found.by_class(labels, len(counts)))[live]
        known = np.flatnonzero(labels >= 0)
        shuffled = []
        for _ in range(SHUFFLES):
            mixed = labels.copy()
            mixed[known] = rng.permutation(labels[known])
            shuffled.append(selectivity(found.by_class(mixed, len(counts)))[live])
        limit = np.quantile(shuffled, CONFIDENCE, axis=0)
        blind = index <= limit
        share = float(blind.mean())
        severity = graded(share, BLIND_SHARES)
        if severity is None:
            continue
        yield Finding(
            "class-blind",
            severity,
            layer,
            tuple(int(c) for c in np.flatnonzero(live)[blind]),
            f"{int(blind.sum())} of {len(blind)} live filters answer alike to {int((counts >= EACH).sum())} classes: "
            f"their selectivity (median {np.median(index[blind]):.2f}, of the others "
            f"{np.median(index[~blind]) if (~blind).any() else 0:.2f}) is no higher than with shuffled classes.",
            share,
            BLIND_SHARES[0],
            "share of the layer's live filters",
            f"Morcos et al. 2018 (the index); {SHUFFLES} shuffles of the classes",
            "In the last layers such filters carry nothing about these classes: fewer may do, or train longer.",
            Evidence("histogram", {"values": index}, (), "class selectivity index", "filters", float(np.median(limit))),
        )


@check("rank", "Layers that use few directions")
def rank(subject: Subject) -> Iterator[Finding]:
    """Effective rank of a layer's mean responses over the images, on a scale from 0 (one direction) to 1 (all alike).

    The effective rank is the exponential of the entropy of the covariance's eigenvalues; on the scale, what it exceeds
    1 by, divided by what the smaller of live channels and images allows. From 0.03 downwards a note, 0.02 a warning,
    0.01 serious. In the last third of the depth no layer is named that keeps half as many directions as there are
    classes to tell apart: trained to the end, it needs no more.

    Source: Roy and Vetterli 2007 (effective rank); Papyan et al. 2020 (features collapse to the classes); the limits
    are measured.
    """
    outputs = 0 if subject.logits is None else subject.logits.shape[1]
    for layer, found in subject.responses.items():
        means = found.means[:, ~found.constant].astype(np.float64)
        room = min(means.shape[1], len(means) - 1)
        if room < 4:
            continue
        spectrum = eigenvalues(means)
        effective = effective_rank(spectrum)
        value = (effective - 1) / (room - 1)
        severity = graded(-value, (-RANKS[0], -RANKS[1], -RANKS[2]))
        if severity is None or (subject.depth(layer) >= LATE and effective >= (outputs - 1) / 2 > 0):
            continue
        yield Finding(
            "rank",
            severity,
            layer,
            (),
            f"{means.shape[1]} live filters answer to {len(means)} images in {effective:.1f} directions of {room}; the "
            f"first holds {spectrum[0]:.0%} of the variance.",
            value,
            RANKS[0],
            "effective rank, from 0 (one direction) to 1 (all)",
            "Roy and Vetterli 2007; measured: at least 0.052 in SqueezeNet's layers",
            "Normalise the layer, initialise by its fan-in, or lower the rate; a layer of that few filters may do.",
            Evidence(
                "bars",
                {"values": spectrum[:24]},
                tuple(str(n) for n in range(1, len(spectrum[:24]) + 1)),
                "principal direction",
                "share of the variance",
            ),
        )


def selectivity(by_class: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each filter's class selectivity index, float64 [channels], 0 where it never answers.

    by_class: mean responses, float64 [classes, channels], at least 0; a class without images is NaN and left out.

    Source: Morcos et al. 2018, section 2.3: (m - r) / (m + r), m of the best class and r the mean of the others.
    """
    known = by_class[~np.isnan(by_class).any(1)]
    best = known.max(0)
    rest = (known.sum(0) - best) / max(len(known) - 1, 1)
    total = best + rest
    return np.asarray(np.divide(best - rest, total, out=np.zeros_like(total), where=total > 0))


def eigenvalues(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance's eigenvalues as shares of their sum, the largest first, float64 [min(rows, columns)]."""
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return np.asarray(variances / variances.sum() if variances.sum() > 0 else variances)


def effective_rank(shares: NDArray[np.float64]) -> float:
    """Return the exponential of the entropy of shares that sum to 1; Roy and Vetterli 2007, definition 1."""
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def _channels(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(channel) for channel in np.flatnonzero(chosen))

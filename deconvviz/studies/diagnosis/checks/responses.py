"""Checks of what a layer responds: filters that are always on or distinguish no class, layers of few directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deconvviz.run.responses import SHUFFLES, LayerResponses
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, graded, verb
from deconvviz.studies.diagnosis.measures.build import either
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Floats, Ints

ALWAYS = 0.99  # of all positions: a rectifier that passes this much changes nothing and could be left out
CEILING = 0.99  # of a filter's range: a value above is at the filter's ceiling
STUCK = 0.5  # of the positions: a filter that is at its ceiling this often says nothing by its height
# Of the layer's filters; this package's grading. Measured: 0 in the packaged ZFNet, up to 0.38 in SqueezeNet's first
# squeeze layers, which hand colours on: that is worth a note, though it is no fault there.
ON_SHARES = (0.25, 0.5, 0.9)
LATE = 2 / 3  # of the depth: from here on, filters are expected to distinguish classes
EACH = 5  # images that a class needs to take part
BLIND_SHARES = (0.1, 0.5, np.inf)
RANKS = (0.03, 0.02, 0.01)  # measured: at least 0.052 in SqueezeNet's 25 layers on 500 photos, 0.09 in the ZFNet
FEWEST_DIRECTIONS = 4  # a layer that could have no more is not looked at
SHOWN = 24  # bars of a figure
NAMED = 4  # filters whose names a finding tells


# --- saturated filters -----------------------------------------------------------------------------------------------


@check("saturated", "Filters that are always on, or at their ceiling")
def saturated(subject: Subject) -> CheckRun:
    """Filters that fire at 99 % of all positions or more, and filters that are at their ceiling at half of them.

    The first kind is linear: its rectifier changes nothing. It is looked for in rectified layers only. A value is at
    the ceiling where it is within 1 % of the largest one in any image, as those of a clipped rectifier or a sigmoid
    come to be.

    Severity: a note from 25 % of the layer's filters, a warning from 50 %, serious from 90 %.

    Source: Glorot and Bengio 2010, section 3 (saturated units). The limits and the shares are this package's grading.
    """
    findings = [_saturated(subject, *item) for item in subject.watched_layers("saturated filters")]
    return CheckRun(findings=tuple(finding for finding in findings if finding is not None))


def _saturated(subject: Subject, layer: str, responses: LayerResponses) -> Finding | None:
    firing, reach = responses.firing.mean(0), responses.highest - responses.lowest
    at_ceiling = (responses.samples >= responses.highest - (1 - CEILING) * reach).mean(0)
    on = (firing >= ALWAYS) & ~responses.constant & subject.rectified(layer)
    stuck = (at_ceiling >= STUCK) & ~responses.constant
    share, count = float((on | stuck).mean()), int((on | stuck).sum())
    severity = graded(share, ON_SHARES)
    if severity is None:
        return None
    return Finding(
        check="saturated",
        severity=severity,
        layer=layer,
        channels=tuple(np.flatnonzero(on | stuck).tolist()),
        what=f"{count} of {len(on)} filters {verb(count)} saturated: {int(on.sum())} "
        f"{verb(int(on.sum()), 'fires', 'fire')} at {ALWAYS:.0%} of the positions or more, {int(stuck.sum())} "
        f"{verb(int(stuck.sum()), 'is at its', 'are at their')} ceiling at {STUCK:.0%} of them or more.",
        value=share,
        threshold=ON_SHARES[0],
        unit="share of the layer's filters",
        source="the share is this package's grading. A note need not be a fault: in "
        "SqueezeNet's first squeeze layers, which hand colours on, up to 38 % are always on; Glorot and Bengio 2010",
        remedy=_unsaturated(subject, layer, bool(on.any()), bool(stuck.any())),
        evidence=Evidence(
            kind="histogram",
            arrays={"values": np.where(stuck, at_ceiling, firing)},
            x="share of the positions at which a filter fires (of one at its ceiling: at which it is there)",
            y="number of filters",
            mark=ALWAYS,
        ),
    )


def _unsaturated(subject: Subject, layer: str, on: bool, stuck: bool) -> str:
    """Return what to try against filters that are always on, or stuck at their ceiling."""
    rectifier, normalised = subject.build.rectifier(layer), subject.build.standardised
    clips = rectifier is not None and rectifier.flat_above
    options = [
        ("a smaller shift in the normalisation" if normalised else "smaller biases") if on else "",
        "" if normalised else "BatchNorm",
        "a lower learning rate at the start",
    ]
    advice = f"If the layer is meant to be nonlinear: use {either(options)[0].lower()}{either(options)[1:]}"
    return f"{advice} A rectifier that does not clip has no ceiling to be stuck at." if stuck and clips else advice


# --- late filters that distinguish no class --------------------------------------------------------------------------


@check("class-blind", "Late filters that do not distinguish the classes", needs=("labels",))
def class_blind(subject: Subject) -> CheckRun:
    """Filters of late layers whose class selectivity is no higher than with the classes of the images shuffled.

    The class selectivity index is (m - r) / (m + r): m is a filter's mean response to its best class, r that to all
    others. With few images of a class it is above 0 by chance. A filter counts as blind where its index is not above
    the 95th percentile of 20 shuffles. Only rectified layers in the last third of the depth are looked at: early
    filters are expected to respond to edges and colours of all classes.

    Severity: a note from 10 % of the layer's live filters, a warning from 50 %. It is never serious, because networks
    that rely on single selective filters generalise worse.

    Source: Morcos et al. 2018, sections 2.3 (the index) and 3 (selectivity is no merit in itself). The comparison with
    shuffled classes is this package's.
    """
    counts = np.bincount(subject.labels[subject.labels >= 0], minlength=len(subject.classes))
    if (counts >= EACH).sum() < 2:
        return CheckRun.not_made(
            f"it needs two classes with {EACH} images each; the largest class has {counts.max(initial=0)}"
        )
    labels = np.where(counts[np.maximum(subject.labels, 0)] >= EACH, subject.labels, -1)
    rng = np.random.default_rng([subject.options.seed, 11])
    findings = []
    for layer, responses in subject.watched_layers("class selectivity"):
        late = subject.rectified(layer) and subject.depth(layer) >= LATE and responses.lowest.min() >= 0
        if late and not responses.constant.all():
            names = subject.options.concepts.get(layer, {})
            finding = _class_blind(layer, responses, labels, len(counts), rng, names)
            findings += [] if finding is None else [finding]
    return CheckRun(findings=tuple(findings))


def _class_blind(
    layer: str,
    responses: LayerResponses,
    labels: Ints,
    classes: int,
    rng: np.random.Generator,
    names: Mapping[int, str],
) -> Finding | None:
    live, labelled = ~responses.constant, np.flatnonzero(labels >= 0)
    index, limit = (each[live] for each in responses.selectivities(labels, classes, rng))
    blind = index <= limit
    share, compared = float(blind.mean()), len(np.unique(labels[labelled]))
    severity = graded(share, BLIND_SHARES)
    if severity is None:
        return None
    channels = tuple(np.flatnonzero(live)[blind].tolist())
    others = f"{np.median(index[~blind]):.2f}" if (~blind).any() else "there are none"
    return Finding(
        check="class-blind",
        severity=severity,
        layer=layer,
        channels=channels,
        what=f"{int(blind.sum())} of {len(blind)} live filters respond alike to {compared} classes: their class "
        f"selectivity (median {np.median(index[blind]):.2f}; of the other filters: {others}) is no higher than with "
        f"shuffled classes.{_detected(channels, names)}",
        value=share,
        threshold=BLIND_SHARES[0],
        unit="share of the layer's live filters",
        source="the share is this package's grading; Morcos et al. 2018 (the index), "
        f"compared with {SHUFFLES} shuffles of the classes",
        remedy="In the last layers such filters carry nothing about these classes: use fewer filters, or train longer.",
        evidence=Evidence(
            kind="histogram",
            arrays={"values": index},
            x="class selectivity index",
            y="number of filters",
            mark=float(np.median(limit)),
            mark_name="shuffled classes reach",
        ),
    )


def _detected(channels: Sequence[int], names: Mapping[int, str]) -> str:
    """Say what some filters detect all the same, by the names that were given; "" where none has a name.

    >>> _detected([3, 7, 9], {3: "wheel", 9: "blue"})
    ' Of them, filter 3 detects wheel, filter 9 detects blue.'
    """
    named = [f"filter {channel} detects {names[channel]}" for channel in channels if channel in names]
    more = f", and {len(named) - NAMED} more have names" if len(named) > NAMED else ""
    return f" Of them, {', '.join(named[:NAMED])}{more}." if named else ""


# --- layers that use few directions ----------------------------------------------------------------------------------


@check("rank", "Layers that use few directions")
def rank(subject: Subject) -> CheckRun:
    """Layers whose mean responses to the images vary in few directions.

    The effective rank is the exponential of the entropy of the covariance's eigenvalues: how many directions would vary
    if all that vary did so equally. It is put on a scale from 0, one direction, to 1, as many as the live channels and
    the images allow.

    Severity: a note from 0.03 downwards, a warning from 0.02, serious from 0.01. A layer in the last third of the depth
    is left out where it keeps half as many directions as there are classes: a network that was trained to the end needs
    no more there.

    Source: Roy and Vetterli 2007 (effective rank); Papyan et al. 2020 (features collapse to the classes). The limits
    are measured.
    """
    classes = 0 if subject.logits is None else subject.logits.shape[1]
    findings = []
    for layer, responses in subject.watched_layers("ranks"):
        told_apart = classes if subject.depth(layer) >= LATE else 0
        finding = _few_directions(layer, responses, told_apart, subject.build.standardised)
        findings += [] if finding is None else [finding]
    return CheckRun(findings=tuple(findings))


def _few_directions(layer: str, responses: LayerResponses, classes: int, normalised: bool) -> Finding | None:
    """Return the finding about a layer.

    `classes` is how many a late layer tells apart, 0 for an early one; `normalised` says whether the network has
    normalisation layers.
    """
    means = responses.means[:, ~responses.constant].astype(np.float64)
    room = min(means.shape[1], len(means) - 1)
    if room < FEWEST_DIRECTIONS:
        return None
    shares = eigenvalues(means)
    if not shares.any():  # the images are all alike: that says nothing of the layer
        return None
    effective = effective_rank(shares)
    value = (effective - 1) / (room - 1)
    severity = graded(value, RANKS)
    if severity is None or effective >= (classes - 1) / 2 > 0:
        return None
    return Finding(
        check="rank",
        severity=severity,
        layer=layer,
        channels=(),
        what=f"The responses of {means.shape[1]} live filters to {len(means)} images vary in {effective:.1f} "
        f"directions of {room} that are possible; the first direction has {shares[0]:.0%} of the variance.",
        value=value,
        threshold=RANKS[0],
        unit="effective rank, from 0 (one direction) to 1 (all)",
        source="lower is worse: it is at least 0.052 in SqueezeNet's layers (measured); Roy and Vetterli 2007",
        remedy=either(
            [
                "" if normalised else "normalise the layer",
                "initialise it by its number of inputs",
                "lower the learning rate",
            ]
        )
        + " If the network performs well, a layer with fewer filters may be enough.",
        evidence=Evidence(
            kind="bars",
            arrays={"values": shares[:SHOWN]},
            labels=tuple(str(n) for n in range(1, len(shares[:SHOWN]) + 1)),
            x="principal direction",
            y="share of the variance",
        ),
    )


def eigenvalues(rows: Floats) -> Floats:
    """Return the eigenvalues of the covariance of rows [n, columns], as shares of their sum.

    Returns:
        float64 [min(n, columns)], the largest first; zeros where nothing varies.
    """
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return np.asarray(variances / variances.sum() if variances.sum() > 0 else variances)


def effective_rank(shares: NDArray[np.floating]) -> float:
    """Return the exponential of the entropy of shares that sum to 1.

    Source: Roy and Vetterli 2007, definition 1.

    >>> round(effective_rank(np.array([0.5, 0.5, 0.0])), 6)
    2.0
    """
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))

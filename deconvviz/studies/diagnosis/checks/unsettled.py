"""Check of filters that were still changing when the training ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deconvviz.choices import Severity
from deconvviz.errors import MismatchError
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, Measured, Skipped, graded
from deconvviz.studies.diagnosis.measures.settling import Settling, settling, weights_over_time
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject

PACE = 0.5  # of the mean pace of the training: a filter that moves as fast at the end has not settled
UNSETTLED = (10.0, 30.0, 60.0)  # percent of a layer's filters
LOWERED = 0.1  # of the highest learning rate: one that ended here had come down
NAMED = 9  # layers that are named where the snapshots do not hold them


@check("unsettled", "Features that had not settled when the training ended", needs=("snapshots",))
def unsettled(subject: Subject) -> CheckRun:
    """Filters whose weights were still moving when the training ended.

    A filter's pace is how far its weights moved per epoch between the last two snapshots, divided by the straight
    distance per epoch from the first snapshot to the last: 0 for a filter at rest, 1 for one as fast as on the whole
    way, and more where it wanders. From 0.5 on, a filter has not settled. The value is the share of such filters in the
    layer that has most of them; the figure shows all layers. Where the snapshots hold the learning rate, the finding
    says how far it had come down.

    Severity: a note from 10 % of that layer's filters, a warning from 30 %, serious from 60 %.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 4 (when features converge). The measure, of the weights, is
    this package's.
    """
    assert subject.options.snapshots is not None
    try:
        history = weights_over_time(subject.network, subject.options.snapshots)
    except MismatchError as error:
        return CheckRun.not_made(str(error))
    layers = settling(history)
    worst = max(layers, key=_moving_share)
    severity = graded(_moving_share(worst), UNSETTLED)
    return CheckRun(
        findings=() if severity is None else (_moving(subject, worst, layers, severity),),
        measured=Measured(value=_moving_share(worst), unit="% of a layer's filters, the worst layer"),
        skipped=_missing(history.missing),
    )


def _missing(layers: Sequence[str]) -> Skipped | None:
    """Say which layers are not in the snapshots."""
    if not layers:
        return None
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return Skipped(reason=f"the snapshots do not hold {', '.join(layers[:NAMED])}{more}", part=True)


def _moving_share(settling: Settling) -> float:
    """Return the percentage of a layer's filters that have not settled."""
    return 100 * float((settling.pace >= PACE).mean())


def _moving(subject: Subject, worst: Settling, layers: Sequence[Settling], severity: Severity) -> Finding:
    fast, share = np.flatnonzero(worst.pace >= PACE), _moving_share(worst)
    fast = fast[np.argsort(-worst.pace[fast], kind="stable")]
    others = [
        f"{each.layer} {_moving_share(each):.0f} %" for each in layers if each is not worst and _moving_share(each)
    ]
    what = (
        f"Between epochs {worst.epochs[-2]:g} and {worst.epochs[-1]:g}, the last two that were kept, {len(fast)} of "
        f"{len(worst.pace)} filters of layer {worst.layer} ({share:.0f} %) moved at half their mean pace or more "
        f"(median {np.median(worst.pace):.2f}). Other layers with such filters: {', '.join(others) or 'none'}."
        f"{_learning_rate(subject)}"
    )
    return Finding(
        check="unsettled",
        severity=severity,
        layer=worst.layer,
        channels=tuple(fast.tolist()),
        what=what,
        value=share,
        threshold=UNSETTLED[0],
        unit="% of the layer's filters",
        source="the share is this package's grading, of filters that move at half the training's mean pace or faster",
        remedy=f"Train longer{_lowered(subject)}. Upper layers take longest: 40 to 50 epochs in the paper.",
        evidence=_distances(layers),
    )


def _rates(subject: Subject) -> list[float]:
    """Return the learning rates that the snapshots hold, in their order; empty where they hold none above zero."""
    snapshots = subject.options.snapshots
    rates = [] if snapshots is None else [float(row["lr"]) for row in snapshots.history if "lr" in row]
    return rates if max(rates, default=0) > 0 else []


def _learning_rate(subject: Subject) -> str:
    """Return a sentence about the last learning rate, with a space before it; empty where it is not known."""
    rates = _rates(subject)
    if not rates:
        return ""
    return f" The learning rate ended at {rates[-1]:.3g}, {rates[-1] / max(rates):.2g} of its highest value."


def _lowered(subject: Subject) -> str:
    """Return the advice to lower the learning rate, where it is not known to have come down."""
    rates = _rates(subject)
    return "" if rates and rates[-1] <= LOWERED * max(rates) else ", and lower the learning rate at the end"


def _distances(layers: Sequence[Settling]) -> Evidence:
    """Show how far the filters of each layer were from their final weights, epoch by epoch."""
    moved = [each for each in layers if not np.isnan(each.distance).all()]
    curves = np.stack([100 * np.nanmedian(each.distance, axis=1) for each in moved])
    return Evidence(
        kind="line",
        arrays={"x": layers[0].epochs, "y": curves},
        labels=tuple(each.layer for each in moved),
        x="epoch",
        y="distance from the final weights\n(% of the whole way, median filter)",
    )

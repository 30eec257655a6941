"""Checks of what the training left: layers that do nothing, and filters that had not come to rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deconvviz.choices import Severity
from deconvviz.errors import CaptureError
from deconvviz.studies.diagnosis.finding import Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.measures.removal import Removal, removable_layers, removals
from deconvviz.studies.diagnosis.measures.settling import Settling, settling
from deconvviz.studies.diagnosis.remembered import remembered
from deconvviz.studies.diagnosis.subject import Subject

# Percentage points of accuracy that a layer is allowed to cost and still be of no use; 200 images of which none changes
# leave an upper bound of 1.4 (Bonett and Price 2012), so that many can tell.
NO_COST = 2.0
HEAVY = 0.1  # of the network's parameters: such a layer is worth removing
TRIED, PARTS = 200, 40  # images, and layers of a deep network, evenly chosen
PACE = 0.5  # of the mean pace of the training: a filter this fast at its end is still on its way
UNSETTLED = (10.0, 30.0, 60.0)  # percent of a layer's filters


# --- removable layers ------------------------------------------------------------------------------------------------


@check("removable", "Layers whose removal costs nothing")
def removable(subject: Subject) -> Iterator[Finding]:
    """Layers that the trained network does as well without: each is left out in turn, nothing is trained.

    A module that returns as many values as it reads (a residual block, a convolution of as many maps) is bypassed, a
    branch beside others is set to zero; what neither fits, such as a layer that everything passes through, is not
    tried. The value is the upper end of the 95 % interval of the loss of accuracy, in percentage points, over at most
    200 images of known class, without any the share of images whose top class changes.

    Severity: note where it is at most 2 points; warning where the layer also holds a tenth of the network's parameters.
    """
    parts = removable_layers(subject.network)
    if not parts:
        subject.skip("removable", "no layer can be left out: none returns what it reads, none has branches beside it")
        return
    try:
        _ = subject.network.outputs
    except CaptureError as error:
        subject.skip("removable", str(error))
        return
    if len(parts) > PARTS:
        subject.skip("removable", f"in part: {PARTS} of {len(parts)} layers were tried, evenly chosen")
    found = measured_removals(subject)
    if found and 100 * _no_change(found[0].images) > NO_COST:
        subject.skip(
            "removable", f"{found[0].images} images cannot tell a loss of {NO_COST:g} points; give 200 or more"
        )
        return
    for each in found:
        if 100 * each.interval[1] <= NO_COST:
            yield _useless(subject, each, found)


@remembered
def measured_removals(subject: Subject) -> tuple[Removal, ...]:
    """Return what leaving layers out does to some of the subject's images; computed once."""
    parts = removable_layers(subject.network)
    known = np.flatnonzero(subject.targets >= 0)
    places = known if len(known) else np.arange(len(subject.chosen))
    chosen = places[np.linspace(0, len(places) - 1, min(TRIED, len(places))).round().astype(int)]
    tried = np.linspace(0, len(parts) - 1, min(PARTS, len(parts))).round().astype(int)
    return removals(subject, [parts[n] for n in tried], chosen) if parts else ()


def _no_change(images: int) -> float:
    """Return the upper end of the interval where no image changes."""
    return Removal(None, 0, 0, images).interval[1]  # type: ignore[arg-type]


def _useless(subject: Subject, found: Removal, every: tuple[Removal, ...]) -> Finding:
    whole = max(subject.network.parameters.get("", 0), 1)
    share, upper = found.part.parameters / whole, 100 * found.interval[1]
    severity: Severity = "warning" if share >= HEAVY else "note"
    told = "of known class" if (subject.targets >= 0).any() else "(those whose top class changes; no class is known)"
    what = (
        f"Without {found.part.layer} ({found.part.how}) the network loses {found.lost} and gains {found.gained} of "
        f"{found.images} images {told}: {100 * found.drop:+.1f} points, at most {upper:.1f}. "
        f"The layer holds {share:.1%} of the parameters."
    )
    drops = np.array([100 * each.drop for each in every])
    return Finding(
        "removable",
        severity,
        found.part.layer,
        (),
        what,
        upper,
        NO_COST,
        "percentage points of accuracy, at most",
        "measured: 95 % interval of paired images (Bonett and Price 2012), allowed 2 points",
        "Leave the layer out and train on, or ask why it has learned nothing (its learning rate, its input).",
        Evidence(
            "bars",
            {"values": drops},
            tuple(each.part.layer for each in every),
            "layer left out",
            "loss of accuracy (percentage points)",
            NO_COST,
        ),
    )


# --- unsettled features ----------------------------------------------------------------------------------------------


@check("unsettled", "Features that had not settled when the training ended", needs=("snapshots",))
def unsettled(subject: Subject) -> Iterator[Finding]:
    """Filters whose weights were still on their way at the end of the training.

    A filter's pace is how far it went each epoch between the last two snapshots, over the length of the straight way
    from the first snapshot to the last, each epoch: 0 at rest, 1 as fast as on the whole, more where it wanders. It is
    unsettled from 0.5 on. The value is the share of such filters in the layer that has most; the figure shows all
    layers. How far the learning rate had come down is told where the snapshots hold it.

    Severity: note from 10 % of that layer's filters, warning from 30 %, serious from 60 %.
    """
    if subject.snapshots is None:
        subject.skip("unsettled", "no snapshots of the training given (--snapshots FILE)")
        return
    found = measured_settling(subject)
    if found is None:
        subject.skip("unsettled", "the snapshots are of another network, or are fewer than three; record them again")
        return
    worst = max(found, key=_moving_share)
    severity = graded(_moving_share(worst), UNSETTLED)
    if severity is not None:
        yield _moving(subject, worst, found, severity)


@remembered
def measured_settling(subject: Subject) -> tuple[Settling, ...] | None:
    """Return how the network's filters moved through its snapshots; None where there are none that fit."""
    return settling(subject.network, subject.snapshots) if subject.snapshots is not None else None


def _moving_share(found: Settling) -> float:
    """Percent of the layer's filters that are still on their way."""
    return 100 * float((found.pace >= PACE).mean())


def _moving(subject: Subject, worst: Settling, every: Sequence[Settling], severity: Severity) -> Finding:
    assert subject.snapshots is not None
    fast, share = np.flatnonzero(worst.pace >= PACE), _moving_share(worst)
    fast = fast[np.argsort(-worst.pace[fast], kind="stable")]
    others = [f"{one.layer} {_moving_share(one):.0f} %" for one in every if one is not worst and _moving_share(one)]
    rates = [float(row["lr"]) for row in subject.snapshots.history if "lr" in row]
    told = ""
    if rates and max(rates) > 0:
        told = f" The learning rate ended at {rates[-1]:.3g}, {rates[-1] / max(rates):.2g} of its highest."
    what = (
        f"Between epochs {worst.epochs[-2]:g} and {worst.epochs[-1]:g}, the last ones kept, {len(fast)} of "
        f"{len(worst.pace)} filters of {worst.layer} ({share:.0f} %) still moved at half their mean pace or more "
        f"(median {np.median(worst.pace):.2f}); of other layers {', '.join(others) or 'none'}.{told}"
    )
    shown = [one for one in every if not np.isnan(one.distance).all()]
    curves = np.stack([100 * np.nanmedian(one.distance, axis=1) for one in shown])
    return Finding(
        "unsettled",
        severity,
        worst.layer,
        tuple(fast[:9].tolist()),
        what,
        share,
        UNSETTLED[0],
        "% of the layer's filters",
        "measured: half the mean pace of the whole training",
        "Train on, and lower the learning rate at the end; upper layers take longest (the paper: 40 to 50 epochs).",
        Evidence(
            "line",
            {"x": worst.epochs, "y": curves},
            tuple(one.layer for one in shown),
            "epoch",
            "distance from the final weights\n(% of the whole way, median filter)",
        ),
    )

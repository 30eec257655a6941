"""Check of layers that a trained network does not need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.choices import Severity
from deconvviz.metrics.intervals import paired_interval
from deconvviz.studies.diagnosis.finding import CheckRun, Evidence, Finding, Measured, Skipped
from deconvviz.studies.diagnosis.measures.removal import Removal, removable_layers, removals
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject, remembered

# Percentage points of accuracy that a layer may cost and still count as useless. 200 images of which none changes leave
# an upper bound of 1.4 (Bonett and Price 2012): that many images can decide.
NO_COST = 2.0
HEAVY = 0.1  # of the network's parameters: such a layer is worth removing
IMAGES, PARTS = 200, 40  # images, and layers of a deep network, evenly chosen


@check("removable", "Layers whose removal costs nothing")
def removable(subject: Subject) -> CheckRun:
    """Layers that the trained network does as well without: each is left out in turn, and nothing is trained.

    A module that returns as many values as it reads is bypassed, such as a residual block, or a convolution of as many
    maps as it reads. A branch beside other branches is set to zero. Other layers, such as one that everything passes
    through, are not tried. The value is the upper end of the 95 % interval of the loss of accuracy, in percentage
    points, over at most 200 images of known class. Where no class is known, it is the share of images whose top class
    changes.

    Severity: a note where the value is at most 2 points, and a warning where the layer also holds a tenth of the
    network's parameters.

    Source: Bonett and Price 2012 (the interval of paired images). The limit of 2 points is this package's.
    """
    if subject.scores == 0:
        return CheckRun.not_made("the network does not return one score for each class")
    parts = removable_layers(subject.network)
    if not parts:
        return CheckRun.not_made(
            "no layer can be left out: none returns as many values as it reads, and none has branches beside it"
        )
    images = _images(subject)
    if 100 * _no_change(images) > NO_COST:
        return CheckRun.not_made(
            f"{images} images cannot show that a layer costs less than {NO_COST:g} points; give 200 or more"
        )
    every = measured_removals(subject)
    useless = [removal for removal in every if 100 * removal.interval[1] <= NO_COST]
    uppers = [100 * removal.interval[1] for removal in every]
    unit = "points of accuracy at most, the layer that costs least"
    part = Skipped(reason=f"{PARTS} of {len(parts)} layers were tried, evenly chosen", part=True)
    return CheckRun(
        findings=tuple(_useless(subject, removal, every) for removal in useless),
        measured=Measured(value=min(uppers, default=None), unit=unit),
        skipped=part if len(parts) > PARTS else None,
    )


@remembered
def measured_removals(subject: Subject) -> tuple[Removal, ...]:
    """Return what leaving layers out does to the network's decisions on some of the subject's images."""
    parts = removable_layers(subject.network)
    labelled = np.flatnonzero(subject.targets >= 0)
    places = labelled if len(labelled) else np.arange(len(subject.feed))
    tried = [parts[n] for n in evenly(len(parts), PARTS)]
    return removals(subject, tried, places[evenly(len(places), IMAGES)]) if parts else ()


def _images(subject: Subject) -> int:
    """Return how many images `measured_removals` looks at."""
    return min(int((subject.targets >= 0).sum()) or len(subject.feed), IMAGES)


def _no_change(images: int) -> float:
    """Return the upper end of the interval of the loss where no image changes, in parts of the images."""
    return float(paired_interval(np.asarray(0), np.asarray(0), images)[1])


def _useless(subject: Subject, removal: Removal, every: Sequence[Removal]) -> Finding:
    part, upper = removal.part, 100 * removal.interval[1]
    share = part.parameters / max(subject.network.parameters.get("", 0), 1)
    severity: Severity = "warning" if share >= HEAVY else "note"
    if (subject.targets >= 0).any():
        effect = (
            f"the network loses {removal.lost} and gains {removal.gained} of {removal.images} images of known class: "
            f"its accuracy changes by {-100 * removal.drop:+.1f} points, and falls by at most {upper:.1f}"
        )
    else:
        effect = f"the top class changes in {removal.lost} of {removal.images} images, and in at most {upper:.1f} %"
    what = f"Without layer {part.layer} ({part.how}) {effect}. The layer holds {share:.1%} of the parameters."
    return Finding(
        check="removable",
        severity=severity,
        layer=part.layer,
        channels=(),
        what=what,
        value=upper,
        threshold=NO_COST,
        unit="percentage points of accuracy, at most",
        source="this package's limit of what a layer may cost and still be useless; the upper end of the 95 % interval "
        "of paired images (Bonett and Price 2012)",
        remedy="Leave the layer out and train on, or find out why it has learned nothing: look at its learning rate "
        "and its input.",
        evidence=Evidence(
            kind="bars",
            arrays={"values": np.array([100 * each.drop for each in every])},
            labels=tuple(each.part.layer for each in every),
            x="layer left out",
            y="loss of accuracy (percentage points)",
            mark=NO_COST,
        ),
    )

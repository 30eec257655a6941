"""Check of the classes: which of them the network takes for which other."""

from __future__ import annotations

import numpy as np

from deconvviz.choices import Severity
from deconvviz.data.pictures import tile
from deconvviz.studies.diagnosis.finding import (
    TILE_SIDE,
    CheckRun,
    Evidence,
    Finding,
    Measured,
    Neighbour,
    Skipped,
    graded,
    verb,
)
from deconvviz.studies.diagnosis.measures.neighbours import neighbours
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject, remembered

CONFUSED = (10.0, 25.0, 50.0)  # percent of a class's images that are taken for one other class
# Images of a class, and confusions among them: fewer could be one odd picture.
ENOUGH, TWICE = 5, 2
MOST = 10  # findings: the most frequent confusions; the table of all classes is written beside them
SHOWN, FILTERS = 4, 4  # images of each kind, and filters, in the figure


@check("confused", "Classes that are taken for one another", needs=("labels", "outputs"))
def confused(subject: Subject) -> CheckRun:
    """For each class the other class that its images are most often taken for, and the filters that respond to both.

    A filter of the last layer with rows and columns responds to a class where its mean response to the class is a
    standard deviation above its mean over the classes. Classes with at least 5 images are looked at, and of these a
    finding is made where at least 2 images are taken for the same other class. The ten most frequent confusions are
    findings; all classes are in the table.

    Severity: a note from 10 % of the class's images, a warning from 25 %, serious from 50 %.

    Source: the shares are this package's grading.
    """
    every = measured_neighbours(subject)
    counted = [each for each in every if each.images >= ENOUGH]
    unit = "% of a class's images, the worst class"
    if not counted:
        most = max(each.images for each in every)
        reason = (
            f"there {verb(most, 'is', 'are')} at most {most} {verb(most, 'image', 'images')} of a class; {ENOUGH} of "
        )
        reason += "a class are needed to tell a confusion from a single odd picture"
        return CheckRun(measured=Measured(value=None, unit=unit), skipped=Skipped(reason=reason))
    findings = []
    repeated = [each for each in counted if each.taken >= TWICE]
    for neighbour in sorted(repeated, key=lambda each: (-each.share, each.place))[:MOST]:
        severity = graded(100 * neighbour.share, CONFUSED)
        findings += [] if severity is None else [_taken(subject, neighbour, severity)]
    worst = max(100 * each.share for each in counted)
    return CheckRun(findings=tuple(findings), measured=Measured(value=worst, unit=unit))


@remembered
def measured_neighbours(subject: Subject) -> tuple[Neighbour, ...]:
    """Return the neighbour of each class; the check and the table of all classes read it."""
    return neighbours(subject)


def _taken(subject: Subject, neighbour: Neighbour, severity: Severity) -> Finding:
    count = len(neighbour.shared)
    filters = f"{count} filters of layer {neighbour.layer} {verb(count, 'responds', 'respond')} to both classes"
    filters += f", most strongly {', '.join(map(str, neighbour.shared[:FILTERS]))}." if count else "."
    what = (
        f"{neighbour.taken} of {neighbour.images} images of '{neighbour.name}' ({neighbour.share:.0%}) are taken for "
        f"'{neighbour.neighbour}'; {neighbour.right} are classified correctly. {filters}"
    )
    return Finding(
        check="confused",
        severity=severity,
        layer=neighbour.layer,
        channels=neighbour.shared,
        what=what,
        value=100 * neighbour.share,
        threshold=CONFUSED[0],
        unit="% of the class's images",
        source="the share is this package's grading, where at least 2 of at least 5 images are taken for the class",
        remedy="See whether the labels are right and the classes differ in the picture. Give more images of both, or "
        "find out what the network looks at in each (deconvviz cam).",
        evidence=_evidence(subject, neighbour),
    )


def _evidence(subject: Subject, neighbour: Neighbour) -> Evidence:
    """Show images that were confused, images of the neighbour, and what drives the filters that respond to both."""
    assert subject.logits is not None
    decisions = subject.logits.argmax(1)
    taken = np.flatnonzero((subject.labels == neighbour.place) & (decisions == neighbour.output))[:SHOWN]
    correct = np.flatnonzero((subject.targets == neighbour.output) & (decisions == neighbour.output))[:SHOWN]
    pictures = [tile(subject.picture(int(place)), TILE_SIDE) for place in [*taken, *correct]]
    labels = [f"{neighbour.name}, taken for {neighbour.neighbour}"] * len(taken)
    labels += [f"{neighbour.neighbour}, correct"] * len(correct)
    channels = neighbour.shared[:FILTERS]
    if channels:
        pictures += [tile(patch, TILE_SIDE) for patch in subject.patches(neighbour.layer, channels)]
        labels += [f"filter {channel}" for channel in channels]
    shows = "Images of the class that are taken for its neighbour, then images of the neighbour that are classified "
    shows += "correctly"
    shows += f", then what filters of layer {neighbour.layer} respond to most." if channels else "."
    return Evidence(kind="tiles", arrays={"pictures": np.stack(pictures)}, labels=tuple(labels), x=shows)

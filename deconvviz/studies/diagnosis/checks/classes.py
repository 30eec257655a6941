"""A check of the classes: which of them the network takes for which other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deconvviz.choices import Severity
from deconvviz.data.pictures import tile
from deconvviz.studies.diagnosis.finding import TILE_SIDE, Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.measures.neighbours import Neighbour, neighbours
from deconvviz.studies.diagnosis.remembered import remembered
from deconvviz.studies.diagnosis.subject import Subject

CONFUSED = (10.0, 25.0, 50.0)  # percent of a class's images that are taken for one other class
ENOUGH, TWICE = 5, 2  # images of a class, and confusions among them: less could be one odd picture
MOST = 10  # findings: the pairs that recur most; the table of all classes is written beside them
SHOWN, FILTERS = 4, 4  # images of each kind, and filters, in the figure


@check("confused", "Classes that are taken for one another", needs=("labels", "outputs"))
def confused(subject: Subject) -> Iterator[Finding]:
    """For each class the one that its images are most often taken for, and the last layer's filters shared by both.

    A filter responds to a class where its mean response there is a standard deviation above its mean over the classes;
    it is shared where it responds to both. Asked of classes with at least 5 images, of which at least 2 are taken for
    the neighbour; of the ten pairs that recur most, each is a finding.

    Severity: note from 10 % of the class's images, warning from 25 %, serious from 50 %.
    """
    found = measured_neighbours(subject)
    if not found:
        subject.skip("confused", "the images' classes are not known, or not which output stands for which")
        return
    enough = [one for one in found if one.images >= ENOUGH]
    if not enough:
        most = max(one.images for one in found)
        subject.skip("confused", f"at most {most} images of a class; {ENOUGH} of one are needed to tell a confusion")
        return
    pairs = [one for one in enough if one.taken >= TWICE]
    for one in sorted(pairs, key=lambda one: (-one.share, one.place))[:MOST]:
        severity = graded(100 * one.share, CONFUSED)
        if severity is not None:
            yield _taken(subject, one, severity)


@remembered
def measured_neighbours(subject: Subject) -> tuple[Neighbour, ...]:
    """Return each class's most confused neighbour; computed once."""
    return neighbours(subject)


def _taken(subject: Subject, one: Neighbour, severity: Severity) -> Finding:
    count = len(one.shared)
    filters = f"{count} filters of {one.layer} respond to both" + (
        f", most strongly {', '.join(map(str, one.shared[:FILTERS]))}." if count else "."
    )
    what = (
        f"{one.taken} of {one.images} images of {one.name!r} ({one.share:.0%}) are taken for {one.neighbour!r}; "
        f"{one.right} are named rightly. {filters}"
    )
    return Finding(
        "confused",
        severity,
        one.layer,
        one.shared[:9],
        what,
        100 * one.share,
        CONFUSED[0],
        "% of the class's images",
        "measured: a tenth of a class, in at least 2 of at least 5 images",
        "Look whether the labels are right and the classes differ in the picture; give more images of both, or let "
        "the network see what tells them apart (deconvviz cam for both classes).",
        _evidence(subject, one),
    )


def _evidence(subject: Subject, one: Neighbour) -> Evidence:
    """Show images that were confused, images of the neighbour, and what drives the shared filters."""
    assert subject.logits is not None
    named = subject.logits.argmax(1)
    wrong = np.flatnonzero((subject.labels == one.place) & (named == one.output))[:SHOWN]
    right = np.flatnonzero((subject.targets == one.output) & (named == one.output))[:SHOWN]
    pictures = [tile(subject.picture(int(place)), TILE_SIDE) for place in [*wrong, *right]]
    labels = [f"{one.name} as {one.neighbour}"] * len(wrong) + [f"{one.neighbour}, right"] * len(right)
    chosen = one.shared[:FILTERS]
    if chosen:
        pictures += [tile(patch, TILE_SIDE) for patch in subject.patches(one.layer, chosen)]
        labels += [f"drives filter {channel}" for channel in chosen]
    return Evidence("tiles", {"pictures": np.stack(pictures)}, tuple(labels))

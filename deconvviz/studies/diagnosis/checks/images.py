"""Checks of the images: are they those that the network is meant for? Otherwise the other findings mean little."""

from __future__ import annotations

import numpy as np

from deconvviz.data.feed import ENLARGED, OWN_SIZE, enlargement
from deconvviz.data.pictures import tile
from deconvviz.models.labels import NEAR_CHANCE, OWN_SETTINGS, near_chance
from deconvviz.studies.diagnosis.finding import TILE_SIDE, CheckRun, Evidence, Finding, Measured
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject

SHOWN = 6  # images in a figure
CLASSES = 24  # classes in a figure


@check("enlarged", "Images that are enlarged for the network")
def enlarged(subject: Subject) -> CheckRun:
    """How much the preprocessing enlarges the images: far enlarged, the network sees a blur that it did not learn from.

    The value is the factor for images of the median size; below 1, images are reduced.

    Severity: a warning above 2; it is never a note, and never serious. It is listed first, because what the other
    checks measure is then about blurred images.

    Source: the limit is this package's.
    """
    measured = enlargement(subject.images, subject.preprocess, subject.indices)
    assert measured is not None  # a subject has images
    value = Measured(value=measured.factor, unit="times, enlargement of the images")
    if measured.factor <= ENLARGED:
        return CheckRun(measured=value)
    pictures = [tile(subject.picture(int(place)), TILE_SIDE * 2) for place in subject.some(SHOWN)]
    finding = Finding(
        check="enlarged",
        severity="warning",
        layer="",
        channels=(),
        what=f"{str(measured).capitalize()}. What follows is measured on what the enlargement makes of them.",
        value=measured.factor,
        threshold=float(ENLARGED),
        unit="times, enlargement of the images",
        source="this package's limit",
        remedy=f"{OWN_SIZE.capitalize()}; otherwise give images of the size that it was trained on.",
        evidence=Evidence(
            kind="tiles",
            arrays={"pictures": np.stack(pictures)},
            labels=tuple(f"image {subject.indices[place]}" for place in subject.some(SHOWN)),
            x="The images as the network sees them.",
        ),
    )
    return CheckRun(findings=(finding,), measured=value)


@check("chance", "Accuracy near chance", needs=("labels", "outputs"))
def chance(subject: Subject) -> CheckRun:
    """Whether the network recognises the classes of the images at all.

    The value is the share of the images of known class that are classified correctly, divided by what guessing would
    reach: 1 / the number of classes among them. With fewer than 20 such images nothing is said.

    Severity: serious up to 1.5 times chance; it is never a note or a warning. It is listed first, because such a
    network has other weights, another preprocessing or another order of classes than it was trained with, and what the
    other checks find is due to that.

    Source: the limit is this package's.
    """
    known = subject.targets[subject.targets >= 0]
    accuracy, classes = subject.accuracy, len(np.unique(known))
    if accuracy is None or classes < 2:
        return CheckRun.not_made("it needs scores, and images of two known classes")
    value, unit = accuracy * classes, "times the accuracy of guessing"
    what = near_chance(accuracy, len(known), classes)
    findings = () if what is None else (_near_chance(subject, f"{what}.", value, unit),)
    return CheckRun(findings=findings, measured=Measured(value=value, unit=unit))


def _near_chance(subject: Subject, what: str, value: float, unit: str) -> Finding:
    """Return the finding, with how often the network decides for each output."""
    assert subject.logits is not None
    outputs, counts = np.unique(subject.logits.argmax(1), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CLASSES]
    names = subject.options.names
    return Finding(
        check="chance",
        severity="serious",
        layer="",
        channels=(),
        what=what,
        value=value,
        threshold=NEAR_CHANCE,
        unit=unit,
        source="this package's limit",
        remedy=f"{OWN_SETTINGS[0].upper()}{OWN_SETTINGS[1:]}.",
        evidence=Evidence(
            kind="bars",
            arrays={"values": 100 * counts[order] / counts.sum()},
            labels=tuple(str(names[n]) if n < len(names) else f"output {n}" for n in outputs[order].tolist()),
            x="output, the most frequent first",
            y="images for which the network decides for it (%)",
        ),
    )

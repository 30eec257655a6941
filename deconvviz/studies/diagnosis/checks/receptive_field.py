"""Check of the receptive field: how much of the image a unit can see, and how much it does see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deconvviz.data.pictures import outlined, tile
from deconvviz.errors import LayerNotFound
from deconvviz.graph.choose import last_maps
from deconvviz.studies.diagnosis.finding import TILE_SIDE, CheckRun, Evidence, Finding, Measured, Skipped
from deconvviz.studies.diagnosis.measures.build import Build, either
from deconvviz.studies.diagnosis.measures.fields import (
    ENERGY,
    Field,
    effective_fields,
    object_boxes,
    object_side,
    readers_of_context,
)
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject, remembered
from deconvviz.types import Box

OBJECT_SEEN = 1.0  # side of the field / side of the object: the unit can see all of the object at once
HALF = 0.5  # of the object, or of the theoretical field: a unit that sees less sees a part, or wastes its field
NAMED = 4  # layers that a sentence names
IMAGES, SHOWN = 16, 5  # images whose gradient is measured, and images in the figure
WHITE, ORANGE, BLUE = (255, 255, 255), (213, 94, 0), (0, 158, 255)  # they differ in lightness too


@check("receptive-field", "What a unit can see, and what it does see")
def receptive_field(subject: Subject) -> CheckRun:
    """The receptive field of the last layer with rows and columns, compared with the size of the objects.

    The theoretical field follows from the geometry of the layers. The effective field is the side of the square around
    a unit that holds 95 % of the squared gradient of its value with respect to the image. The size of the objects is
    the median of the longer sides of their boxes, where these are known.

    Severity: a theoretical field smaller than the objects is a warning, and serious below half of them. An effective
    field below half the objects, where the theoretical one would be enough, is a note. Where the objects are not known,
    an effective field below half the theoretical one (cut to the image) is a note. Convolutions that read units which
    see the whole image already are another note.

    Source: Luo et al. 2016, section 2 (the effective field); Richter et al. 2021 (layers that see the whole image). The
    limits are this package's.
    """
    findings = _beyond_the_image(subject)
    try:
        field = measured_field(subject, last_maps(subject.network))
    except LayerNotFound:
        field = None
    if field is None:
        return CheckRun(findings=findings, skipped=Skipped(reason="the network has no layer with rows and columns"))
    boxes = object_boxes(subject, subject.options.truth) if subject.options.truth is not None else {}
    finding = _against_objects(subject, field, boxes) if boxes else _against_theory(subject, field)
    findings += () if finding is None else (finding,)
    measured = Measured(value=float(field.effective), unit="px, effective field of the last maps")
    return CheckRun(findings=findings, measured=measured)


@remembered
def measured_field(subject: Subject, layer: str) -> Field | None:
    """Return the field of one layer on some of the subject's images; None where it has no rows and columns."""
    batches = (x for _, x in subject.watched("receptive field", subject.some(IMAGES)))
    return next(iter(effective_fields(subject.network, batches, [layer], subject.options.seed)), None)


def _against_objects(subject: Subject, field: Field, boxes: dict[int, Box]) -> Finding | None:
    side = object_side(boxes.values())
    what = (
        f"A unit of layer {field.layer} can see {field.side} px, and {ENERGY:.0%} of its gradient lies within "
        f"{field.effective} px. The objects in {len(boxes)} images are {side:.0f} px long (median)."
    )
    if field.side < side * OBJECT_SEEN:
        ratio = field.side / side
        return Finding(
            check="receptive-field",
            kind="theoretical",
            severity="serious" if ratio < HALF else "warning",
            layer=field.layer,
            channels=(),
            evidence=_boxed(subject, field, boxes),
            what=what,
            value=ratio,
            threshold=OBJECT_SEEN,
            unit="receptive field / object",
            source="derived: a unit that sees less than the object cannot respond to the arrangement of its parts",
            remedy=_wider(subject.build),
        )
    if field.effective < side * HALF:
        return Finding(
            check="receptive-field",
            kind="effective",
            severity="note",
            layer=field.layer,
            channels=(),
            evidence=_boxed(subject, field, boxes),
            what=what,
            value=field.effective / side,
            threshold=HALF,
            unit="effective field / object",
            source="this package's limit: half the object; effective field of Luo et al. 2016, section 2",
            remedy=_used(subject.build),
        )
    return None


def _wider(build: Build) -> str:
    """Return what to try where a unit cannot see the objects."""
    dilate = "" if build.dilated else "dilate their convolutions"
    return either(["add layers before the last maps", dilate, "show the network smaller images of the objects"])


def _used(build: Build) -> str:
    """Return what to try where a unit does not use what it could see."""
    train = "train longer, because the effective field grows with training"
    skip = "" if build.joined else "add skip connections"
    return either([train, skip, "" if build.dilated else "dilate convolutions"])


def _against_theory(subject: Subject, field: Field) -> Finding | None:
    room = min(field.side, max(subject.network.input_shape[1:]))
    ratio = field.effective / room
    if not 0 < ratio < HALF:
        return None
    return Finding(
        check="receptive-field",
        kind="effective",
        severity="note",
        layer=field.layer,
        channels=(),
        evidence=_boxed(subject, field, {}),
        what=f"A unit of layer {field.layer} can see {field.side} px ({room} px of them inside the image), but "
        f"{ENERGY:.0%} of its gradient lies within {field.effective} px. It is not known where the objects are, so "
        "this says nothing about whether a unit sees them.",
        value=ratio,
        threshold=HALF,
        unit="effective / theoretical field",
        source="this package's limit: half; Luo et al. 2016, section 2: the effective field is a fraction of the "
        "theoretical one",
        remedy="Say where the objects are (--truth). If they are larger than the effective field, "
        f"{'add layers' if subject.build.dilated else 'dilate convolutions or add layers'}.",
    )


def _beyond_the_image(subject: Subject) -> tuple[Finding, ...]:
    image, readers = max(subject.network.input_shape[1:]), readers_of_context(subject.network)
    late = [(name, side) for name, side in readers if side >= image]
    if not late:
        return ()
    first, side = late[0]
    what = f"Each unit that layer {first} reads already sees {side} px, which is the whole image of {image} px."
    later = [name for name, _ in late[1:]]
    if later:
        what += f" So does each unit that {_listed(later)}."
    finding = Finding(
        check="receptive-field",
        kind="context",
        title="Layers that read units which see the whole image",
        severity="note",
        layer=first,
        channels=(),
        evidence=_context(readers, image),
        what=what,
        value=side / image,
        threshold=1.0,
        unit="times the image's side, the receptive field of what the layer reads",
        source="Richter et al. 2021, arXiv 2106.12307: layers beyond this border gain no context and tend to add "
        "little",
        remedy=either(
            [
                "leave these layers out",
                "give the network larger images",
                "use smaller strides before them" if subject.build.strided_before(first) else "",
            ]
        ),
    )
    return (finding,)


def _context(readers: Sequence[tuple[str, int]], image: int) -> Evidence:
    """Show how much of the image each convolution's input sees, and mark those that see all of it.

    Args:
        readers: as `readers_of_context` returns them.
        image: the longer side of the image, in pixels.
    """
    return Evidence(
        kind="bars",
        arrays={"values": np.array([float(side) for _, side in readers])},
        labels=tuple(name for name, _ in readers),
        x="convolutions of more than one position, in their order",
        y="receptive field of what the layer reads (px)",
        mark=float(image),
        mark_name="the image",
        named=tuple(place for place, (_, side) in enumerate(readers) if side >= image),
    )


def _listed(names: list[str]) -> str:
    """Say which convolutions after the first one read, at most four of them by name.

    >>> _listed(["a"]), _listed(list("abcdef"))
    ('the convolution after it reads (a)', 'the 6 convolutions after it read (a, b, c, d and 2 more)')
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    which = "the convolution after it reads" if len(names) == 1 else f"the {len(names)} convolutions after it read"
    return f"{which} ({', '.join(names[:NAMED])}{more})"


def _boxed(subject: Subject, field: Field, boxes: dict[int, Box]) -> Evidence:
    """Show the gradient's energy, and what a unit sees of some images, with the objects where they are known."""
    level = np.sqrt(field.energy / max(float(field.energy.max()), 1e-300))
    pictures = [tile(np.repeat((level * 255).astype(np.uint8)[..., None], 3, 2), TILE_SIDE * 2)]
    places = [*boxes][:SHOWN] or subject.some(SHOWN).tolist()
    for place in places:
        picture = subject.picture(place)
        for square, colour in ((field.square(field.side), ORANGE), (field.square(field.effective), BLUE)):
            picture = outlined(picture, square, colour)
        if place in boxes:
            picture = outlined(picture, boxes[place], WHITE)
        pictures.append(tile(picture, TILE_SIDE * 2))
    shows = "Left: the size of the gradient at each pixel, of the unit in the middle of the map. Then images with what "
    shows += f"the unit can see (orange) and does see (blue){', and with the object (white)' if boxes else ''}."
    labels = ("gradient", *(f"image {subject.indices[place]}" for place in places))
    return Evidence(kind="tiles", arrays={"pictures": np.stack(pictures)}, labels=labels, x=shows)

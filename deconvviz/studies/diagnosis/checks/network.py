"""Checks of what the network's shape does to its responses: aliasing at strides, and how far its units see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.choices import Severity
from deconvviz.data.pictures import grey_picture, outlined, tile
from deconvviz.errors import LayerNotFound
from deconvviz.graph.choose import last_maps
from deconvviz.studies.diagnosis.finding import TILE_SIDE, Evidence, Finding, check, graded
from deconvviz.studies.diagnosis.measures.fields import (
    ENERGY,
    Field,
    effective_fields,
    object_boxes,
    object_side,
    readers_of_context,
)
from deconvviz.studies.diagnosis.measures.shifts import (
    ShiftChange,
    Strided,
    blurred,
    dense_response,
    shift_changes,
    strided_ops,
)
from deconvviz.studies.diagnosis.remembered import remembered
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Box, Pixels

# Times the change of the anti-aliased layer. Measured: the pixels of 500 photos themselves, subsampled by 3 and by 4
# without a blur, reach 2.1 and 2.6. Derived: a response whose neighbouring positions are unrelated reaches the root of
# 64 / 3 at a stride of 2, by the autocorrelation of the kernel [1, 2, 1] / 4.
ALIASING = (2.1, 2.6, (64 / 3) ** 0.5)
LEAST_CHANGE = 0.1  # of the response's spread; a smaller change does not matter, whatever part of it is aliasing
OBJECT_SEEN = 1.0  # side of the field / side of the object: the unit can see all of it at once
HALF = 0.5  # of the object, or of the theoretical field: what is left then is a part, or a waste
SHIFTED, SEEN = 32, 16  # images that are looked at for aliasing, and for the gradient
WHITE, ORANGE, BLUE = (255, 255, 255), (213, 94, 0), (0, 158, 255)  # told apart by lightness too


# --- aliasing --------------------------------------------------------------------------------------------------------


@check("aliasing", "Aliasing where the network takes strides")
def aliasing(subject: Subject) -> Iterator[Finding]:
    """How much more a strided layer's response changes when its input moves by one pixel than an anti-aliased one's.

    The same layer is evaluated at every position, rectified, and blurred with a triangle of the stride's width before
    it is subsampled (Zhang 2019): that is the anti-aliased reference. Both changes are in parts of the layer's spread,
    averaged over all phases of the stride; the value is their ratio, 1 where nothing aliases.

    Severity: note from 2.1 and warning from 2.6, which photos' own pixels reach when 2 of 3 and 3 of 4 are left out in
    each direction; serious from 4.6, that of a response whose neighbouring positions have nothing to do with each
    other, at a stride of 2. Silent where the response changes by less than a tenth of its spread. Channels: those that
    pass the limit for a note by themselves.
    """
    if not strided_ops(subject.network):
        subject.skip("aliasing", "no convolution or pooling takes a stride")
    for found in measured_shifts(subject):
        severity = graded(found.ratio, ALIASING)
        if severity is not None and found.strided >= LEAST_CHANGE:
            yield _aliased(subject, found, severity)


@remembered
def measured_shifts(subject: Subject) -> tuple[ShiftChange, ...]:
    """Return what `shift_changes` finds in some of the subject's images; computed once."""
    return shift_changes(subject.network, (x for _, x in subject.batches(_some(subject, SHIFTED))))


def _aliased(subject: Subject, found: ShiftChange, severity: Severity) -> Finding:
    order = np.argsort(-np.nan_to_num(found.channels, nan=0.0), kind="stable")
    worst = [int(c) for c in order if found.channels[c] >= ALIASING[0]]
    step = max(found.stride)
    what = (
        f"Moved by one pixel, the input changes the response of {found.layer} (stride {step}) by {found.strided:.0%} "
        f"of its spread; blurred before the stride it would be {found.reference:.0%}: {found.ratio:.2f} times as much. "
        f"{len(worst)} of {len(order)} channels pass the limit by themselves."
    )
    remedy = (
        f"Evaluate {found.layer} with stride 1 and blur before subsampling (BlurPool), or take smaller steps with a "
        "smaller kernel: the paper went from 11x11, stride 4, to 7x7, stride 2."
    )
    return Finding(
        "aliasing",
        severity,
        found.layer,
        tuple(worst[:9]),
        what,
        found.ratio,
        ALIASING[0],
        "times the change of the anti-aliased layer",
        "measured: photos' own pixels, every third; the anti-aliased layer is Zhang 2019, arXiv 1904.11486, section 3",
        remedy,
        _phases(subject, found, order[:3].tolist()),
    )


def _phases(subject: Subject, found: ShiftChange, channels: Sequence[int]) -> Evidence:
    """Show, for each channel, where it responds most: the response, its change by one pixel, and the same blurred."""
    op = next(op for op in strided_ops(subject.network) if op.layer == found.layer)
    places = _some(subject, SHIFTED)[:8]
    _, x = next(subject.batches(places))
    with torch.inference_mode():
        dense = dense_response(subject.network, op, x[:8])
    pictures, labels = [], []
    for channel in channels:
        image = int(dense[:, channel].var((1, 2)).argmax())
        maps = dense[image : image + 1, channel : channel + 1]
        pictures.append(tile(subject.picture(int(places[image])), TILE_SIDE))
        pictures += _sampled(maps, op)
        labels += [f"channel {channel}: image", "strided", "change by 1 px", "anti-aliased", "change by 1 px"]
    return Evidence("tiles", {"pictures": np.stack(pictures)}, tuple(labels))


def _sampled(maps: torch.Tensor, op: Strided) -> list[Pixels]:
    """Return four tiles of a dense response [1, 1, h, w]: strided, its change, anti-aliased, its change."""
    rows, columns = op.stride
    out: list[Pixels] = []
    floor = scale = 0.0
    for dense in (maps[..., rows - 1 : 1 - rows or None, columns - 1 : 1 - columns or None], blurred(maps, op.stride)):
        one = dense[0, 0, : -1 if rows > 1 else None, : -1 if columns > 1 else None][::rows, ::columns]
        other = dense[0, 0, int(rows > 1) :, int(columns > 1) :][::rows, ::columns]
        if not out:  # the anti-aliased response is shown on the strided one's scale
            floor = float(one.min())
            scale = float(torch.quantile(one.flatten().float(), 0.98)) - floor or 1.0
        out += [_grey((one - floor) / scale), _grey((other - one).abs() / scale)]
    return out


def _grey(values: torch.Tensor) -> Pixels:
    """Return values [h, w] in 0..1 as a grey tile."""
    return tile(grey_picture(values.float().cpu().numpy()), TILE_SIDE)


# --- receptive field -------------------------------------------------------------------------------------------------


@check("receptive-field", "What a unit can see, and what it does see")
def receptive_field(subject: Subject) -> Iterator[Finding]:
    """The receptive field of the last maps, by the layers' geometry and by the gradient, against the objects' size.

    The effective field is the side of the square around a unit that holds 95 % of the squared gradient of its value
    with respect to the image; the object's side is the median longer side of the boxes around what is known.

    Severity: of a theoretical field smaller than the objects, warning, and serious below half of them; of an effective
    field below half the objects, where the theoretical one would suffice, note. Without known objects, note where the
    effective field is less than half the theoretical one, cut to the image. Another note where convolutions read maps
    whose units see all of the image already (Richter et al. 2021).
    """
    yield from _beyond_the_image(subject)
    try:
        layer = last_maps(subject.network)
    except LayerNotFound:
        subject.skip("receptive-field", "the network has no layer with rows and columns")
        return
    field, boxes = measured_field(subject, layer), _boxes(subject)
    if boxes:
        yield from _against_objects(subject, field, boxes)
    else:
        yield from _against_theory(subject, field)


@remembered
def measured_field(subject: Subject, layer: str) -> Field:
    """Return the effective field of one layer on some of the subject's images; computed once."""
    batches = (x for _, x in subject.batches(_some(subject, SEEN)))
    return effective_fields(subject.network, batches, [layer], subject.seed)[0]


@remembered
def _boxes(subject: Subject) -> dict[int, Box]:
    return object_boxes(subject, subject.truth) if subject.truth is not None else {}


def _against_objects(subject: Subject, field: Field, boxes: dict[int, Box]) -> Iterator[Finding]:
    side = object_side(boxes.values())
    said = (
        f"A unit of {field.layer} can see {field.side} px and {ENERGY:.0%} of its gradient lies within "
        f"{field.effective} px; the objects of {len(boxes)} images are {side:.0f} px long (median)."
    )
    source = "measured: a unit that sees less than the object cannot tell its parts' arrangement"
    remedy = "Add layers or dilation before the last maps, or show the network smaller images of the objects."
    evidence = _boxed(subject, field, boxes)
    if field.side < side * OBJECT_SEEN:
        ratio = field.side / side
        yield Finding(
            "receptive-field",
            "serious" if ratio < HALF else "warning",
            field.layer,
            (),
            said,
            ratio,
            OBJECT_SEEN,
            "receptive field / object",
            source,
            remedy,
            evidence,
        )
    elif field.effective < side * HALF:
        yield Finding(
            "receptive-field",
            "note",
            field.layer,
            (),
            said,
            field.effective / side,
            HALF,
            "effective field / object",
            "measured: half the object; effective field of Luo et al. 2016, section 2",
            "Train longer, or add skip connections and dilation: the effective field grows with training.",
            evidence,
        )


def _against_theory(subject: Subject, field: Field) -> Iterator[Finding]:
    room = min(field.side, max(subject.network.input_shape[1:]))
    ratio = field.effective / room
    if 0 < ratio < HALF:
        what = (
            f"A unit of {field.layer} can see {field.side} px ({room} of the image), but {ENERGY:.0%} of its gradient "
            f"lies within {field.effective} px. Where the objects are is not known, so this is not held against them."
        )
        yield Finding(
            "receptive-field",
            "note",
            field.layer,
            (),
            what,
            ratio,
            HALF,
            "effective / theoretical field",
            "measured: half; Luo et al. 2016, section 2: the effective field is a fraction of the theoretical one",
            "Tell where the objects are (--truth); if they are larger than what is seen, add dilation or layers.",
            _boxed(subject, field, {}),
        )


def _beyond_the_image(subject: Subject) -> Iterator[Finding]:
    image, readers = max(subject.network.input_shape[1:]), readers_of_context(subject.network)
    late = [(name, side) for name, side in readers if side >= image]
    if not late:
        return
    (first, side), sides = late[0], np.array([float(side) for _, side in readers])
    others = f", and so do {len(late) - 1} later ones" if len(late) > 1 else ""
    what = f"{first} reads maps whose units see {side} px, all of the image's {image} px, already{others}."
    yield Finding(
        "receptive-field",
        "note",
        first,
        (),
        what,
        side / image,
        1.0,
        "receptive field of the layer's input / image",
        "Richter et al. 2021, arXiv 2106.12307: layers beyond this border gain no context and tend to add little",
        "Leave these layers out, give the network larger images, or stride less before them.",
        Evidence(
            "line",
            {"x": np.arange(1.0, len(sides) + 1), "y": np.stack([sides, np.full(len(sides), image)])},
            ("seen by a unit of the layer's input", "the image"),
            "convolutions that read more than one position, in order",
            "side of what is seen (px)",
        ),
    )


def _boxed(subject: Subject, field: Field, boxes: dict[int, Box]) -> Evidence:
    """Show the gradient's energy, and what is seen in some images: white the object, orange all, blue the effective."""
    level = np.sqrt(field.energy / max(float(field.energy.max()), 1e-300))
    pictures = [tile(np.repeat((level * 255).astype(np.uint8)[..., None], 3, 2), TILE_SIDE * 2)]
    for place in [*boxes][:5] or _some(subject, 5).tolist():
        picture = subject.picture(place)
        for square, colour in ((field.square(field.side), ORANGE), (field.square(field.effective), BLUE)):
            picture = outlined(picture, square, colour)
        if place in boxes:
            picture = outlined(picture, boxes[place], WHITE)
        pictures.append(tile(picture, TILE_SIDE * 2))
    told = "white: object, " if boxes else ""
    labels = ["root of the gradient's energy", *[f"{told}orange: can see, blue: does see"] * (len(pictures) - 1)]
    return Evidence("tiles", {"pictures": np.stack(pictures)}, tuple(labels))


def _some(subject: Subject, count: int) -> NDArray[np.int64]:
    total = len(subject.chosen)
    return np.asarray(np.linspace(0, total - 1, min(count, total)).round(), np.int64)

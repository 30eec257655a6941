"""What -t of `deconvviz cam` asks for: text to a target, for each image in the place where its pixels lie."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import BOX_LAYOUTS
from deconvviz.cli.inputs import class_number, numbers, read_image
from deconvviz.errors import DataError, TargetError

if TYPE_CHECKING:
    from deconvviz.cam.targets import Target
    from deconvviz.cli.explained import Subject
    from deconvviz.data.placement import Placement

    Corners = tuple[float, float, float, float]

FORMS = "a class by number or name, segment:CLASS, box:LABEL:L,T,R,B, similarity:OTHER.jpg or output:K"
MEASURES = {
    "class": ("p", "p is the probability of the class."),
    "segment": ("mean p", "mean p is the mean probability of the class over the pixels that are explained."),
    "box": ("p", "p is the probability of the box that is explained, which is the rectangle."),
    "similarity": ("cosine", "cosine is the similarity of the embeddings."),
    "output": ("value", "value is the output that is explained."),
}
"""Kind of a target -> what is written of each image, and the caption's sentence about it."""


@dataclass(frozen=True)
class Question:
    """What one -t asks of every image.

    Attributes:
        kind: one of MEASURES.
        target: what is explained, the same for all images; of a box, see `box`.
        box: left, top, right and bottom in pixels of the images as they are in their files; None for other kinds.
        label: number of the box's class.
        layout: of the detector's boxes, see `BoxTarget`.
        names: of the classes.
    """

    kind: str
    target: Target = None
    box: Corners | None = None
    label: int = 0
    layout: str = "auto"
    names: Sequence[str] = ()

    def of_image(self, name: str, size: tuple[int, int], placement: Placement, seen: tuple[int, int]) -> Any:
        """Return the target for one image.

        Args:
            name: of the image, for messages.
            size: its height and width in pixels.
            placement: where it lies in the picture that the network receives.
            seen: height and width of that picture.

        Raises:
            TargetError: a box lies outside of the image, or of the part that the network receives.
        """
        if self.box is None:
            return self.target
        from deconvviz.cam.boxes import BoxTarget

        left, top, right, bottom = self.box
        if left < 0 or top < 0 or right > size[1] or bottom > size[0]:
            raise TargetError(
                f"box {_listed(self.box)} reaches beyond {name}, which has {size[1]} x {size[0]} px; give left, top, "
                "right and bottom in pixels of the image"
            )
        inside = placement.into(self.box)
        clipped = (max(inside[0], 0), max(inside[1], 0), min(inside[2], seen[1]), min(inside[3], seen[0]))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            raise TargetError(
                f"box {_listed(self.box)} of {name} lies where the network sees nothing: the image is cut to its "
                "middle; prepare images with fit='contain', or give a box in the middle"
            )
        return BoxTarget(self.label, clipped, self.layout, names=self.names, told=placement.out_of)


def question_of(text: str | None, subject: Subject, names: Sequence[str], layout: str) -> Question:
    """Return what a -t asks.

    Args:
        text: as it was typed; None for each image's own top class.
        subject: the network, and how its images are prepared.
        names: of the classes.
        layout: of a detector's boxes.

    Raises:
        TargetError: the text is none of FORMS, or names a class that does not exist.
        DataError: the other image cannot be read.
    """
    if text is None or text in names:
        return Question("class", class_number(text, names), names=names)
    kind, colon, rest = text.partition(":")
    if colon and not rest and kind in MEASURES:
        raise TargetError(f"target {text!r} given; expected {FORMS}")
    if kind == "segment" and colon:
        return _segment(rest, names)
    if kind == "box" and colon:
        return _box(rest, names, layout)
    if kind == "similarity" and colon:
        return Question("similarity", _similarity(rest, subject))
    if kind == "output" and colon:
        return _output(rest)
    return Question("class", class_number(text, names), names=names)


def embedding_asked(texts: Sequence[str], subject: Subject) -> str | None:
    """Return the layer that similarities are of, and say which it is; None for what the network returns.

    Raises:
        TargetError: different layers are named, or similarity is asked together with something else.
    """
    similar = [text.partition(":")[2] for text in texts if text.startswith("similarity:")]
    if not similar:
        return None
    if len(similar) != len(texts):
        raise TargetError("similarity given with other targets; ask for them in another call, for it ends at a layer")
    layers = {_path_and_layer(text)[1] for text in similar}
    if len(layers) > 1:
        raise TargetError(f"similarities at {', '.join(map(repr, layers))} given; name one layer in all of them")
    return subject.embedding(layers.pop())


def _segment(text: str, names: Sequence[str]) -> Question:
    from deconvviz.cam.decisions import SegmentTarget

    return Question("segment", SegmentTarget(_class(text, names), names=names))


def _box(text: str, names: Sequence[str], layout: str) -> Question:
    label, colon, corners = text.rpartition(":")
    try:
        box = numbers(corners)
    except DataError:
        box = ()
    if not colon or len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise TargetError(
            f"target 'box:{text}' given; expected box:LABEL:LEFT,TOP,RIGHT,BOTTOM in pixels of the image, such as "
            "box:dog:40,60,200,220"
        )
    return Question("box", box=(box[0], box[1], box[2], box[3]), label=_class(label, names), layout=layout, names=names)


def _similarity(text: str, subject: Subject) -> Target:
    from deconvviz.cam.decisions import SimilarityTarget

    path, _ = _path_and_layer(text)
    output = subject.output_of(read_image(path))
    return SimilarityTarget(output, pathlib.PurePath(path).name)


def _output(text: str) -> Question:
    from deconvviz.cam.decisions import OutputTarget

    name, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise TargetError(f"target 'output:{text}' given; expected the number of an output, such as output:0")
    return Question("output", OutputTarget(int(number), name or None))


def _class(text: str, names: Sequence[str]) -> int:
    number = class_number(text, names)
    assert number is not None
    if names and number >= len(names):
        raise TargetError(f"class {number} given; the model has classes 0 to {len(names) - 1}")
    return number


def _path_and_layer(text: str) -> tuple[str, str]:
    """Split OTHER.jpg@LAYER; "" where no layer is named."""
    if pathlib.Path(text).exists() or "@" not in text:
        return text, ""
    path, _, layer = text.rpartition("@")
    return path, layer


def _listed(box: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in box)


def target_option(command: Any) -> Any:
    """Add -t/--target, which may be given several times, as `targets`, and --boxes, as `layout`."""
    text = (
        f"What is explained: {FORMS}. L,T,R,B are left, top, right and bottom in pixels of the image; OTHER.jpg@LAYER "
        "takes the embedding at another layer; output:NAME:K is of one of several outputs. May be given several times: "
        "a row for each.  [default: each image's own top class]"
    )
    boxes = (
        "How a detector returns its boxes: a list of dicts (detections), or a YOLO head as of v5, v7 and YOLOX "
        "(v5), of v8, v9 and v11 (v8), of v10 (v10); auto tells them by their shapes."
    )
    command = click.option("--boxes", "layout", default="auto", type=click.Choice(BOX_LAYOUTS), help=boxes)(command)
    return click.option("-t", "--target", "targets", multiple=True, metavar="TARGET", help=text)(command)

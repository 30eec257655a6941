"""Boxes of detectors as targets: those of torchvision's detectors, and the heads of the YOLO family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.cam.decisions import Bound, Decision, in_words, is_detections
from deconvviz.choices import BOX_LAYOUTS
from deconvviz.errors import TargetError, require_choice
from deconvviz.graph.scores import leaves_of
from deconvviz.models.labels import class_label

LEAST = 1e-6  # probability of a box that is not there, so that its logit is finite


class Candidates(NamedTuple):
    """All boxes that a detector returned for some images; an image with fewer of them has some of probability zero.

    Attributes:
        boxes: [N, A, 4], left, top, right and bottom in pixels of the network's input.
        label: [N, A], the probability that the box holds an object of the label.
        alike: [N, A], the cosine between the box's class probabilities and the label alone, times its objectness.
    """

    boxes: Tensor
    label: Tensor
    alike: Tensor

    def overlaps(self, box: Sequence[float]) -> Tensor:
        """Return the intersection over union of each box with another one, [N, A]."""
        left, top, right, bottom = self.boxes.unbind(-1)
        width = (right.clamp(max=box[2]) - left.clamp(min=box[0])).clamp(min=0)
        height = (bottom.clamp(max=box[3]) - top.clamp(min=box[1])).clamp(min=0)
        shared, own = width * height, (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
        return shared / (own + (box[2] - box[0]) * (box[3] - box[1]) - shared).clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class BoxTarget(Decision):
    """A box of a detector: the logit of the probability that it holds an object of a label.

    Of the boxes that overlap the wanted one, the one with the highest probability (objectness times that of the class)
    counts. Of heads that return a box for every anchor (YOLO), gradients and changed values read the anchor that the
    unchanged image chose; masked images choose anew, and have probability zero where no box overlaps.

    Source: an anchor's class score as in yolov5-gradcam, and the limit of 0.5 as in pytorch-grad-cam's box target for
    Faster R-CNN (released code); the logit of the product, and the anchor that stays, are our choice.

    Attributes:
        label: number of the class: from 0 in YOLO heads, as in the detections otherwise.
        box: left, top, right and bottom, in pixels of the network's input.
        layout: "detections", a list of dicts with boxes, labels and scores, one an image (torchvision); "v5",
            [N, A, 5 + C] with x, y, width, height, objectness and classes (YOLOv3, v5, v7 and YOLOX); "v8",
            [N, 4 + C, A] without an objectness (YOLOv8, v9, v11); "v10", [N, K, 6] with left, top, right, bottom,
            score and class; or "auto", which tells them apart by their shapes. All are decoded, after the sigmoid.
        overlap: the least intersection over union with the wanted box.
        names: of the classes, for messages.
        told: from a box of the network's input to the one that messages tell, where the user knows another image.

    >>> one = {"boxes": [[0.0, 0, 8, 8]], "labels": [3], "scores": [0.5]}
    >>> detections = [{name: torch.tensor(values) for name, values in one.items()}]
    >>> BoxTarget(3, (1, 0, 8, 8)).bind(detections, 1).share(detections, torch.tensor([0])).tolist()
    [0.5]
    """

    label: int
    box: tuple[float, float, float, float]
    layout: str = "auto"
    overlap: float = 0.5
    names: Sequence[str] = ()
    told: Callable[[Sequence[float]], Sequence[float]] = tuple

    def __post_init__(self) -> None:
        require_choice("layout", self.layout, BOX_LAYOUTS, TargetError)
        if len(self.box) != 4 or not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise TargetError(f"box {tuple(self.box)} given; expected left, top, right and bottom in pixels")

    @property
    def words(self) -> str:
        return f"box of {class_label(self.label, self.names)}"

    def bind(self, output: Any, count: int) -> Bound:
        layout = layout_of_output(output) if self.layout == "auto" else self.layout
        candidates = READERS[layout](output, self.label)
        overlaps = candidates.overlaps(self.box)
        matching = candidates.label.detach().masked_fill(overlaps < self.overlap, -1)
        best = matching.max(1) if matching.shape[1] else None
        for image in range(len(matching)):
            if best is None or float(best.values[image]) <= 0:
                raise TargetError(self._absence(candidates, image))
        assert best is not None
        return _Box(self, layout, None if layout in SUPPRESSED else best.indices)

    def _absence(self, candidates: Candidates, image: int) -> str:
        """Return that the wanted box is not among those of an image, and which one of its label is most probable."""
        label = class_label(self.label, self.names)
        text = f"no box of {label} overlaps the wanted one by {self.overlap:g}"
        if not bool((candidates.label[image] > 0).any()):
            return f"{text}: the model returns no box of {label} for this image; take a label that it returns"
        best = int(candidates.label[image].argmax())
        place = ",".join(f"{value:.0f}" for value in self.told(candidates.boxes[image, best].tolist()))
        return (
            f"{text}; its most probable box of that label is {place} (left, top, right, bottom), with p "
            f"{float(candidates.label[image, best]):.3f}"
        )


@dataclass(frozen=True, eq=False)
class _Box(Bound):
    """A box of some images; anchors: int64 [N], which of a dense head's boxes it is, or None."""

    target: BoxTarget
    layout: str
    anchors: Tensor | None

    def score(self, output: Any, images: Tensor) -> Tensor:
        if self.anchors is None:
            probability = self.share(output, images)
        else:
            candidates = READERS[self.layout](output, self.target.label)
            probability = candidates.label.gather(1, self.anchors[images][:, None])[:, 0]
        return probability.logit(LEAST)

    def share(self, output: Any, images: Tensor) -> Tensor:
        candidates = READERS[self.layout](output, self.target.label)
        far = candidates.overlaps(self.target.box) < self.target.overlap
        if not far.shape[1]:
            return candidates.boxes.sum((1, 2))
        return candidates.label.masked_fill(far, 0).amax(1)

    def agreement(self, output: Any, images: Tensor) -> Tensor:
        """Return max over boxes of overlap x cosine x objectness: equation 5 of D-RISE."""
        candidates = READERS[self.layout](output, self.target.label)
        if not candidates.boxes.shape[1]:
            return candidates.boxes.sum((1, 2))
        return (candidates.overlaps(self.target.box) * candidates.alike).amax(1)


# --- what detectors return -------------------------------------------------------------------------------------------


def layout_of_output(output: Any) -> str:
    """Return the layout of a detector's output, see `BoxTarget`.

    Raises:
        TargetError: it is none of them.

    >>> layout_of_output((torch.zeros(1, 300, 25), [])), layout_of_output(torch.zeros(1, 24, 8400))
    ('v5', 'v8')
    """
    if is_detections(output):
        return "detections"
    values = _rows(output)
    if values.shape[2] == 6 and bool((values[..., 5] == values[..., 5].round()).all()):
        return "v10"
    return "v5" if values.shape[2] < values.shape[1] else "v8"


def _rows(output: Any) -> Tensor:
    """Return the first tensor [N, ., .] with boxes of what a YOLO head returned."""
    leaves = [output] if isinstance(output, Tensor) else list(leaves_of(output).values())
    for leaf in leaves:
        if leaf.dim() == 3 and min(leaf.shape[1:]) >= 5:
            return leaf
    levels = any(leaf.dim() == 4 for leaf in leaves)
    raise TargetError(
        f"a box is to be explained, and the model returns {in_words(output)} for an image; expected detections as of "
        "torchvision, or the decoded boxes of a YOLO head, [boxes, 5 + classes] or [4 + classes, boxes]"
        + (": these look like maps that are not decoded yet, so let the head decode them" if levels else "")
    )


def _of_detections(output: Any, label: int) -> Candidates:
    """Read what torchvision's detectors return: boxes after suppression, each with one label and one score.

    The cosine of a label alone is 1 or 0, and the score stands for the objectness: our choice.
    """
    most = max((len(each["boxes"]) for each in output), default=0)
    boxes, held = [], []
    for each in output:
        scores = each["scores"] * (each["labels"] == label)
        boxes.append(torch.nn.functional.pad(each["boxes"], (0, 0, 0, most - len(scores))))
        held.append(torch.nn.functional.pad(scores, (0, most - len(scores))))
    return Candidates(torch.stack(boxes), torch.stack(held), torch.stack(held))


def _of_v5(output: Any, label: int) -> Candidates:
    values = _rows(output)
    return _dense(values[..., :4], values[..., 4], values[..., 5:], label)


def _of_v8(output: Any, label: int) -> Candidates:
    values = _rows(output).transpose(1, 2)
    return _dense(values[..., :4], None, values[..., 4:], label)


def _of_v10(output: Any, label: int) -> Candidates:
    values = _rows(output)
    held = values[..., 4] * (values[..., 5].round() == label)
    return Candidates(values[..., :4], held, held)


def _dense(centred: Tensor, objectness: Tensor | None, classes: Tensor, label: int) -> Candidates:
    """Return the boxes of a head that has one for every anchor.

    A head without objectness has its highest class probability in that place: our choice, because the cosine alone
    would count boxes that hold nothing.

    Args:
        centred: [N, A, 4], x and y of the centre, width, height.
        objectness: [N, A], or None.
        classes: [N, A, C], probabilities.
        label: number of a class.
    """
    if not 0 <= label < classes.shape[2]:
        raise TargetError(f"box of class {label} given; the model has classes 0 to {classes.shape[2] - 1}")
    exact = classes.to(widened(classes.dtype))
    middle, half = centred[..., :2], centred[..., 2:] / 2
    cosine = exact[..., label] / exact.norm(dim=2).clamp(min=1e-12)
    there = exact.amax(2) if objectness is None else objectness
    held = exact[..., label] if objectness is None else exact[..., label] * objectness
    return Candidates(torch.cat([middle - half, middle + half], 2), held, cosine * there)


READERS: dict[str, Callable[[Any, int], Candidates]] = {
    "detections": _of_detections,
    "v5": _of_v5,
    "v8": _of_v8,
    "v10": _of_v10,
}
"""The layout of a detector's output -> what reads its boxes for a label."""
SUPPRESSED = ("detections", "v10")  # layouts whose boxes are those that were left over: no anchor stays in its place

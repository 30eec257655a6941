"""What is explained: a class, each image's own top class, or any number that can be read off the output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deconvviz.errors import TargetError

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Scorer:
    """Reads the score of the target off the model's output.

    Attributes:
        classes: int64 [N], the class explained of each image; None where the target is a function.
        function: the function, or None.
    """

    classes: Tensor | None
    function: Callable[[Any], Tensor] | None = None

    def logit(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], the score of each row of the output; images: int64 [M], which image each row belongs to."""
        if self.function is not None:
            return _one_each(self.function(output), len(images))
        assert self.classes is not None
        scores: Tensor = output[torch.arange(len(images), device=output.device), self.classes[images]]
        return scores

    def probability(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], the softmax probability of the class; of a function, its value as it is."""
        if self.function is not None:
            return self.logit(output, images)
        exact = torch.promote_types(output.dtype, torch.float32)
        return self.logit(output.to(exact).softmax(1), images)

    def target(self, image: int, count: int) -> Target:
        """Return the target of one image, for `count` other images."""
        return self.function if self.classes is None else [int(self.classes[image])] * count


def scorer_of(target: Target, output: Any, count: int) -> Scorer:
    """Make a scorer of what the user gave.

    Args:
        target: a class index, one for each image, None (the class that the model finds itself), or a function of the
            output that returns one number for each image [N].
        output: the model's, on the images.
        count: of images.

    Raises:
        TargetError: an index out of range, another number of them, or an output that has no classes.
    """
    if callable(target) and not isinstance(target, Tensor):
        _one_each(target(output), count)
        return Scorer(None, target)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = f"of shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise TargetError(
            f"the model's output is {shape}, not [N, classes]; give a function of the output as target, "
            "such as lambda out: out['out'][:, 8].mean((1, 2))"
        )
    if target is None:
        return Scorer(output.argmax(1))
    classes = [int(c) for c in target] if isinstance(target, Tensor | Sequence) else [operator.index(target)] * count
    if len(classes) != count:
        raise TargetError(f"{len(classes)} targets given for {count} images; give one class, or one for each image")
    wrong = [c for c in classes if not 0 <= c < output.shape[1]]
    if wrong:
        raise TargetError(f"target {wrong[0]} given; the model has classes 0 to {output.shape[1] - 1}")
    return Scorer(torch.tensor(classes, device=output.device))


def _one_each(scores: Any, count: int) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TargetError(f"the target function returned {shape}; expected one number for each of {count} images, [N]")
    return scores


def detection(label: int, box: Sequence[float], overlap: float = 0.5) -> Callable[[Any], Tensor]:
    """Return a target for torchvision's detectors: the score of the detection of this label that overlaps a box most.

    label: as in the detections; box: left, top, right, bottom in pixels; overlap: the least intersection over union.
    Where an image has no such detection, its score is zero.
    """

    def scores(output: Any) -> Tensor:
        from torchvision.ops import box_iou

        found = []
        for one in output:
            shared = box_iou(one["boxes"], one["boxes"].new_tensor([list(box)]))[:, 0]
            shared = torch.where(one["labels"] == label, shared, -1.0)
            there = len(shared) > 0 and float(shared.max()) >= overlap
            found.append(one["scores"][shared.argmax()] if there else one["scores"].sum() * 0)
        return torch.stack(found)

    return scores

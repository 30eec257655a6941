"""What is explained: a class, the top class of each image, or any number that can be read off the output."""

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
        """Return [M], the softmax probability of the class; the value of a function stays as it is."""
        if self.function is not None:
            return self.logit(output, images)
        exact = torch.promote_types(output.dtype, torch.float32)
        return self.logit(output.to(exact).softmax(1), images)

    def target(self, image: int, count: int) -> Target:
        """Return the target of one image, for `count` other images."""
        return self.function if self.classes is None else [int(self.classes[image])] * count


def scorer_of(target: Target, output: Any, count: int) -> Scorer:
    """Return a scorer for a target.

    Args:
        target: the index of a class, one index for each image, None (the top class of each image), or a function of the
            output that returns one number for each image [N].
        output: what the model returns for the images.
        count: number of images.

    Raises:
        TargetError: an index is out of range, there are not as many as images, or the output has no classes.

    >>> scorer = scorer_of(None, torch.tensor([[0.1, 0.9], [3.0, -1.0]]), 2)
    >>> scorer.classes.tolist()
    [1, 0]
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
    """Return a target for torchvision's detectors: the score of the detection of a label that overlaps a box most.

    Args:
        label: as in the detections.
        box: left, top, right and bottom in pixels, the order of torchvision.
        overlap: the least intersection over union.

    Returns:
        A function from the detector's output to the scores [N]; zero for an image without such a detection.
    """

    def scores(output: Any) -> Tensor:
        from torchvision.ops import box_iou

        best = []
        for detections in output:
            shared = box_iou(detections["boxes"], detections["boxes"].new_tensor([list(box)]))[:, 0]
            shared = torch.where(detections["labels"] == label, shared, -1.0)
            there = len(shared) > 0 and float(shared.max()) >= overlap
            scores_here = detections["scores"]
            best.append(scores_here[shared.argmax()] if there else scores_here.sum() * 0)
        return torch.stack(best)

    return scores

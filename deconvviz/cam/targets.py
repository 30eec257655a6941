"""What is explained: a class, the top class of each image, a decision, or any number that is read off the output."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deconvviz.cam.decisions import Bound, Decision, rows_of
from deconvviz.errors import CaptureError, TargetError
from deconvviz.graph.scores import Readout, leaves_of, readout_of
from deconvviz.words import counted

Function = Callable[[Any], Tensor]
Target = int | Sequence[int] | Tensor | Function | Sequence[Function] | Decision | Sequence[Decision] | None


@dataclass(frozen=True)
class Scorer(ABC):
    """Reads the score of the target off the model's output.

    Attributes:
        readout: how the output becomes scores and probabilities of classes.
    """

    readout: Readout = field(default_factory=Readout, kw_only=True)

    @property
    def classes(self) -> Tensor | None:
        """int64 [N], the class explained of each image; None where the target is no class."""
        return None

    @property
    def words(self) -> list[str]:
        """What is explained of each image, in words; empty where that is a class or a function."""
        return []

    @abstractmethod
    def logit(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], the score of each row of the output; images: int64 [M], which image each row belongs to."""

    def probability(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], what masked images are measured by: the probability of the target where it has one."""
        return self.logit(output, images)

    def agreement(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], how well the best of a detector's boxes agrees with the target; else the probability."""
        return self.probability(output, images)

    def seed(self, images: Tensor, relevance: bool = False) -> Callable[[Any], list[Tensor | None]]:
        """Return what makes the signal that starts at each tensor of an output: the score's gradient.

        Args:
            images: int64 [m], which image each row of the output belongs to.
            relevance: start with the score itself, the gradient times the output.
        """

        def signals(output: Any) -> list[Tensor | None]:
            with torch.enable_grad():
                leaves, structure = pytree.tree_flatten(output)
                free = [_free(leaf) for leaf in leaves]
                score = self.logit(pytree.tree_unflatten(free, structure), images).sum()
                tensors = [leaf for leaf in free if isinstance(leaf, Tensor)]
                differentiable = [leaf for leaf in tensors if leaf.requires_grad]
                of_leaves = iter(torch.autograd.grad(score, differentiable, allow_unused=True))
            gradients = [next(of_leaves) if leaf.requires_grad else None for leaf in tensors]
            return [g if g is None or not relevance else g * leaf for g, leaf in zip(gradients, tensors, strict=True)]

        return signals

    @abstractmethod
    def target(self, image: int, count: int) -> Target:
        """Return the target of one image, for `count` other images."""


@dataclass(frozen=True)
class ClassScorer(Scorer):
    """Reads the scores of classes.

    Attributes:
        numbers: int64 [N], the class explained of each image.
    """

    numbers: Tensor

    @property
    def classes(self) -> Tensor | None:
        return self.numbers

    def logit(self, output: Any, images: Tensor) -> Tensor:
        return _of_classes(self.readout.scores(output), self.numbers[images])

    def probability(self, output: Any, images: Tensor) -> Tensor:
        return _of_classes(self.readout.probabilities_of(output), self.numbers[images])

    def target(self, image: int, count: int) -> Target:
        return [int(self.numbers[image])] * count


@dataclass(frozen=True)
class FunctionScorer(Scorer):
    """Reads what a function returns, which stands for a probability too.

    Attributes:
        function: of the model's output, to one number for each image.
    """

    function: Callable[[Any], Tensor]

    def logit(self, output: Any, images: Tensor) -> Tensor:
        return _one_each(self.function(output), len(images))

    def target(self, image: int, count: int) -> Target:
        return self.function


@dataclass(frozen=True)
class DecisionScorer(Scorer):
    """Reads decisions, one for all images or one for each.

    Attributes:
        decisions: what is explained, once, or for each image.
        bound: each of them, with what it read off the output of the unchanged images.
    """

    decisions: Sequence[Decision]
    bound: Sequence[Bound]

    @property
    def words(self) -> list[str]:
        return [decision.words for decision in self.decisions]

    def logit(self, output: Any, images: Tensor) -> Tensor:
        return self._read(lambda bound, rows, own: bound.score(rows, own), output, images)

    def probability(self, output: Any, images: Tensor) -> Tensor:
        return self._read(lambda bound, rows, own: bound.share(rows, own), output, images)

    def agreement(self, output: Any, images: Tensor) -> Tensor:
        return self._read(lambda bound, rows, own: bound.agreement(rows, own), output, images)

    def target(self, image: int, count: int) -> Target:
        return self.decisions[image] if len(self.decisions) > 1 else self.decisions[0].of_image(image)

    def _read(self, read: Callable[[Bound, Any, Tensor], Tensor], output: Any, images: Tensor) -> Tensor:
        if len(self.bound) == 1:
            return _one_each(read(self.bound[0], output, images), len(images))
        owners = images.tolist()
        values: list[Tensor] = [images.new_zeros(())] * len(owners)
        for image in dict.fromkeys(owners):
            rows = [row for row, owner in enumerate(owners) if owner == image]
            score_of_rows = read(self.bound[image], rows_of(output, rows), images.new_zeros(len(rows)))
            for row, value in zip(rows, score_of_rows, strict=True):
                values[row] = value
        return torch.stack(values)


def _decided(target: Decision | Sequence[Decision], output: Any, count: int) -> DecisionScorer:
    """Return the scorer of one decision, or of one for each image."""
    if isinstance(target, Decision):
        return DecisionScorer([target], [target.bind(output, count)])
    if len(target) != count:
        raise TargetError(
            f"{counted(len(target), 'target')} given for {counted(count, 'image')}; give one, or one for each image"
        )
    return DecisionScorer(target, [each.bind(rows_of(output, [n]), 1) for n, each in enumerate(target)])


def _free(leaf: Any) -> Any:
    """Return a tensor of the same values that a gradient can be taken of; anything else as it is."""
    return leaf.detach().requires_grad_(leaf.is_floating_point()) if isinstance(leaf, Tensor) else leaf


def _of_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Return the value of each row's class, [M], of values [M, classes]."""
    return values.gather(1, classes[:, None])[:, 0]


def scorer_of(target: Target | Scorer, output: Any, count: int, readout: Readout | None = None) -> Scorer:
    """Return a scorer for a target.

    Args:
        target: the index of a class, one index for each image, None (the top class of each image), a function of the
            output that returns one number for each image [N], or a decision, or one for each image.
            A scorer is returned as it is.
        output: what the model returns for the images.
        count: number of images.
        readout: how the output becomes scores; by default it is told from the output's own values.

    A network with a single output has two classes: 0 is what the output stands for, and 1 that it does not.

    Raises:
        TargetError: an index is out of range, there are not as many as images, or the output has no classes.

    >>> scorer = scorer_of(None, torch.tensor([[0.1, 0.9], [3.0, -1.0]]), 2)
    >>> scorer.classes.tolist()
    [1, 0]
    """
    if isinstance(target, Scorer):
        return target
    if isinstance(target, Decision) or (isinstance(target, list | tuple) and _all_decisions(target)):
        return _decided(target, output, count)
    if isinstance(target, list | tuple) and target and all(callable(each) for each in target):
        target = _each_its_own(target, count)
    if callable(target) and not isinstance(target, Tensor):
        _one_each(target(output), count)
        return FunctionScorer(target)
    try:
        readout = readout or readout_of(output)
        scores = readout.scores(output)
        if len(scores) != count:
            raise CaptureError(f"{len(scores)} rows of scores")
    except CaptureError as error:
        shape = f"of shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise TargetError(
            f"the model's output is {shape}, not [N, classes]; say what is explained: with -t segment:CLASS, "
            "box:LABEL:L,T,R,B, similarity:FILE or output:K; in Python by such a decision, or a function of the output"
        ) from error
    if target is None:
        return ClassScorer(scores.argmax(1), readout=readout)
    if isinstance(target, np.ndarray):
        target = target.tolist()
    any_target: Any = target
    classes = (
        [int(c) for c in any_target]
        if isinstance(any_target, Tensor | Sequence)
        else [operator.index(any_target)] * count
    )
    if len(classes) != count:
        raise TargetError(
            f"{counted(len(classes), 'target')} given for {counted(count, 'image')}; "
            "give one class, or one for each image"
        )
    wrong = [c for c in classes if not 0 <= c < scores.shape[1]]
    if wrong:
        raise TargetError(f"target {wrong[0]} given; the model has classes 0 to {scores.shape[1] - 1}")
    return ClassScorer(torch.tensor(classes, device=scores.device), readout=readout)


def _all_decisions(targets: Sequence[Any]) -> TypeGuard[Sequence[Decision]]:
    return bool(targets) and all(isinstance(each, Decision) for each in targets)


def _each_its_own(functions: Sequence[Callable[[Any], Tensor]], count: int) -> Callable[[Any], Tensor]:
    """Return one function of the whole output for functions of one image's output each, as pytorch-grad-cam has them.

    Of changed images, which stand together image by image, each function has as many in turn.
    """
    if len(functions) != count:
        raise TargetError(
            f"{counted(len(functions), 'target')} given for {counted(count, 'image')}; give one, or one for each image"
        )

    def scores(output: Any) -> Tensor:
        rows = len(next(iter(leaves_of(output).values())))
        owners = [row * count // rows for row in range(rows)]
        return torch.stack([functions[owner](_row(output, row)).reshape(()) for row, owner in enumerate(owners)])

    return scores


def _row(output: Any, row: int) -> Any:
    """Return what the output holds for one image."""
    return pytree.tree_map(lambda leaf: leaf[row] if isinstance(leaf, Tensor) else leaf, output)


def _one_each(scores: Any, count: int) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TargetError(
            f"the target function returned {shape}; expected one number for each of {counted(count, 'image')}, [N]"
        )
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

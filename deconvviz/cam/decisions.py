"""What networks decide besides a class of the image: pixels of a class, a likeness, a number. Boxes are in `boxes`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from deconvviz.arrays import cosine, widened
from deconvviz.errors import TargetError
from deconvviz.graph.scores import leaves_of
from deconvviz.models.labels import class_label


class Bound(ABC):
    """A decision about some images, with what it read off the output of the unchanged images."""

    @abstractmethod
    def score(self, output: Any, images: Tensor) -> Tensor:
        """Return the score that gradients are taken of, [M].

        Args:
            output: what the model returned for M images, changed or not.
            images: int64 [M], which of the bound images each of them belongs to.
        """

    def share(self, output: Any, images: Tensor) -> Tensor:
        """Return what masked images are measured by, [M]; a probability where the decision has one."""
        return self.score(output, images)

    def agreement(self, output: Any, images: Tensor) -> Tensor:
        """Return how well the best of a detector's boxes agrees with the decision, [M]; else the share."""
        return self.share(output, images)


class Decision(ABC):
    """A target that is more than a class. `scorer_of` binds it to the output of the unchanged images."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is explained, in words, as figures say it."""

    @abstractmethod
    def bind(self, output: Any, count: int) -> Bound:
        """Bind the decision to what the model returned for `count` unchanged images.

        Raises:
            TargetError: the model returns nothing of this kind, or not this class or box.
        """

    def of_image(self, image: int) -> Decision:
        """Return the decision about one of several images, where it holds something of each; else itself."""
        return self


def rows_of(output: Any, rows: Sequence[int]) -> Any:
    """Return what a model's output holds for some of its images: of tensors, or of a detector's list.

    >>> rows_of({"out": torch.arange(6).reshape(3, 2)}, [2])["out"].tolist()
    [[4, 5]]
    """
    if is_detections(output):
        return [output[row] for row in rows]
    chosen = list(rows)
    return pytree.tree_map(lambda leaf: leaf[chosen] if isinstance(leaf, Tensor) and leaf.dim() else leaf, output)


def is_detections(output: Any) -> bool:
    """Whether an output is a list of dicts with boxes, labels and scores, one an image, as torchvision's detectors'."""
    return isinstance(output, list) and all(
        isinstance(each, Mapping) and {"boxes", "labels", "scores"} <= set(each) for each in output
    )


def in_words(output: Any) -> str:
    """Return in words what a model returns for an image, for a message."""
    if is_detections(output):
        return "boxes"
    leaves = leaves_of(output)
    if not leaves:
        return f"a {type(output).__name__}"
    return ", ".join(f"{name} {list(leaf.shape[1:])}".strip() for name, leaf in leaves.items())


# --- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SegmentTarget(Decision):
    """The pixels that a segmentation network gives a class: the sum of the class's scores over them.

    The pixels are those of which the unchanged image has this class as the top one, or those of a mask; changed images
    are read at the same pixels. Masked images are measured by the mean probability of the class over these pixels.

    Source: the sum over a mask is that of SemanticSegmentationTarget in pytorch-grad-cam's tutorial (from memory of the
    released code); the mean probability is our choice.

    Attributes:
        label: number of the class, from 0.
        mask: bool [H, W] or [N, H, W], the pixels that count, at any size; None for those that have this class.
        names: of the classes, for messages.

    >>> scores = torch.tensor([[[[1.0, 5.0]], [[2.0, 3.0]]]])  # one image, two classes, one row of two pixels
    >>> bound = SegmentTarget(1).bind(scores, 1)
    >>> bound.score(scores, torch.tensor([0])).tolist()  # the first pixel has class 1
    [2.0]
    """

    label: int
    mask: Tensor | None = None
    names: Sequence[str] = ()

    @property
    def words(self) -> str:
        return f"pixels of {class_label(self.label, self.names)}"

    def bind(self, output: Any, count: int) -> Bound:
        maps = self._maps(output)
        if not 0 <= self.label < max(maps.shape[1], 1):
            raise TargetError(f"segment {self.label} given; the model has classes 0 to {maps.shape[1] - 1}")
        tops = maps.argmax(1) if maps.shape[1] > 1 else (maps[:, 0] <= 0).long()  # a single map says yes above zero
        pixels = (tops == self.label) if self.mask is None else self._resized(self.mask, maps)
        for image in range(len(pixels)):
            if not bool(pixels[image].any()):
                raise TargetError(self._absence(tops[image]))
        return _Segment(self, pixels)

    def of_image(self, image: int) -> Decision:
        several = self.mask is not None and self.mask.dim() == 3 and len(self.mask) > 1
        return replace(self, mask=self.mask[image]) if several and self.mask is not None else self

    def _maps(self, output: Any) -> Tensor:
        """Return the maps of scores, [N, classes, h, w]."""
        leaves = {"": output} if isinstance(output, Tensor) else leaves_of(output)
        matching = {name: leaf for name, leaf in leaves.items() if leaf.dim() == 4}
        for usual in ("out", "logits"):
            if usual in matching:
                return matching[usual]
        if len(matching) == 1:
            return next(iter(matching.values()))
        raise TargetError(
            f"a segment is to be explained, and the model returns {in_words(output)} for an image; expected one map of "
            "scores for each class, [classes, rows, columns]"
        )

    def _resized(self, mask: Tensor, maps: Tensor) -> Tensor:
        masks = torch.as_tensor(mask, device=maps.device).reshape(-1, 1, *mask.shape[-2:]).float()
        if len(masks) not in (1, len(maps)):
            raise TargetError(f"{len(masks)} masks given for {len(maps)} images; give one, or one for each image")
        return (functional.interpolate(masks, maps.shape[2:], mode="nearest")[:, 0] > 0.5).expand(len(maps), -1, -1)

    def _absence(self, tops: Tensor) -> str:
        """Return why nothing can be explained: the mask is empty, or the class is nowhere."""
        if self.mask is not None:
            return "the mask has no pixel; give one in which some are true"
        pixels = tops.flatten().bincount()
        order = pixels.argsort(descending=True)[:5].tolist()
        there = ", ".join(class_label(number, self.names) for number in order if pixels[number])
        return f"no pixel has {class_label(self.label, self.names)} as its top class; those that have pixels: {there}"


@dataclass(frozen=True, eq=False)
class _Segment(Bound):
    """A segment of some images; pixels: bool [N, h, w]."""

    target: SegmentTarget
    pixels: Tensor

    def score(self, output: Any, images: Tensor) -> Tensor:
        scores = self.target._maps(output)[:, self.target.label]
        return (scores * self.pixels[images].to(scores.dtype)).sum((1, 2))

    def share(self, output: Any, images: Tensor) -> Tensor:
        maps = self.target._maps(output)
        exact = maps.to(widened(maps.dtype))
        shares = (exact.softmax(1) if maps.shape[1] > 1 else exact.sigmoid())[:, self.target.label]
        pixels = self.pixels[images].to(shares.dtype)
        return (shares * pixels).sum((1, 2)) / pixels.sum((1, 2))


# --- likeness, and plain numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SimilarityTarget(Decision):
    """How like an embedding is to that of other images: the cosine of the angle between them, -1 to 1.

    The model returns the embedding, [N, D], or maps [N, K, h, w] whose mean over the positions is taken; see
    `ending_at` for a network that returns a layer.

    Source: SimilarityToConceptTarget of pytorch-grad-cam (from memory of the released code); the mean over positions is
    our choice.

    Attributes:
        embedding: what the model returns for the other image, [1, ...], or for one other image each, [N, ...].
        other: what the other image is called.

    >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> bound = SimilarityTarget(a).bind(a, 1)
    >>> [bound.score(each, torch.tensor([0])).item() for each in (a, b)]
    [1.0, 0.0]
    """

    embedding: Tensor
    other: str = "another image"

    @property
    def words(self) -> str:
        return f"similar to {self.other}"

    def bind(self, output: Any, count: int) -> Bound:
        own, others = embedding_of(output), embedding_of(self.embedding).detach()
        if own.shape[1:] != others.shape[1:] or len(others) not in (1, count):
            raise TargetError(
                f"embeddings {list(others.shape)} given, and the model returns {list(own.shape)}; expected one, or one "
                "for each image, of the same length"
            )
        return _Similarity(others.to(own))

    def of_image(self, image: int) -> Decision:
        return replace(self, embedding=self.embedding[[image]]) if len(self.embedding) > 1 else self


@dataclass(frozen=True, eq=False)
class _Similarity(Bound):
    """The likeness to embeddings [1 or N, D]."""

    others: Tensor

    def score(self, output: Any, images: Tensor) -> Tensor:
        others = self.others if len(self.others) == 1 else self.others[images]
        return cosine(embedding_of(output), others)


def embedding_of(output: Any) -> Tensor:
    """Return the embedding of each image, [N, D], of what a model returned; the mean over positions of maps.

    Raises:
        TargetError: there are several tensors, or none that holds a vector or maps for each image.

    >>> embedding_of(torch.ones(2, 3, 4, 4)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    leaves = {"": output} if isinstance(output, Tensor) else leaves_of(output)
    if len(leaves) == 1:
        leaf = next(iter(leaves.values()))
        if leaf.dim() == 4:
            return leaf.mean((2, 3))
        if leaf.dim() == 2:
            return leaf
    raise TargetError(f"the model returns {in_words(output)} for an image; expected an embedding, one vector")


@dataclass(frozen=True, eq=False)
class OutputTarget(Decision):
    """One number of the output as it is, such as that of a regression or a single logit.

    Attributes:
        number: which of the numbers of an image, from 0.
        name: of the tensor in a dict, tuple or output object that holds them, such as "logits" or "0"; None where there
            is one only.

    >>> out = {"age": torch.tensor([[41.0], [7.0]]), "sex": torch.tensor([[0.1, 0.9], [0.8, 0.2]])}
    >>> OutputTarget(0, "age").bind(out, 2).score(out, torch.tensor([0, 1])).tolist()
    [41.0, 7.0]
    """

    number: int
    name: str | None = None

    @property
    def words(self) -> str:
        return f"output {self.number}" + (f" of {self.name}" if self.name else "")

    def bind(self, output: Any, count: int) -> Bound:
        values = self._values(output)
        if not 0 <= self.number < values.shape[1]:
            raise TargetError(f"{self.words} given; the model has outputs 0 to {values.shape[1] - 1}")
        return _Output(self)

    def _values(self, output: Any) -> Tensor:
        """Return the numbers of each image, [N, numbers]."""
        leaves = {"": output} if isinstance(output, Tensor) else leaves_of(output)
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.dim() in (1, 2)}
        if self.name is not None and self.name not in leaves:
            raise TargetError(f"no output {self.name!r} of numbers; the model returns {in_words(output)} for an image")
        if self.name is None and len(leaves) != 1:
            raise TargetError(
                f"the model returns {in_words(output)} for an image; expected one row of numbers, or the name of the "
                "one that is meant: output:NAME:K"
            )
        leaf = leaves[self.name] if self.name is not None else next(iter(leaves.values()))
        return leaf if leaf.dim() == 2 else leaf[:, None]


@dataclass(frozen=True, eq=False)
class _Output(Bound):
    """One number of each image."""

    target: OutputTarget

    def score(self, output: Any, images: Tensor) -> Tensor:
        return self.target._values(output)[:, self.target.number]

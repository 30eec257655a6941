"""What a network is to answer: the one class of each image, or each of several labels; its loss, and what is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.data.datasets import Images, has_several_labels
from deconvviz.metrics.ranking import average_precision
from deconvviz.studies.training.result import OF_LABEL
from deconvviz.types import Ints

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Outputs [n, outputs] and targets of batches."""


class Objective(Protocol):
    """What a network is to answer."""

    def targets(self, images: Images, indices: Ints) -> Tensor:
        """Return the answers for some images of a dataset, by their indices."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, in nats."""

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many images are answered correctly: a sum over the batch."""

    def validated(self, pairs: Pairs) -> dict[str, float]:
        """Return what is measured on held-out images, by the names that the history has for it."""

    def failure(self, record: Mapping[str, float]) -> float:
        """Return from a record of the history what is to fall from epoch to epoch."""


class OneClass:
    """Each image has one class: cross-entropy.

    >>> OneClass().correct(torch.tensor([[1.0, 0.0], [2.0, 0.5]]), torch.tensor([0, 1]))
    tensor(1)
    """

    def targets(self, images: Images, indices: Ints) -> Tensor:
        """Return the classes, int64 [n]."""
        return torch.from_numpy(np.asarray(images.labels, np.int64)[indices])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(outputs, targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how often the largest output is that of the class."""
        return (outputs.argmax(1) == targets).sum()

    def validated(self, pairs: Pairs) -> dict[str, float]:
        """Return the mean loss, and how often the class is the first one, and among the first five."""
        count, loss, correct, correct_in_five = 0, 0.0, 0, 0
        for outputs, labels in pairs:
            loss += functional.cross_entropy(outputs, labels, reduction="sum").item()
            hits = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
            correct, correct_in_five = correct + int(hits[:, 0].sum()), correct_in_five + int(hits.any(1).sum())
            count += len(labels)
        sums = {"validation_loss": loss, "validation_accuracy": correct, "validation_top5": correct_in_five}
        return {name: total / count for name, total in sums.items()}

    def failure(self, record: Mapping[str, float]) -> float:
        """Return the validation error, or without held-out images that of the training images."""
        return 1 - record.get("validation_accuracy", record["accuracy"])


class EachLabel:
    """An image may have several labels: binary cross-entropy of each, as if every label were a question of its own.

    Attributes:
        names: of the labels.

    >>> truth, scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, -1.0], [1.0, 3.0]])
    >>> measured = EachLabel(("cat", "dog")).validated([(scores, truth)])
    >>> measured["validation_accuracy"], measured["validation_map"], measured["average_precision_cat"]
    (0.75, 1.0, 1.0)
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """Take the names of the labels."""
        self.names = names

    def targets(self, images: Images, indices: Ints) -> Tensor:
        """Return whether each image has each label, float32 [n, labels]."""
        assert has_several_labels(images)
        return torch.from_numpy(images.targets[indices].astype(np.float32))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy over images and labels."""
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the images of the share of labels whose score is positive where it should be."""
        return ((outputs > 0) == (targets > 0.5)).float().mean(1).sum()

    def validated(self, pairs: Pairs) -> dict[str, float]:
        """Return the mean loss and accuracy over labels, the mean average precision, and that of each label.

        Labels that no image of the pairs has are left out of the mean: their average precision is not defined.
        """
        every = [(outputs.float().cpu(), targets.cpu()) for outputs, targets in pairs]
        outputs, targets = (torch.cat(parts) for parts in zip(*every, strict=True))
        precision = average_precision(targets.numpy() > 0.5, outputs.double().numpy())
        defined = {f"{OF_LABEL}{n}": float(p) for n, p in zip(self.names, precision, strict=True) if np.isfinite(p)}
        return {
            "validation_loss": float(self.loss(outputs, targets)),
            "validation_accuracy": float(self.correct(outputs, targets)) / len(outputs),
            **({"validation_map": float(np.mean(list(defined.values())))} if defined else {}),
            **defined,
        }

    def failure(self, record: Mapping[str, float]) -> float:
        """Return one minus the mean average precision, or without held-out images the share of wrong labels."""
        return 1 - record.get("validation_map", record["accuracy"])


def objective_of(images: Images) -> Objective:
    """Return what a network is to answer of some images.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> type(objective_of(Scenes(3))).__name__
    'OneClass'
    """
    return EachLabel(tuple(images.classes)) if has_several_labels(images) else OneClass()

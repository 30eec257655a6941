"""Train a network's architecture on permuted labels: what it then knows is the images, not what they show."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deconvviz.data.feed import Feed
from deconvviz.errors import DataError, TrainingError
from deconvviz.metrics.sanity import randomised
from deconvviz.run.loop import Measured, Position, run_steps
from deconvviz.run.options import RunOptions
from deconvviz.types import Ints

FITTED = 0.95  # share of the permuted labels that the network has to learn, as in the paper
EPOCHS, BATCH, RATE = 200, 32, 1e-3  # at most; images in a step; of Adam


class PermutedNetwork(NamedTuple):
    """A network that was trained on permuted labels.

    Attributes:
        model: the module, in evaluation mode.
        accuracy: share of the permuted labels that it gives back.
        epochs: how many it was trained for.
    """

    model: nn.Module
    accuracy: float
    epochs: int

    @property
    def fitted(self) -> bool:
        """Whether it has learned the labels: only then its maps can be compared."""
        return self.accuracy >= FITTED


@dataclass
class _Training:
    """What the training loop asks of a training; nothing is committed, as it takes minutes at most."""

    model: nn.Module
    feed: Feed
    classes: Ints
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        self.position = Position()
        self.optimiser = torch.optim.Adam(self.model.parameters(), RATE)

    def batches(self, epoch: int, done: int) -> Iterator[tuple[Ints, Tensor]]:
        """Yield the batches of an epoch, in the order that (seed, epoch) draws."""
        self.model.train()
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.feed))
        yield from self.feed.tensors(BATCH, self.device, order=order, start=done * BATCH)

    def step(self, batch: tuple[Ints, Tensor], epoch: int) -> Measured:
        """Take one step of Adam."""
        places, images = batch
        address = np.random.SeedSequence([self.seed, epoch, self.position.step])
        torch.manual_seed(int(address.generate_state(1)[0]))  # dropout
        classes = torch.from_numpy(self.classes[places]).to(self.device)
        outputs = self.model(images)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise DataError("the network returns no scores of classes [N, K]; labels cannot be permuted for it")
        loss = cross_entropy(outputs, classes)
        if not torch.isfinite(loss):
            raise TrainingError("the loss of the training on permuted labels is not finite")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.optimiser.step()
        return Measured({"loss": float(loss.detach()) * len(places)}, len(places))

    def end_epoch(self, epoch: int) -> None:
        """Note nothing: the accuracy is measured without dropout."""

    def commit(self) -> None:
        """Write nothing."""

    def accuracy(self) -> float:
        """Return the share of the images whose permuted label is the network's top class."""
        self.model.eval()
        correct = 0
        with torch.no_grad():
            for places, images in self.feed.tensors(BATCH, self.device):
                correct += int((self.model(images).argmax(1).cpu().numpy() == self.classes[places]).sum())
        return correct / len(self.feed)


def train_on_permuted_labels(
    model: nn.Module,
    feed: Feed,
    outputs: Ints,
    device: torch.device | str = "cpu",
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = False,
) -> PermutedNetwork:
    """Train a copy of a network, from new weights, on labels that are permuted among the images.

    It stops as soon as the network gives back 95 % of the permuted labels.

    Args:
        model: the architecture; it is left unchanged.
        feed: the images to learn; each has a label.
        outputs: int64 [classes], the output that stands for each label.
        device: where it is trained.
        epochs: at most; each goes over all images.
        seed: of the new weights, the permutation, the order of the images and dropout.
        progress: whether a progress bar is shown on standard error.

    Raises:
        DataError: an image has no label, all have the same one, or the network does not return scores of classes.
        ModelError: a layer cannot be initialised again.
        TrainingError: the loss is not finite.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 4 (data randomisation; more than 95 % of the training set).
    Adam at 0.001 with batches of 32 is our choice; the paper states no optimiser.
    """
    labels = feed.labels
    if len(labels) < 2 or (labels < 0).any() or len(np.unique(labels)) < 2:
        raise DataError(
            f"{len(labels)} images of {len(np.unique(labels[labels >= 0]))} classes given; to permute labels, each "
            "image needs one, of two classes or more"
        )
    if epochs < 1:
        raise DataError(f"{epochs} epochs given; expected 1 or more")
    place = torch.device(device)
    permuted = outputs[np.random.default_rng(seed).permutation(labels)]
    training = _Training(_with_new_weights(model, seed).to(place), feed, permuted, place, seed)
    per_epoch, accuracy, epoch = -(-len(feed) // BATCH), 0.0, 0
    with (
        torch.random.fork_rng(),
        RunOptions(progress=progress).bar("step", epochs * per_epoch, "permuted labels") as bar,
    ):
        while accuracy < FITTED and epoch < epochs:
            epoch += 1
            run_steps(training, per_epoch, epoch * per_epoch, per_epoch, bar)
            accuracy = training.accuracy()
    return PermutedNetwork(training.model.eval(), accuracy, epoch)


def _with_new_weights(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model of which every layer is initialised again."""
    fresh = copy.deepcopy(model)
    for _, changed in randomised(model, "cascading", seed):
        fresh = changed
    return fresh.requires_grad_()

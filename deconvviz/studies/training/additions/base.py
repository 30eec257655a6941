"""What an addition to a training is: options, and what it does at each place of a step.

An addition changes a training at one or more of these places, in this order:

    begin(course)                       once, before the first step: hooks, weights of its own
    pictures(pictures, step)            the decoded images, before the crop
    crops(crops, step)                  after crop and flip
    inputs(x, targets, step)            the normalised batch, and what the network is to answer
    terms(outputs, part)                what is added to the loss of a part of the batch
    after_backward(step)                the gradients are there
    after_step(step)                    the weights have moved
    end_epoch(epoch)                    figures for the history
    state(), load(state)                what a checkpoint keeps of it
    end()                               once: the network is as plain as it was

All randomness comes from `Step.numbers` and `Step.drawing`, whose address is the seed, the epoch, the step and the
addition's name. A training that was killed and resumed therefore draws the same, and an addition that draws changes
neither the crops nor the dropout.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.training.recipe import Recipe
from deconvviz.types import Ints, Picture


@dataclass(frozen=True, kw_only=True)
class Course:
    """The training that an addition belongs to.

    Attributes:
        model: the network that is trained, in place.
        device: where it is.
        recipe: its recipe. `recipe.epochs` may grow when a training is continued; an addition that changes over the
            epochs has an option for their number instead.
        preprocess: how images become inputs; training takes crops of this size out of larger pictures.
        training: the images to learn from, resized and not yet cropped.
        held_out: the images to validate on, as the network sees them; may be empty.
        classes: names of the network's outputs.
    """

    model: nn.Module
    device: torch.device
    recipe: Recipe
    preprocess: Preprocess
    training: Feed
    held_out: Feed
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a training.

    Attributes:
        indices: int64 [n], which images of the dataset are in the batch.
        labels: int64 [n], their classes, on the device of the network; float [n, labels] of several labels.
        epoch: number of the epoch, from 0.
        number: number of the step within the epoch, from 0.
        seed: of the recipe.
        rate: the learning rate of the step; infinite where there is no optimiser.
    """

    indices: Ints
    labels: Tensor
    epoch: int
    number: int
    seed: int
    rate: float = math.inf

    @property
    def root(self) -> np.random.SeedSequence:
        """Where the training itself draws from in this step: the crops and their mirroring, and dropout."""
        return np.random.SeedSequence([self.seed, self.epoch + 1, self.number])

    def address(self, name: str) -> np.random.SeedSequence:
        """Return where an addition draws from in this step; `name` is the addition's."""
        return np.random.SeedSequence([self.seed, self.epoch + 1, self.number, zlib.crc32(name.encode())])

    def numbers(self, name: str) -> np.random.Generator:
        """Return NumPy's random numbers of an addition in this step.

        >>> step = Step(indices=np.zeros(1, np.int64), labels=torch.zeros(1), epoch=0, number=3, seed=0)
        >>> step.numbers("one").random() == step.numbers("one").random() != step.numbers("two").random()
        True
        """
        return np.random.default_rng(self.address(name))

    @contextmanager
    def drawing(self, name: str) -> Iterator[None]:
        """While this lasts, torch draws at the addition's address on the CPU; afterwards as if nothing was drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.address(name).generate_state(1)[0]))
            yield


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a batch that runs at once, which is the whole batch where it fits in memory.

    Attributes:
        step: the step.
        start: place in the batch where the part begins.
        stop: place where it ends.
        x: the part's inputs, float [m, C, H, W].
        targets: what the network is to answer: int64 [m] classes, or float [m, outputs].
    """

    step: Step
    start: int
    stop: int
    x: Tensor
    targets: Tensor

    @property
    def indices(self) -> Ints:
        """int64 [m], which images of the dataset are in the part."""
        return self.step.indices[self.start : self.stop]


class Addition:
    """Something that a training does beside the recipe. An addition overrides the places where it does something.

    A subclass is a dataclass: its fields are its options, which `deconvviz train --option KEY=VALUE` sets. Its
    docstring is what `deconvviz train --list` prints. It raises TrainingError in `__post_init__` for an option out of
    range.

    Attributes:
        name: by which `--with` asks for it.
        of_one_class: whether it needs the one class of each image; such an addition is refused where images have
            several labels.
    """

    name: ClassVar[str] = ""
    of_one_class: ClassVar[bool] = True

    def settings(self) -> dict[str, Any]:
        """Return the options as JSON values: with other ones, a training is another one and is not continued."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def begin(self, course: Course) -> None:
        """Prepare; the weights are those from which the training goes on.

        Raises:
            TrainingError: the addition cannot work with this network or these images.
        """

    def pictures(self, pictures: Picture, step: Step) -> Picture:
        """Return the pictures to crop from, [n, h, w, C], of the same type and size (do not change those given)."""
        return pictures

    def crops(self, crops: Picture, step: Step) -> Picture:
        """Return the pictures to learn from, [n, side, side, C], of the same type. Those given may be changed."""
        return crops

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Return the normalised inputs [n, C, side, side] and the targets, int64 [n] or float [n, outputs]."""
        return x, targets

    def terms(self, outputs: Tensor, part: Part) -> Mapping[str, Tensor]:
        """Return what is added to the loss, by name: scalars, means over the images of the part, in nats.

        Args:
            outputs: the network's outputs, float32 [m, outputs], with their graph.
            part: what they are of.
        """
        return {}

    def after_backward(self, step: Step) -> None:
        """Look at the gradients of the batch, or change them; they are in the parameters' `grad`."""

    def after_step(self, step: Step) -> None:
        """Go on after the optimiser's step and the limit on the filters."""

    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Return figures of the epoch, numbered from 0, by name: they are added to the history."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what has to be kept to resume: tensors, numbers, strings, lists and dicts."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; called after `begin`."""

    def end(self) -> None:
        """Leave a plain network behind: no hooks, no weights of the addition's own."""

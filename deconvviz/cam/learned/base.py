"""Explainers that are trained once for a network and then explain an image in one forward pass.

The network stays as it is; the trained part reads the values of some of its layers and a class, and gives a map. A new
one is a subclass of `LearnedExplainer` with three things: its parameters, its map, and the terms of its loss.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from deconvviz.cam.engine import View
from deconvviz.cam.registry import METHODS, Method
from deconvviz.errors import CamError, DataError, require
from deconvviz.graph.network import Network
from deconvviz.registry import Registry
from deconvviz.words import counted

Shape = tuple[int, ...]
BORDER, OFFSET = 0.3, 0.0005  # of the released code's loss; the papers' formulas are without them


@dataclass(frozen=True)
class Phase:
    """One stretch of a training.

    Attributes:
        name: of the phase.
        epochs: its length in passes over the images.
        steps: its length in steps; 0 takes `epochs`.
        batch_size: images in a step.
        optimiser: "sgd" (with Nesterov momentum) or "adam".
        lr: learning rate of weights to begin with.
        bias_lr: factor on the rate for biases.
        decay: factor on the rate after each `every` steps.
        every: steps between two decays; 0 decays after each epoch.
        decays: number of decays at most.
        weight_decay: of the optimiser.
        momentum: of SGD.
        fakes: share of the images that get a class which they do not have.
        parameters: prefixes of the names of the parameters that learn; all parameters where it is empty.
        augment: whether images are cropped and flipped at random.

    Raises:
        DataError: a value out of its range.
    """

    name: str
    epochs: int = 26
    steps: int = 0
    batch_size: int = 64
    optimiser: Literal["sgd", "adam"] = "sgd"
    lr: float = 1e-4
    bias_lr: float = 2.0
    decay: float = 0.95
    every: int = 0
    decays: int = 12
    weight_decay: float = 5e-4
    momentum: float = 0.9
    fakes: float = 0.0
    parameters: tuple[str, ...] = ()
    augment: bool = True

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            epochs=(self.epochs >= 1, "at least 1"),
            steps=(self.steps >= 0, "0 or more"),
            batch_size=(self.batch_size >= 1, "at least 1"),
            lr=(0 < self.lr < math.inf, "a positive number"),
            decay=(0 < self.decay <= 1, "a factor above 0 and at most 1"),
            weight_decay=(self.weight_decay >= 0, "0 or more"),
            optimiser=(self.optimiser in ("sgd", "adam"), "sgd or adam"),
            bias_lr=(0 < self.bias_lr < math.inf, "a positive number"),
            momentum=(0 <= self.momentum < 1, "a number from 0 to below 1"),
            fakes=(0 <= self.fakes <= 1, "a share from 0 to 1"),
        )


@dataclass(frozen=True)
class Batch:
    """What an explainer is given in one step of its training.

    Attributes:
        x: images [N, C, H, W], normalised.
        values: layer -> its maps [N, K, h, w], without gradient.
        classes: int64 [N], to explain.
        real: bool [N], false where the class is a fake.
        black: [C, 1, 1], a black pixel, normalised.
        full: [C, 1, 1], the difference of a white and a black pixel, normalised.
        logits: [N, outputs], of the images as they are, without gradient.
        after: takes changed maps of the first layer, returns the logits [N, outputs].
        whole: takes changed images, returns the logits [N, outputs].
        reweighted: takes weights by name and changed images, returns the logits [N, outputs] of the network with these
            weights in place of its own.
        noise: takes a shape, returns standard normal numbers; a step always gets the same ones.
    """

    x: Tensor
    values: Mapping[str, Tensor]
    classes: Tensor
    real: Tensor
    black: Tensor
    full: Tensor
    logits: Tensor
    after: Callable[[Tensor], Tensor]
    whole: Callable[[Tensor], Tensor]
    reweighted: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    noise: Callable[[Shape], Tensor]


class LearnedExplainer(nn.Module):
    """The trained part of a method. `forward` is what explains, `terms` what it learns by.

    A subclass sets name, takes its options as keyword arguments of `__init__`, and is registered by `@learned`.

    Attributes:
        name: by which users know it.
        order: how its map is finished, see `Method.order`.
        many: whether it may read several layers.
        most: layers that it reads at most, if several.
        passing: prefixes of the names in its state that only its training needs; they are not in its file.
        layers: name -> shape (K, h, w) of the maps that it reads, in the order of depth.
        outputs: number of outputs of the network.
        options: what it was made with, JSON values.
        input_shape: (channels, rows, columns) of the images of its network; () where it was made by hand.
        origin: the configuration that it was read with.
    """

    name: ClassVar[str]
    order: ClassVar[str] = "torch-cam"
    many: ClassVar[bool] = False
    most: ClassVar[int] = 4
    passing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layers: Mapping[str, Shape], outputs: int, **options: Any) -> None:
        super().__init__()
        self.layers, self.outputs, self.options = dict(layers), outputs, options
        self.input_shape: tuple[int, ...] = ()
        self.origin: dict[str, Any] = {}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the options and their defaults."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return the maps [N, h, w] of the classes; values: layer -> maps [N, K, h, w]; classes: int64 [N]."""
        raise NotImplementedError

    def told(self, values: Mapping[str, Tensor], classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the maps as `forward` does, and what else it has to tell, by name, for `Explainer.extras`."""
        return self(values, classes), {}

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return the weighted terms of the loss, each a number, and bool [N], which images still have their class."""
        raise NotImplementedError

    def begin(self, network: Network) -> None:
        """Take over from the network what a new explainer starts with; by default nothing."""

    def lasting_state(self) -> dict[str, Tensor]:
        """Return its state dict without what only the training needs: what its file holds."""
        state: dict[str, Tensor] = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(self.passing)}

    @classmethod
    def schedule(cls) -> tuple[Phase, ...]:
        """Return the phases of its training; by default the schedule of L-CAM's authors."""
        return (Phase(cls.name),)

    @classmethod
    def needed(cls, options: Mapping[str, Any]) -> tuple[Phase, ...]:
        """Return those phases of its schedule that a training with these options has; by default all."""
        return cls.schedule()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.layers)}; {counted(self.outputs, 'class')})"


LEARNED: Registry[type[LearnedExplainer]] = Registry("learned explainer")


def learned(kind: type[LearnedExplainer]) -> type[LearnedExplainer]:
    """Register an explainer, and with it the method of its name."""
    LEARNED.add(kind.name, kind)
    METHODS.add(
        kind.name, Method(kind.name, _explained, "trained", "mean", inspect.cleandoc(kind.__doc__ or ""), kind.order)
    )
    return kind


def _explained(v: View, explainer: LearnedExplainer | str | None = None) -> Tensor:
    """Return the maps of a trained explainer, [N, h, w]."""
    if v.scorer.classes is None:
        raise CamError("a trained explainer explains a class; give one, or take grad-cam for a function of the output")
    assert isinstance(explainer, LearnedExplainer)
    dtype = next(explainer.parameters()).dtype
    values = {layer: value.to(dtype) for layer, value in v.stages.items()}
    maps, extras = explainer.told(values, v.scorer.classes)
    v.extras |= extras
    return maps


def area(maps: Tensor, power: float) -> Tensor:
    """Return mean((a + 0.0005)^power) over maps a [N, h, w] in 0..1, a number.

    Source: the released code of L-CAM and of real-time masking; a power below 1 favours maps that are 0 or 1.
    """
    return (maps + OFFSET).pow(power).mean()


def smoothness(maps: Tensor, count: int | None = None) -> Tensor:
    """Return 1/(2N) (sum (a[i+1,j] - a[i,j])^2 + sum (a[i,j+1] - a[i,j])^2 + 0.3 sum of a^2 along the four borders).

    Args:
        maps: [M, h, w].
        count: N, which is M except in the released batch-wide form of L-CAM.

    Source: the total variation of the released code of L-CAM and of real-time masking.
    """
    down, across = maps[:, 1:] - maps[:, :-1], maps[:, :, 1:] - maps[:, :, :-1]
    edges = (maps[:, 0], maps[:, -1], maps[:, :, 0], maps[:, :, -1])
    border = sum((edge.square().sum() for edge in edges), maps.new_zeros(()))
    return (down.square().sum() + across.square().sum() + BORDER * border) / (2 * (count or len(maps)))

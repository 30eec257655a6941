"""The paper's recipe: what a training does and leaves, apart from doing it."""

from __future__ import annotations

import math
import pathlib
from dataclasses import dataclass, field

import torch
from torch import nn

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import TrainingError

PAPER_RANGE = (1 / 255,) * 3  # as `std`: inputs of about -128 .. 128, which the paper's initial weights expect


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's.

    epochs: passes over the training images. batch_size: images a step. lr, momentum, weight_decay: of SGD.
    factor, patience: the rate is multiplied by `factor` when the validation error has not fallen for more than
    `patience` epochs (the paper lowered it by hand). radius: filters of convolutions whose root mean square exceeds it
    are scaled back to it after each step; 0 for no limit. validation: share of the images of each class held out.
    augment: random crops and flips. precision: "fp32" or "bf16" (autocast). seed: of order, crops, flips and dropout.

    Source: Zeiler and Fergus 2013, section 3.
    """

    epochs: int = 70
    batch_size: int = 128
    lr: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0
    factor: float = 0.1
    patience: int = 5
    radius: float = 0.1
    validation: float = 0.1
    augment: bool = True
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        expectations = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "momentum": (0 <= self.momentum < 1, "a number from 0 to below 1"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "factor": (0 < self.factor < 1, "a number between 0 and 1"),
            "patience": (self.patience >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0, for no limit, or more"),
            "validation": (0 <= self.validation < 1, "a share from 0 to below 1"),
            "precision": (self.precision in ("fp32", "bf16"), "fp32 or bf16"),
        }
        for name, (holds, expected) in expectations.items():
            if not holds:
                raise TrainingError(f"{name} {getattr(self, name)} given; expected {expected}")


PAPER = Recipe()


@dataclass
class Trained:
    """A training: its history, one record an epoch, and the file that holds it.

    `history` has epoch, lr, loss, accuracy (training, as it went), validation_loss, validation_accuracy,
    validation_top5, seconds.
    """

    model: nn.Module
    preprocess: Preprocess
    path: pathlib.Path
    classes: tuple[str, ...]
    history: list[dict[str, float]] = field(default_factory=list)

    def __repr__(self) -> str:
        if not self.history:
            return f"Trained({self.path}, no epoch yet)"
        last = self.history[-1]
        shown = f"validation accuracy {last['validation_accuracy']:.1%}" if "validation_accuracy" in last else ""
        return f"Trained({self.path}, {len(self.history)} epochs, accuracy {last['accuracy']:.1%}, {shown})"


def renormalise(model: nn.Module, radius: float) -> None:
    """Scale each convolution filter whose root mean square exceeds `radius` back to it, in place.

    Source: Zeiler and Fergus 2013, section 3.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                size = module.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                module.weight.mul_((radius / size).clamp(max=1))


def paper_preprocess(model: nn.Module) -> Preprocess:
    """Return how the paper prepares images for a network that tells its input size, but for the mean.

    Raises TrainingError where the model does not tell it.

    Source: Zeiler and Fergus 2013, section 3 (224 px out of 256; they subtract a mean for each pixel).
    """
    size = getattr(model, "arguments", {}).get("input_size")
    if size is None:
        raise TrainingError("it is not known how images are prepared for this model; give preprocess")
    return Preprocess(resize=round(size * 8 / 7), crop=size, std=PAPER_RANGE)

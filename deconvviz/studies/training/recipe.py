"""The paper's recipe: how a network is trained, apart from doing it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from deconvviz.choices import PRECISIONS, Precision
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import TrainingError, require
from deconvviz.models.zfnet import PAPER_RADIUS, PAPER_RANGE


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a step.
        lr: learning rate of SGD to begin with.
        momentum: of SGD.
        weight_decay: of SGD.
        factor: the rate is multiplied by it when the validation error has not fallen for more than `patience` epochs
            (the paper lowered the rate by hand).
        patience: in epochs.
        radius: after each step, convolution filters whose root mean square exceeds it are scaled back to it; 0 sets no
            limit.
        validation: share of the images of each class that is held out.
        augment: whether images are cropped and flipped at random.
        precision: "fp32", or "bf16" (autocast).
        seed: of the order, the crops, the flips and the dropout.

    Raises:
        TrainingError: a value out of its range.

    Source: Zeiler and Fergus 2013, section 3.
    """

    epochs: int = 70
    batch_size: int = 128
    lr: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0
    factor: float = 0.1
    patience: int = 5
    radius: float = PAPER_RADIUS
    validation: float = 0.1
    augment: bool = True
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            epochs=(self.epochs >= 1, "at least 1"),
            batch_size=(self.batch_size >= 1, "at least 1"),
            lr=(0 < self.lr < math.inf, "a positive number"),
            momentum=(0 <= self.momentum < 1, "a number from 0 to below 1"),
            weight_decay=(self.weight_decay >= 0, "0 or more"),
            factor=(0 < self.factor < 1, "a number between 0 and 1"),
            patience=(self.patience >= 0, "0 or more"),
            radius=(self.radius >= 0, "0, for no limit, or more"),
            validation=(0 <= self.validation < 1, "a share from 0 to below 1"),
            precision=(self.precision in PRECISIONS, " or ".join(PRECISIONS)),
        )


PAPER = Recipe()


def renormalise(model: nn.Module, radius: float) -> None:
    """Scale each convolution filter whose root mean square exceeds `radius` back to it, in place.

    Source: Zeiler and Fergus 2013, section 3.

    >>> layer = nn.Conv2d(3, 1, 2)
    >>> _ = nn.init.constant_(layer.weight, 0.5)
    >>> renormalise(layer, 0.1)
    >>> round(float(layer.weight.detach().square().mean().sqrt()), 6)
    0.1
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                size = module.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                module.weight.mul_((radius / size).clamp(max=1))


def paper_preprocess(model: nn.Module) -> Preprocess:
    """Return how the paper prepares images for a network that tells its input size, but for the mean.

    Raises:
        TrainingError: the model does not tell its input size.

    Source: Zeiler and Fergus 2013, section 3 (224 px out of 256; they subtract a mean for each pixel).
    """
    size = getattr(model, "arguments", {}).get("input_size")
    if size is None:
        raise TrainingError("it is not known how images are prepared for this model; give preprocess")
    return Preprocess(resize=round(size * 8 / 7), crop=size, std=PAPER_RANGE)

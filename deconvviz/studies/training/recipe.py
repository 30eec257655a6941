"""The paper's recipe: the numbers by which a network is trained, and how its images are prepared."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from deconvviz.choices import TRAINING_PRECISIONS, Precision
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import TrainingError, require
from deconvviz.models.zfnet import GEOMETRY, PAPER_RADIUS, PAPER_RANGE


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images in a step.
        lr: learning rate of SGD at the beginning.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        factor: the learning rate is multiplied by it when the validation error has not fallen for more than `patience`
            epochs (the paper lowered the rate by hand).
        patience: number of epochs.
        radius: after each step, convolution filters whose root mean square exceeds it are scaled back to it; 0 sets no
            limit.
        validation: share of the images of each class that is held out, from 0 to below 1.
        augment: whether images are cropped and flipped at random.
        precision: "fp32"; "tf32", in which a GPU is faster; or "bf16" (autocast).
        seed: what the order, the crops, the flips and the dropout are drawn from.

    Raises:
        TrainingError: a value out of its range.

    Source: Zeiler and Fergus 2013, section 3.

    >>> Recipe(epochs=10).momentum
    0.9
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
            precision=(self.precision in TRAINING_PRECISIONS, " or ".join(TRAINING_PRECISIONS)),
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
            if not isinstance(module, nn.Conv2d):
                continue
            made_anew = parametrize.is_parametrized(module, "weight")  # each time that it is read, of the original
            stored = module.get_parameter("parametrizations.weight.original" if made_anew else "weight")
            if stored.requires_grad:  # frozen filters stay as they are
                size = module.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                stored.mul_((radius / size).clamp(max=1))


def paper_preprocess(model: nn.Module) -> Preprocess:
    """Return how the paper prepares images for a network, except for the mean, which the training images give.

    Args:
        model: a network with its input size in pixels in `model.arguments["input_size"]`, as a ZFNet has it.

    Raises:
        TrainingError: the model does not have its input size there.

    Source: Zeiler and Fergus 2013, section 3 (224 px out of 256; they subtract a mean for each pixel).

    >>> from deconvviz.models.zfnet import zfnet
    >>> paper_preprocess(zfnet(input_size=64, width=0.1)).resize
    73
    """
    size = getattr(model, "arguments", {}).get("input_size")
    if size is None:
        raise TrainingError("it is not known how images are prepared for this model; give preprocess")
    return Preprocess(resize=round(size * 8 / 7), crop=size, std=PAPER_RANGE)


def fitting_input_size(images: Images, first: str = "zfnet") -> int:
    """Return the largest input size of `zfnet`, in pixels, that the first image has room for, else the smallest.

    Args:
        images: the images to train on.
        first: "zfnet" or "alexnet", the kind of layers 1 and 2; each kind is laid out for some sizes.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> fitting_input_size(Scenes(1, size=100))
    96
    """
    sizes = sorted(size for kind, size in GEOMETRY if kind == first)
    shorter_side = min(images[0][0].shape[:2])
    return max((size for size in sizes if size <= shorter_side), default=min(sizes, default=224))

"""Further augmentations, which are torchvision's: colour jitter, random erasing, mixup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from deconvviz.errors import TrainingError, require
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.additions.registry import registered
from deconvviz.types import Picture


@registered
@dataclass
class ColourJitter(Addition):
    """Brightness, contrast, saturation and hue of each image are changed at random (torchvision's ColorJitter).

    Options: brightness, contrast, saturation (0.4 each: a factor from 0.6 to 1.4) and hue (0.1: at most a tenth of the
    colour circle either way). The images have to be of 8-bit colours.

    Source: torchvision.transforms.v2.ColorJitter; the defaults are our choice.
    """

    name = "colour-jitter"
    of_one_class = False
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        factors = ("brightness", "contrast", "saturation")
        expectations = {name: (getattr(self, name) >= 0, "0 or more") for name in factors}
        require(self, TrainingError, **expectations, hue=(0 <= self.hue <= 0.5, "a number from 0 to 0.5"))
        self._jitter = v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)

    def begin(self, course: Course) -> None:
        """Refuse images without three 8-bit colours."""
        kind = np.dtype(getattr(course.training.images, "dtype", np.uint8))
        if course.preprocess.shape[0] != 3 or kind != np.uint8:
            channels = course.preprocess.shape[0]
            raise TrainingError(f"colour-jitter changes three 8-bit colours; the images have {channels} of {kind}")

    def crops(self, crops: Picture, step: Step) -> Picture:
        """Jitter each image by draws of its own."""
        with step.drawing(self.name):
            images = torch.from_numpy(crops).permute(0, 3, 1, 2)
            return torch.stack([self._jitter(image) for image in images]).permute(0, 2, 3, 1).contiguous().numpy()


@registered
@dataclass
class RandomErasing(Addition):
    """A rectangle of some images is erased: it gets the mean colour (torchvision's RandomErasing).

    Options: probability (0.5) of an image to lose a rectangle; smallest and largest (0.02 and 0.33), its area as shares
    of the image; narrowest and widest (0.3 and 3.3), its height over its width.

    Source: Zhong et al. 2020, Random Erasing; torchvision.transforms.v2.RandomErasing, whose defaults these are.
    """

    name = "random-erasing"
    of_one_class = False
    probability: float = 0.5
    smallest: float = 0.02
    largest: float = 0.33
    narrowest: float = 0.3
    widest: float = 3.3

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            probability=(0 <= self.probability <= 1, "a number from 0 to 1"),
            largest=(0 <= self.smallest <= self.largest <= 1, "areas in order, from 0 to 1"),
            widest=(0 < self.narrowest <= self.widest, "ratios in order, above 0"),
        )
        area, ratio = (self.smallest, self.largest), (self.narrowest, self.widest)
        self._erasing = v2.RandomErasing(self.probability, area, ratio, value=0)

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Erase each normalised image by draws of its own; 0 is the mean colour."""
        with step.drawing(self.name):
            # Into the layout of x: another one would be computed with in another order
            return torch.stack([self._erasing(image) for image in x], out=torch.empty_like(x)), targets


@registered
@dataclass
class MixUp(Addition):
    """The network learns from mixtures of two images, and is to answer with both classes in the same shares.

    x = l x_i + (1 - l) x_j, likewise the targets, with l drawn from Beta(alpha, alpha) for each batch, and j the image
    before i in the batch. "accuracy" in the history counts the class of x_i, so that it stays low while mixtures are
    learned; the validation accuracy is that of plain images.

    Options: alpha (0.2): the smaller, the nearer the mixtures are to one of the two.

    Source: Zhang et al. 2018, mixup (arXiv 1710.09412); torchvision.transforms.v2.MixUp.
    """

    name = "mixup"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        require(self, TrainingError, alpha=(self.alpha > 0, "a number above 0"))

    def begin(self, course: Course) -> None:
        """Learn how many outputs the network has."""
        self._mix = v2.MixUp(alpha=self.alpha, num_classes=len(course.classes))

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Mix the batch with itself, moved by one place."""
        with step.drawing(self.name):
            mixed, shares = self._mix(x, targets)
        return mixed, shares

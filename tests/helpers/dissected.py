"""Pictures with known parts and networks whose channels are known, for the tests of dissections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import OBJECT
from deconvviz.types import Mask

SIDE, COUNT = 16, 12
PLAIN = Preprocess(resize=None, crop=SIDE, mean=(0, 0, 0), std=(1, 1, 1))


class PlantedTruth:
    """The red of a picture is the part "wheel", its green the part "left eye", both together are the object."""

    fingerprint = "planted"

    def __init__(self, images: InMemoryImages, known: int = COUNT) -> None:
        self.images, self.known = images, known

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the masks of a picture; of those from `known` on nothing is known."""
        if index >= self.known:
            return {}
        picture = self.images[index][0]
        wheel, eye = picture[..., 0] > 0, picture[..., 1] > 0
        return {OBJECT: wheel | eye, "wheel": wheel, "left eye": eye}


def pictures(seed: int = 0, count: int = COUNT) -> InMemoryImages:
    """Pictures with a red and a green rectangle at random places on blue noise; the classes are "a" and "b"."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[..., 2] = rng.integers(0, 200, (SIDE, SIDE))
        for colour in (0, 1):
            top, left = rng.integers(0, SIDE - 4, 2)
            picture[top : top + 3, left : left + 4, colour] = 255
        made.append(picture)
    return InMemoryImages(made, [number % 2 for number in range(count)], ("a", "b"))


class Colours(nn.Module):
    """The layer "seen" has the channels red, green, blue, the mean of all, and one that is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Conv2d(3, 5, 1)
        nn.init.zeros_(self.seen.weight)
        nn.init.zeros_(self.seen.bias)  # type: ignore[arg-type]
        for channel in range(3):
            self.seen.weight.data[channel, channel] = 1
        self.seen.weight.data[3] = 1 / 3
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of pooled maps."""
        pooled: Tensor = self.pool(self.seen(x))
        return pooled.mean((2, 3))


def network() -> dv.Network:
    """Return the captured network."""
    torch.manual_seed(0)
    return dv.capture(Colours().eval(), PLAIN.shape)


def dissected(images: InMemoryImages, layers: Any = ("seen",), **options: Any) -> dv.Dissection:
    """Dissect the network on some pictures, with the truth that is planted in them where nothing else is said."""
    options = {"truth": PlantedTruth(images), "progress": False, "quantile": 0.9, "top": 4, **options}
    return dv.dissect(network(), images, layers, preprocess=PLAIN, **options)

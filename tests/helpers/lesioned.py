"""Small networks and images to operate on, and the options that their lesions have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from in_memory import ReadImages
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.studies.lesions.measure import lesion
from deconvviz.studies.lesions.result import Lesions

PLAIN = dv.Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def noise_images(count: int = 23, seed: int = 0) -> ReadImages:
    """Random images of 12 px, each of another tint; some are of no known class."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(100, 256, (count, 12, 12, 3))
    pictures = (noise * rng.random((count, 1, 1, 3))).astype(np.uint8)
    labels = rng.integers(0, 4, count)
    labels[[3, 11]] = -1
    return ReadImages(pictures, labels, ("a", "b", "c", "d"))


def chain() -> nn.Sequential:
    """Two convolutions and a classifier, one after the other, of seeded weights, in float64."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(63, 6)
    )
    return model.double().eval()


class Residual(nn.Module):
    """Two paths around one convolution; `forward` says nothing of where it may be cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)  # a network whose answers differ from image to image
        self.first, self.act = nn.Conv2d(3, 6, 3), nn.ReLU()
        self.inner, self.norm, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 6)
        nn.init.uniform_(self.norm.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        found: Tensor = self.out(functional.relu(h + self.norm(self.inner(h))).mean((2, 3)))
        return found


OUTPUTS = [4, 0, 5, 2]  # which output stands for a class: not the order, and not all of them


def operate(network: dv.Network, images: Any, layers: Any, **options: Any) -> Lesions:
    """The lesions of these layers; options: what else `lesion` gets, or gets instead."""
    options = {"preprocess": PLAIN, "outputs": np.array(OUTPUTS), "progress": False, **options}
    return lesion(network, images, layers, **options)

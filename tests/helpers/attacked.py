"""Small classifiers, images and the batches of them that attacks are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.studies.attack.pixels import PixelNetwork, PixelScale
from deconvviz.studies.attack.victims import Victims

SIDE = 12
PLAIN = dv.Preprocess(resize=None, crop=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def classifier(seed: int = 0) -> nn.Module:
    """A lively network with BatchNorm, an in-place rectifier and pooling."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(150, 4)).eval()


def linear(classes: int = 2, side: int = SIDE, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes)).eval()


def images(count: int = 6, side: int = SIDE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels in 0..1, black and white among them."""
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (1.2 * x - 0.1).clamp(0, 1).to(dtype)


def victims(
    model: nn.Module,
    x: Tensor,
    epsilon: float,
    own: Tensor | None = None,
    target: int | None = None,
    preprocess: dv.Preprocess = PLAIN,
    loss: str = "cross-entropy",
) -> Victims:
    network = PixelNetwork(dv.capture(model, tuple(x.shape[1:])), PixelScale(preprocess))
    before = network.scores(x).argmax(1)
    own = before if own is None else own
    targets = None if target is None else torch.full_like(own, target)

    def noise(places: Sequence[int], shape: tuple[int, ...], stream: int) -> Tensor:
        generator = torch.Generator().manual_seed(2 + stream)
        return (2 * torch.rand((len(x), *shape), generator=generator, dtype=x.dtype) - 1)[list(places)]

    return Victims(
        network=network,
        x=x,
        own=own,
        targets=targets,
        already=before != own if targets is None else before == targets,
        epsilon=epsilon,
        loss=loss,
        draw=noise,
    )


def fewest_of_linear(weights: np.ndarray[Any, Any], x: np.ndarray[Any, Any], own: int, epsilon: float) -> set[int]:
    """By brute force over the other classes: pixels in the order of what they move the margin by, until it is 0."""
    best: set[int] | None = None
    scores = weights @ x.ravel()
    for other in set(range(len(weights))) - {own}:
        row = (weights[other] - weights[own]).reshape(x.shape)
        gain = (row * (np.clip(x + epsilon * np.sign(row), 0, 1) - x)).sum(0).ravel()
        margin, chosen = scores[other] - scores[own], set[int]()
        for pixel in np.argsort(-gain).tolist():
            if margin > 0:
                break
            margin, chosen = margin + gain[pixel], chosen | {pixel}
        if margin > 0 and (best is None or len(chosen) < len(best)):
            best = chosen
    return best or set()

"""What each addition to a training is tried with; the registry refuses one that is missing here.

The network, the images and the training are the smallest on which an addition does something.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.capture import capture
from deconvviz.studies.attack.measure import attack
from deconvviz.studies.training.additions.base import Addition
from deconvviz.studies.training.additions.registry import addition
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train

PLAIN = Preprocess(resize=12, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def squares(count: int = 40, seed: int = 0) -> InMemoryImages:
    """Images of noise with a bright or a dark square; the last one has no class."""
    rng = np.random.default_rng(seed)
    labels = [*(n % 2 for n in range(count - 1)), -1]
    pictures = rng.integers(90, 160, (count, 16, 16, 3), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        y, x = rng.integers(2, 8, 2)
        picture[y : y + 5, x : x + 5] = 250 if label else 5
    return InMemoryImages(pictures, labels, ("dark", "bright"))


def small_network() -> nn.Module:
    """Two convolutions with maps of 12 and 6 pixels a side, dropout, and a linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(288, 2),
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one addition is tried.

    Attributes:
        options: from a folder for files to the addition's options, with which it changes the training.
        off: likewise, with which it does nothing; None where it has no such options.
        network: makes the network.
    """

    options: Callable[[pathlib.Path], dict[str, Any]] = field(default=lambda _: {})
    off: Callable[[pathlib.Path], dict[str, Any]] | None = None
    network: Callable[[], nn.Module] = small_network


def key_points(folder: pathlib.Path) -> str:
    """Write the key points of the images, by an attack on the network as it is before it is trained."""
    out = folder / "points.h5"
    about: dict[str, Any] = {"away_from": "top", "epsilons": [0.3], "progress": False}
    network = capture(small_network().eval(), PLAIN.shape)
    study = attack(network, squares(), "sparse", out, preprocess=PLAIN, method_options={"mask_steps": 10}, **about)
    assert study.success[0] > 0.5
    return str(out)


TRIALS: dict[str, Trial] = {
    "hide-and-seek": Trial(options=lambda _: {"cells": 3}, off=lambda _: {"hidden": 0.0}),
    "colour-jitter": Trial(
        off=lambda _: {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    ),
    "random-erasing": Trial(off=lambda _: {"probability": 0.0}),
    "mixup": Trial(),
    "adv-mask": Trial(
        options=lambda folder: {"points": key_points(folder), "epochs": 2},
        off=lambda folder: {"points": key_points(folder), "final": 0.0},
    ),
    "gradient-mask": Trial(options=lambda _: {"images": 4}, off=lambda _: {"from_epoch": 99, "images": 4}),
    "sparse-connections": Trial(
        options=lambda _: {"price": 3.0, "rate": 0.05},
        off=lambda _: {"price": 0.0},
    ),
    "interpretable-filters": Trial(
        options=lambda _: {"form": "spread", "weight": 0.2},
        off=lambda _: {"weight": 0.0},
    ),
    "model-doctor": Trial(options=lambda _: {"after": 1, "alpha": 1.0}, off=lambda _: {"alpha": 0.0}),
}


def trained(
    out: pathlib.Path, additions: list[Addition], network: Callable[[], nn.Module] = small_network, **options: Any
) -> Any:
    """Train a small network for two epochs of three steps, with a commit after each second step."""
    recipe = Recipe(epochs=2, batch_size=14, lr=0.05, validation=0)
    options = {"preprocess": PLAIN, "progress": False, "commit_every": 2, **options}
    return train(network(), squares(), out, recipe, additions=additions, **options)


def addition_for(name: str, folder: pathlib.Path) -> Addition:
    """Return the addition that a trial describes."""
    return addition(name, **TRIALS[name].options(folder))

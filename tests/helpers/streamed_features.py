"""Features of small noisy images, streamed into a file."""

from __future__ import annotations

import pathlib
from typing import Any

import torch
from in_memory import noise
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.results.features import Features
from deconvviz.run.features import stream_features

COUNT, LAYERS = 60, ("1", "2", "5")
PLAIN = dv.Preprocess(resize=None, crop=(20, 28), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def noise_images(count: int = COUNT, seed: int = 0, kind: type[InMemoryImages] = InMemoryImages) -> InMemoryImages:
    """Images of noise, higher than wide never: rows and columns must not be confused. kind: the class of them."""
    return kind(noise(count, 20, 28, seed=seed), [n % 3 for n in range(count)], ("one", "two", "three"))


def model(seed: int = 1) -> nn.Module:
    """Layers 1: maps 6 x 18 x 26, 2: 6 x 9 x 13, 5: a vector of 10."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(702, 10), nn.ReLU())
    return nn.Sequential(*layers).eval()


def streamed(out: pathlib.Path, images: InMemoryImages | None = None, **changes: Any) -> Features:
    """Stream the features of the three layers; changes: what else `stream_features` gets, or gets instead."""
    options: dict[str, Any] = {"preprocess": PLAIN, "progress": False, "batch_size": 4, "commit_every": 2} | changes
    network = options.pop("network", None) or dv.capture(model(), (3, 20, 28))
    return stream_features(network, images or noise_images(), options.pop("layers", LAYERS), out, **options)

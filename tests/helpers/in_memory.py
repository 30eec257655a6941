"""Datasets in memory that several tests use: noise, colours, scenes, and images that know which of them were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages

Picture = NDArray[np.uint8]


class ReadImages(InMemoryImages):
    """Images that remember, in the attribute `read`, which of them were read, in the order of reading."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        self.read.append(index)
        return super().__getitem__(index)


def noise(*shape: int, seed: int = 0) -> Picture:
    """Pictures of noise, uint8 [*shape,3]: such as one of [H,W,3], or many of [N,H,W,3]."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def drawn_scenes(count: int, seed: int) -> InMemoryImages:
    """Generated scenes that are drawn once, for what reads them many times."""
    scenes = dv.Scenes(count, seed=seed)
    return InMemoryImages([scenes[n][0] for n in range(count)], scenes.labels, scenes.classes, scenes.names)


def coloured_images(labels: Sequence[int]) -> InMemoryImages:
    """Images of 8 px, each red, green or blue all over; the colour tells the class, and -1 is black."""
    pictures = np.zeros((len(labels), 8, 8, 3), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        if label >= 0:
            picture[..., label] = 200
    return InMemoryImages(pictures, labels, ("red", "green", "blue"))

"""Datasets whose pictures are in memory, for the tests that need labelled images and no file."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deconvviz as dv

Picture = NDArray[np.uint8]


class InMemoryImages:
    """Pictures with labels, class names and names of their own, as `deconvviz.data.datasets.Images` has them.

    pictures: uint8 [N,H,W,3], or a sequence of uint8 [H,W,3]; they are kept as they are given, not copied.
    labels: an index into the classes for each picture, -1 where unknown; without labels every one is unknown.
    names: one for each picture; without names they are 0.png, 1.png and so on.
    fingerprint: equal for equal pictures, labels, classes and names.
    """

    def __init__(
        self,
        pictures: Sequence[Picture] | Picture,
        labels: Sequence[int] | NDArray[np.int64] | None = None,
        classes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        self.pictures = pictures
        self.labels = np.array([-1] * len(pictures) if labels is None else labels, np.int64)
        self.classes = tuple(classes)
        self.names = tuple([f"{n}.png" for n in range(len(pictures))] if names is None else names)
        digest = sha256(repr((self.labels.tolist(), self.classes, self.names)).encode())
        for picture in pictures:
            digest.update(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        return self.pictures[index], int(self.labels[index])


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

"""Feeding a training: pictures of one size, kept in memory where they fit, and their random crops and flips."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.datasets import Images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError

MEMORY = 2 << 30  # bytes of decoded pictures that are kept
Pixels = NDArray[np.uint8]


class Pictures:
    """Some images of a dataset, resized and cropped once to what `preprocess` gives."""

    def __init__(self, images: Images, chosen: NDArray[np.int64], preprocess: Preprocess, workers: int) -> None:
        self.images, self.chosen, self.preprocess, self.workers = images, chosen, preprocess, workers
        self.labels = images.labels[chosen]
        _, height, width = preprocess.shape
        fits = len(chosen) * height * width * 3 <= MEMORY
        self._kept: Pixels | None = np.empty((len(chosen), height, width, 3), np.uint8) if fits else None
        self._known = np.zeros(len(chosen), bool)

    def __len__(self) -> int:
        return len(self.chosen)

    def picture(self, index: int) -> Pixels:
        """Return picture `index` of the chosen ones, uint8 [h,w,3]."""
        if self._kept is None:
            return self.preprocess.picture(self.images[int(self.chosen[index])][0])
        if not self._known[index]:
            self._kept[index] = self.preprocess.picture(self.images[int(self.chosen[index])][0])
            self._known[index] = True
        kept: Pixels = self._kept[index]
        return kept

    def batches(self, order: NDArray[np.int64], size: int) -> Iterator[tuple[Pixels, NDArray[np.int64]]]:
        """Yield (uint8 [n,h,w,3], labels int64 [n]) in this order, n = `size` but for the last."""
        pictures = in_order(self.picture, (int(i) for i in order), self.workers)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield np.stack(list(islice(pictures, len(part)))), self.labels[part]


def crops(pictures: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Cut a random square out of each picture and flip every second one, by chance: [n,h,w,3] -> [n,size,size,3]."""
    count, height, width, _ = pictures.shape
    tops, lefts = rng.integers(0, height - size + 1, count), rng.integers(0, width - size + 1, count)
    steps = np.where(rng.random(count) < 0.5, -1, 1)
    cut = (
        picture[top : top + size, left : left + size][:, ::step]
        for picture, top, left, step in zip(pictures, tops, lefts, steps, strict=True)
    )
    return np.stack(list(cut))


def split(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the labelled images at random into training and validation, the same share of every class.

    Returns two ascending arrays of indices; images of unknown class are in neither.
    Raises DataError where a part would be empty.
    """
    rng = np.random.default_rng([seed, 1])
    held: list[NDArray[np.int64]] = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        held.append(rng.permutation(members)[: round(share * len(members))])
    validation = np.sort(np.concatenate(held)) if held else np.zeros(0, np.int64)
    training = np.setdiff1d(np.flatnonzero(labels >= 0), validation)
    if not len(training) or (share > 0 and not len(validation)):
        raise DataError(
            f"{int((labels >= 0).sum())} of {len(labels)} images have a class; a share of {share:g} leaves "
            f"{len(training)} to train on and {len(validation)} to validate: expected some of each"
        )
    return training, validation


def mean_of(pictures: Pictures, seed: int, count: int = 1000) -> tuple[float, float, float]:
    """Return the mean of each channel, in 0..1, over some pictures."""
    rng = np.random.default_rng([seed, 2])
    some = np.sort(rng.permutation(len(pictures))[:count])
    total = sum(pictures.picture(int(i)).mean((0, 1)) for i in some) / len(some) / 255
    red, green, blue = (round(float(value), 4) for value in np.asarray(total))
    return red, green, blue

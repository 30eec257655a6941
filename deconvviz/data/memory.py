"""Images that are in memory, as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.arrays import PEAKS, require_one_kind
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.types import Ints, Picture
from deconvviz.words import counted


class InMemoryImages(Shown, drawn_by="draw_images"):
    """Labelled images from arrays: a dataset that needs no file.

    Every function that takes an image store takes it too. The arrays are not copied, so do not change them.

    Attributes:
        pictures: N arrays [H, W, C], all uint8, uint16 or float32, with one number of channels; sizes may differ.
        channels: number of channels.
        dtype: of the values.
        labels: int64 [N], an index into the classes, -1 where unknown.
        classes: the class names; empty where none were given.
        names: N distinct names.
        fingerprint: SHA-256 in hex of pixels, labels, names and classes; equal for equal content.

    Raises:
        DataError: there is no image, images are of another or of several kinds, lists have different lengths, or a name
            is there twice.

    >>> images = InMemoryImages(np.zeros((4, 8, 8, 3), np.uint8), labels=[0, 0, 1, 1], classes=["cat", "dog"])
    >>> len(images), images[2][1], images.names[2]
    (4, 1, '2')
    """

    def __init__(
        self,
        pictures: Sequence[Picture] | Picture,
        labels: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        classes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        """Make a dataset of images in memory.

        Args:
            pictures: [H, W, C] each, or [N, H, W, C]; uint8, uint16 or float32.
            labels: [N], an index into the classes for each image, -1 where unknown; by default all are unknown.
            classes: the class names.
            names: N distinct names; by default the numbers of the images.
        """
        self.pictures = list(pictures)
        count = len(self.pictures)
        self.labels: Ints = np.full(count, -1) if labels is None else np.asarray(labels, np.int64)
        self.classes = tuple(classes)
        self.names = tuple(map(str, range(count))) if names is None else tuple(names)
        wrong = [p for p in self.pictures if str(p.dtype) not in PEAKS or p.ndim != 3 or not p.shape[2]]
        if not count or wrong:
            given = f"{wrong[0].dtype} {list(wrong[0].shape)}" if wrong else "no image"
            raise DataError(f"{given} given; expected images [H, W, C] of {', '.join(PEAKS)}")
        require_one_kind(self.pictures)
        self.channels, self.dtype = self.pictures[0].shape[2], self.pictures[0].dtype
        if not len(self.labels) == len(self.names) == count or len({*self.names}) != count:
            raise DataError(
                f"{counted(count, 'image')}, {counted(len(self.labels), 'label')} and {len({*self.names})} "
                "distinct names given; expected "
                "as many of each"
            )
        digest = sha256(repr((self.names, self.classes)).encode() + self.labels.tobytes())
        for picture in self.pictures:
            kind = "" if picture.dtype == np.uint8 else str(picture.dtype)
            digest.update((kind + repr(picture.shape)).encode() + np.ascontiguousarray(picture).tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index` [H, W, C], and its label."""
        return self.pictures[index], int(self.labels[index])

    def __repr__(self) -> str:
        return f"<InMemoryImages: {counted(len(self), 'image')}, {counted(len(self.classes), 'class')}>"

"""Types that several rooms share: arrays by what they hold, and one rectangle."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pathlike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]  # pictures to look at, [..., h, w, 3]
Picture = NDArray[Any]  # images with any number of channels, [..., h, w, C]: uint8, uint16 or float32
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]  # [h, w], true inside
Array = NDArray[Any]


class Box(NamedTuple):
    """A rectangle of pixels: rows top to bottom - 1, columns left to right - 1.

    >>> box = Box(2, 3, 7, 9)
    >>> box.height, box.width
    (5, 6)
    >>> box.of(np.zeros((10, 10, 3))).shape
    (5, 6, 3)
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return the part of a picture [h, w, ...] inside the box, as a view."""
        return picture[self.top : self.bottom, self.left : self.right]

    def clipped(self, height: int, width: int) -> Box:
        """Return the part of the box inside a picture of that size."""
        top, left = max(self.top, 0), max(self.left, 0)
        return Box(top, left, min(self.bottom, height), min(self.right, width))

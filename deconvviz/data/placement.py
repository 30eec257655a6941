"""Where an image lies in the picture that a network receives: boxes of one become boxes of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deconvviz.data.framing import middle
from deconvviz.data.preprocess import Preprocess
from deconvviz.types import Box


class Placement(NamedTuple):
    """Where an image lies in the picture that a network receives, and so how places of one become those of the other.

    Attributes:
        down: pixels of the picture for each of the image, from top to bottom.
        across: the same from left to right.
        top: the picture's row at which the image begins; below zero where it was cut off.
        left: the picture's column at which the image begins.
        height: of the image in the picture, in the picture's pixels.
        width: of the image in the picture.
    """

    down: float
    across: float
    top: int
    left: int
    height: int
    width: int

    def into(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return the place in the picture of a box (left, top, right, bottom) of the image, in pixels.

        >>> Placement(0.5, 0.5, 16, 0, 32, 64).into((10, 20, 30, 40))
        (5.0, 26.0, 15.0, 36.0)
        """
        left, top, right, bottom = box
        return (
            left * self.across + self.left,
            top * self.down + self.top,
            right * self.across + self.left,
            bottom * self.down + self.top,
        )

    def out_of(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return the place in the image of a box (left, top, right, bottom) of the picture: the inverse of `into`.

        >>> Placement(0.5, 0.5, 16, 0, 32, 64).out_of((5, 26, 15, 36))
        (10.0, 20.0, 30.0, 40.0)
        """
        left, top, right, bottom = box
        return (
            (left - self.left) / self.across,
            (top - self.top) / self.down,
            (right - self.left) / self.across,
            (bottom - self.top) / self.down,
        )

    def seen(self, height: int, width: int) -> Box:
        """Return the part of a picture of that height and width that shows the image: all of it but the bars.

        >>> Placement(0.5, 0.5, 16, 0, 32, 64).seen(64, 64)
        Box(top=16, left=0, bottom=48, right=64)
        """
        return Box(self.top, self.left, self.top + self.height, self.left + self.width).clipped(height, width)


def placement_of(preprocess: Preprocess, height: int, width: int) -> Placement:
    """Return where an image of a height and width in pixels lies in the picture that is made of it.

    >>> placement_of(Preprocess(resize=64, crop=64, fit="contain"), 40, 80)  # 64 x 32 px between bars of 16 px
    Placement(down=0.8, across=0.8, top=16, left=0, height=32, width=64)
    """
    size, crop = preprocess.resized(height, width), preprocess.crop
    room = size if crop is None else (crop, crop) if isinstance(crop, int) else crop
    top, left = (_offset(length, side) for length, side in zip(size, room, strict=True))
    return Placement(size[0] / height, size[1] / width, top, left, *size)


def _offset(length: int, room: int) -> int:
    """Return where an image of a length begins in a picture of another one, as `centre_of` cuts it or fills it up.

    >>> _offset(32, 64), _offset(256, 224)
    (16, -16)
    """
    return (room - length) // 2 if length < room else -middle(length, room).start

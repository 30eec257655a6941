"""Images of any number of channels and 8, 16 or 32 bits, resized and cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deconvviz.types import Box, Picture

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resized_to(image: Picture, size: tuple[int, int], interpolation: str) -> Picture:
    """Resize an image [H, W, C] to (height, width); what PIL has no picture for goes channel by channel.

    Args:
        image: uint8, uint16 or float32 [H, W, C]. Images of other than 8 bits are resized in float32.
        size: (height, width) of the result.
        interpolation: "nearest", "bilinear" or "bicubic"; the last two are antialiased.

    Returns:
        Of the type of the image; integers are rounded and kept within their range.

    >>> resized_to(np.array([[[0.0, 8.0], [1.0, 4.0]]], np.float32), (1, 1), "bilinear").tolist()
    [[[0.5, 6.0]]]
    """
    method = _INTERPOLATION[interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize(size[::-1], method))
    exact = image if image.dtype == np.uint8 else image.astype(np.float32)
    channels = [Image.fromarray(np.ascontiguousarray(exact[..., n])) for n in range(image.shape[2])]
    values = np.stack([np.asarray(channel.resize(size[::-1], method)) for channel in channels], -1)
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16) if image.dtype == np.uint16 else values


def centre_of(image: Picture, height: int, width: int, fill: Sequence[float]) -> Picture:
    """Cut the centre out of an image [H, W, C], rounded as in torchvision's CenterCrop; `fill` where it is smaller."""
    down, across = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    if down or across:
        framed = np.empty((image.shape[0] + down, image.shape[1] + across, image.shape[2]), image.dtype)
        framed[:] = np.array(fill, image.dtype)
        framed[down // 2 : down // 2 + image.shape[0], across // 2 : across // 2 + image.shape[1]] = image
        image = framed
    return image[middle(image.shape[0], height), middle(image.shape[1], width)]


def middle(room: int, length: int) -> slice:
    """Return the middle `length` of `room` pixels."""
    start = round((room - length) / 2)
    return slice(start, start + length)


def offset(length: int, room: int) -> int:
    """Return where an image of a length begins in a picture of another one, as `centre_of` cuts it or fills it up.

    >>> offset(32, 64), offset(256, 224)
    (16, -16)
    """
    return (room - length) // 2 if length < room else -middle(length, room).start


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


def is_size(size: Any) -> bool:
    """Return whether it is a length in pixels, or a (height, width).

    >>> is_size(3), is_size((3, 4)), is_size(0), is_size((3, 4, 5))
    (True, True, False, False)
    """
    sides = (size,) * 2 if isinstance(size, int) else size
    return isinstance(sides, tuple) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)


def channel_count(channels: int) -> str:
    """Return a number of channels in words.

    >>> channel_count(1), channel_count(6)
    ('1 channel', '6 channels')
    """
    return f"{channels} channel{'' if channels == 1 else 's'}"

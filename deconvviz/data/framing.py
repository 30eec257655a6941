"""Images of any number of channels and 8, 16 or 32 bits, resized and cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from deconvviz.types import Picture

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

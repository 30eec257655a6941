"""Pictures made of arrays, with numpy and Pillow: contrast, tiles of one size, outlines, and where energy lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvviz.arrays import FULL_CONTRAST
from deconvviz.arrays import stretched as stretched
from deconvviz.types import Box, Floats, Pixels


def signed_picture(signed: NDArray[np.floating[Any]], percentile: float = FULL_CONTRAST) -> Pixels:
    """Return signed values [h, w, C] as a picture, uint8 [h, w, 3], with the contrast of `stretched`."""
    levels = np.floor(255 * stretched(signed, percentile) + 0.5).astype(np.uint8)
    return np.broadcast_to(levels, (*signed.shape[:2], 3))


def grey_picture(values: NDArray[Any]) -> Pixels:
    """Return values [h, w] in 0..1 as a grey picture, uint8 [h, w, 3]; values beyond are clipped."""
    levels = (np.clip(np.asarray(values, np.float32), 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, 2)


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize a picture, uint8 [h, w, 3], to (height, width), bicubic and antialiased."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def tile(picture: Pixels, side: int) -> Pixels:
    """Scale a picture [h, w, 3] to side x side by the nearest pixels."""
    rows, columns = (np.arange(side) * size // side for size in picture.shape[:2])
    return np.ascontiguousarray(picture[rows[:, None], columns])


def outlined(picture: Pixels, box: Box, colour: tuple[int, int, int]) -> Pixels:
    """Draw the outline of a box inside the picture; its line is a seventy-fifth of the picture's height thick."""
    top, left, bottom, right = box
    copy: Pixels = np.array(picture)
    thickness = max(1, picture.shape[0] // 75)
    copy[top : top + thickness, left:right] = copy[max(bottom - thickness, 0) : bottom, left:right] = colour
    copy[top:bottom, left : left + thickness] = copy[top:bottom, max(right - thickness, 0) : right] = colour
    return copy


def side_that_holds(energy: Floats, centre: tuple[int, int], share: float) -> int:
    """Return the side of the smallest odd square around a centre that holds a share of an energy.

    Args:
        energy: float64 [h, w], not negative.
        centre: (row, column) of the square's middle pixel; it may lie outside.
        share: in 0..1, of the sum of the energy.

    >>> side_that_holds(np.eye(5), (2, 2), 0.5)
    3
    """
    rows, columns = (np.abs(np.arange(size) - middle) for size, middle in zip(energy.shape, centre, strict=True))
    held = np.bincount(np.maximum(rows[:, None], columns).ravel(), energy.ravel()).cumsum()
    return 2 * int(np.searchsorted(held, share * held[-1] - 1e-12 * held[-1])) + 1

"""Pictures from arrays, with numpy and Pillow: contrast, sizes, outlines, and where energy lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import resize

from deconvviz.arrays import FULL_CONTRAST, stretched
from deconvviz.types import Box, Floats, Pixels


def signed_picture(signed: NDArray[np.floating[Any]], percentile: float = FULL_CONTRAST) -> Pixels:
    """Return signed values as a picture: zero is grey, and the contrast is that of `deconvviz.arrays.stretched`.

    Args:
        signed: floating [h, w, C], with C = 3, or 1 for a grey picture.
        percentile: of the absolute values, which is shown as black or white.

    Returns:
        uint8 [h, w, 3].

    >>> signed_picture(np.array([[[-2.0], [0.0], [1.0]]]), percentile=100)[0, :, 0]
    array([  0, 128, 191], dtype=uint8)
    """
    return colour_picture(stretched(signed, percentile))


def colour_picture(levels: NDArray[np.floating[Any]]) -> Pixels:
    """Return levels in 0..1, floating [h, w, C] with C = 3 or 1, as a picture, uint8 [h, w, 3].

    >>> colour_picture(np.array([[[0.5], [2.0]]]))[0].tolist()
    [[128, 128, 128], [255, 255, 255]]
    """
    pixels = np.floor(255 * np.clip(levels, 0, 1) + 0.5).astype(np.uint8)
    return np.broadcast_to(pixels, (*levels.shape[:2], 3))


def grey_picture(values: NDArray[Any]) -> Pixels:
    """Return values [h, w] in 0..1 as a grey picture, uint8 [h, w, 3]; values outside of 0..1 are clipped.

    >>> grey_picture(np.array([[0.0, 0.2, 3.0]]))[0, :, 0]
    array([  0,  51, 255], dtype=uint8)
    """
    levels = (np.clip(np.asarray(values, np.float32), 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, 2)


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize a picture, uint8 [h, w, 3], to (height, width) by bicubic interpolation, antialiased."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def scaled(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize values, floating [h, w, C], to (height, width): by bilinear interpolation, antialiased.

    >>> scaled(np.array([[[0.0], [1.0]]], np.float32), (1, 4))[0, :, 0]
    array([0.  , 0.25, 0.75, 1.  ], dtype=float32)
    """
    if values.shape[:2] == size:
        return values
    shrinks = size[0] < values.shape[0] or size[1] < values.shape[1]
    out = resize(values, size, order=1, mode="edge", anti_aliasing=shrinks)  # type: ignore[no-untyped-call]
    return np.asarray(out, np.float32)


def tile(picture: Pixels, side: int) -> Pixels:
    """Scale a picture, uint8 [h, w, 3], to side x side pixels; each takes the value of the nearest one.

    >>> tile(np.array([[[1], [2]]], np.uint8), 4)[..., 0].tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]
    """
    rows, columns = (np.arange(side) * size // side for size in picture.shape[:2])
    return np.ascontiguousarray(picture[rows[:, None], columns])


def outlined(picture: Pixels, box: Box, colour: tuple[int, int, int]) -> Pixels:
    """Return a copy of a picture with the outline of a box.

    Args:
        picture: uint8 [h, w, 3].
        box: inside the picture; the line runs along its inner side.
        colour: red, green and blue of the line, 0 to 255. The line is h / 75 pixels thick, and at least one.

    >>> outlined(np.zeros((3, 3, 3), np.uint8), Box(0, 0, 3, 3), (9, 9, 9))[..., 0].tolist()
    [[9, 9, 9], [9, 0, 9], [9, 9, 9]]
    """
    top, left, bottom, right = box
    copy: Pixels = np.array(picture)
    thickness = max(1, picture.shape[0] // 75)
    copy[top : top + thickness, left:right] = copy[max(bottom - thickness, 0) : bottom, left:right] = colour
    copy[top:bottom, left : left + thickness] = copy[top:bottom, max(right - thickness, 0) : right] = colour
    return copy


def side_that_holds(energy: Floats, centre: tuple[int, int], share: float) -> int:
    """Return the side, an odd number of pixels, of the smallest square around a centre that holds a share of an energy.

    Args:
        energy: float64 [h, w], not negative.
        centre: (row, column) of the square's middle pixel; it may lie outside of the picture.
        share: of the sum of the energy, in 0..1.

    >>> side_that_holds(np.eye(5), (2, 2), 0.5)
    3
    """
    rows, columns = (np.abs(np.arange(size) - middle) for size, middle in zip(energy.shape, centre, strict=True))
    inside = np.bincount(np.maximum(rows[:, None], columns).ravel(), energy.ravel()).cumsum()  # of a half side 0, 1, ..
    return 2 * int(np.searchsorted(inside, share * inside[-1] - 1e-12 * inside[-1])) + 1

"""Small pictures of equal size, the tiles of a finding's figure."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.studies.diagnosis.measures.fields import Square

SIDE = 112  # pixels of a tile
Pixels = NDArray[np.uint8]


def tile(picture: NDArray[np.uint8], side: int = SIDE) -> Pixels:
    """Scale a picture [h, w, 3] to side x side by the nearest pixels."""
    rows, columns = (np.arange(side) * size // side for size in picture.shape[:2])
    return np.ascontiguousarray(picture[rows[:, None], columns])


def grey(values: torch.Tensor) -> Pixels:
    """Turn values [h, w] in 0..1 into a grey tile."""
    pixels = np.asarray((values.float().clamp(0, 1) * 255).round().byte().cpu().numpy(), np.uint8)
    return tile(np.repeat(pixels[..., None], 3, 2))


def outlined(picture: Pixels, square: Square, colour: tuple[int, int, int]) -> Pixels:
    """Draw the outline of a square, cut to the picture, as thick as a hundredth of it."""
    top, left, bottom, right = square
    out: Pixels = np.array(picture)
    thick = max(1, picture.shape[0] // 75)
    out[top : top + thick, left:right] = out[max(bottom - thick, 0) : bottom, left:right] = colour
    out[top:bottom, left : left + thick] = out[top:bottom, max(right - thick, 0) : right] = colour
    return out

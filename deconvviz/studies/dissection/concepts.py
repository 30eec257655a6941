"""Concepts that are computed from pixels: the name of each pixel's colour, and the texture around it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvviz.studies.dissection.naming import Concept

# sRGB of colours that a basic colour term names: those of CSS with the name, or with one that is a kind of it
COLOURS: dict[str, tuple[str, ...]] = {
    "black": ("000000", "1c1c1c"),
    "white": ("ffffff", "f2f2f2"),
    "grey": ("808080", "555555", "b4b4b4"),
    "red": ("ff0000", "b22222", "8b0000", "dc143c"),
    "green": ("008000", "00ff00", "228b22", "9acd32", "556b2f", "2e8b57"),
    "blue": ("0000ff", "00008b", "4169e1", "87ceeb", "4682b4", "00bfff"),
    "yellow": ("ffff00", "ffd700", "f0e68c"),
    "orange": ("ffa500", "ff8c00", "ff7f50"),
    "brown": ("8b4513", "a0522d", "5c4033", "cd853f", "3b2a1a"),
    "pink": ("ffc0cb", "ff69b4", "ff1493"),
    "purple": ("800080", "4b0082", "9370db", "8a2be2", "ff00ff"),
}
LEVELS = 32  # of each colour channel in the table of names
TEXTURES = ("horizontal edges", "vertical edges", "rising diagonal", "falling diagonal", "fine texture", "flat")
SCALE = 1 / 56  # of the shorter side: standard deviation of the window in which a texture is seen, 4 px of 224
FLAT = 0.02  # mean rise of the lightness, as a share of black to white for each pixel of a picture of 224 px
ONE_WAY = 0.5  # coherence from which a texture has one direction


PIXEL_CONCEPTS = (*(Concept("colour", name) for name in COLOURS), *(Concept("texture", name) for name in TEXTURES))


@functools.cache
def colour_table() -> NDArray[np.int64]:
    """Return the number of the colour name for each colour of 5 bits a channel, int64 [32768], in the order of COLOURS.

    A colour has the name of the nearest of the listed ones by CIEDE2000, the difference that people see.

    Source: the eleven basic colour terms of Berlin and Kay 1969; the listed colours are our choice.

    >>> list(COLOURS)[colour_table()[(31 * 32 + 16) * 32]]
    'orange'
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    colours = rgb2lab(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), 3).reshape(-1, 3))
    nearest, numbers = np.full(len(colours), np.inf), np.zeros(len(colours), np.int64)
    for number, listed in enumerate(COLOURS.values()):
        for text in listed:
            named = rgb2lab(np.array([[int(text[i : i + 2], 16) for i in (0, 2, 4)]]) / 255.0)
            distance = deltaE_ciede2000(colours, named)  # type: ignore[no-untyped-call]
            numbers[distance < nearest] = number
            nearest = np.minimum(nearest, distance)
    return numbers


def colours_of(pictures: Tensor, table: Tensor) -> Tensor:
    """Return the number of each pixel's colour name, int64 [N, h, w].

    Args:
        pictures: uint8 [N, h, w, 3], sRGB.
        table: `colour_table`, on the device of the pictures.
    """
    red, green, blue = (pictures >> 3).long().unbind(3)
    return table[(red * LEVELS + green) * LEVELS + blue]


def textures_of(pictures: Tensor, rows: range, columns: range) -> Tensor:
    """Return the number of the texture around each pixel that is looked at, int64 [N, rows, columns].

    The structure tensor is the mean of the products of the lightness's slopes, dx dx, dx dy and dy dy, in a Gaussian
    window of 1/56 of the shorter side. Its eigenvalues say how steep the window is (less than FLAT is "flat") and
    whether in one direction (their difference over their sum is at least ONE_WAY); then its angle names the edges. A
    steep window without one direction is "fine texture". Where not every row is looked at, the lightness is first
    averaged over the pixels between them.

    Args:
        pictures: uint8 [N, H, W, 3].
        rows: looked-at rows, evenly spaced.
        columns: looked-at columns, as far apart as the rows.

    Source: structure tensor of Bigun and Granlund 1987; scale, limits and names are our choice.

    >>> stripes = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    >>> stripes[:, ::4] = stripes[:, 1::4] = 255
    >>> TEXTURES[int(textures_of(stripes, range(32), range(32))[0, 16, 16])]
    'horizontal edges'
    """
    side, step = min(pictures.shape[1:3]), rows.step
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device) / 255
    light = (pictures.float() @ weights)[:, None]
    if step > 1:
        light = functional.avg_pool2d(light, step, ceil_mode=True)[..., : len(rows), : len(columns)]
    light = functional.pad(light, (1, 1, 1, 1), mode="replicate")
    across = (light[..., 1:-1, 2:] - light[..., 1:-1, :-2]) / (2 * step)
    down = (light[..., 2:, 1:-1] - light[..., :-2, 1:-1]) / (2 * step)
    products = torch.cat([across * across, across * down, down * down], 1)
    xx, xy, yy = _blurred(products, SCALE * side / step).unbind(1)
    energy, along, askew = xx + yy, xx - yy, 2 * xy  # twice the angle of the steepest slope has this cosine and sine
    # The slope crosses the edges; rows count downwards.
    upright = torch.where(along > 0, TEXTURES.index("vertical edges"), TEXTURES.index("horizontal edges"))
    oblique = torch.where(askew > 0, TEXTURES.index("rising diagonal"), TEXTURES.index("falling diagonal"))
    direction = torch.where(askew.abs() > along.abs(), oblique, upright)
    one_way = along.square() + askew.square() >= (ONE_WAY * energy).square()
    texture = torch.where(one_way, direction, TEXTURES.index("fine texture"))
    flat = FLAT * 224 / side
    return torch.where(energy < flat * flat, TEXTURES.index("flat"), texture)


def _blurred(maps: Tensor, deviation: float) -> Tensor:
    """Return maps [N, K, h, w] blurred by a Gaussian of a standard deviation in pixels; edges are repeated.

    Products with two matrices: on a CPU they take a fifteenth of the time of two convolutions.
    """
    down, across = (_blur_matrix(length, deviation, maps.device) for length in maps.shape[2:])
    return down @ maps @ across.T


def _blur_matrix(length: int, deviation: float, device: torch.device) -> Tensor:
    """Return the matrix [length, length] that blurs a column of values."""
    offsets = torch.arange(-max(round(3 * deviation), 1), max(round(3 * deviation), 1) + 1, device=device)
    weights = torch.exp(-0.5 * (offsets / max(deviation, 1e-6)) ** 2)
    places = (torch.arange(length, device=device)[:, None] + offsets).clamp(0, length - 1)
    blurs = torch.zeros(length, length, device=device)
    return blurs.scatter_add_(1, places, (weights / weights.sum()).expand(length, -1))

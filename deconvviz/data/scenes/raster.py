"""From polygons to pixels: all polygons of a scene are filled on a canvas of finer samples, then averaged and lit."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from deconvviz.types import Floats, Ints, Mask, Pixels

FINE = 3  # samples across a pixel, and down it: the covered part of a pixel is counted in ninths


class Shape(NamedTuple):
    """One filled polygon; it covers the polygons that come before it.

    Attributes:
        points: float64 [n, 2], the corners as (x, y), in pixels once the shape is placed in a scene.
        colour: float64 [3], red, green and blue in 0..1.
        part: name of the object's part that the polygon belongs to; "" for none.
        textured: whether the scene's texture lies on the polygon.
    """

    points: Floats
    colour: Floats
    part: str
    textured: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a scene of S x S pixels is made of, before it is drawn.

    Attributes:
        ground: float64 [S, S, 3], the background's colours in 0..1.
        shapes: the polygons, in pixels; later ones cover earlier ones.
        body: which of the shapes are the object; the others are stray parts.
        texture_amount: float64 [S, S] in 0..1, how much of the texture's colour textured shapes get.
        texture_colour: float64 [3] in 0..1.
        light: float64 [S, S, 1], the factor by which the light changes a colour.
        noise: float64 [S, S, 1], added at the end, in units of the range of a colour.
    """

    ground: Floats
    shapes: list[Shape]
    body: range
    texture_amount: Floats
    texture_colour: Floats
    light: Floats
    noise: Floats


def rasterise(shapes: list[Shape], size: int) -> Ints:
    """Fill polygons, by the even-odd rule, on a canvas of finer samples.

    All polygons are filled at once, line by line: an edge crosses a line of samples, and two crossings of a polygon's
    edges bound a span that is inside.

    Args:
        shapes: polygons, in pixels; what lies outside of the picture is cut off.
        size: S, the side of the picture in pixels.

    Returns:
        int64 [3 S, 3 S]: at each sample 1 + the index of the last shape that covers it, 0 where there is none.

    >>> square = Shape(np.array([(1.0, 1.0), (3.0, 1.0), (3.0, 3.0), (1.0, 3.0)]), np.zeros(3), "", False)
    >>> rasterise([square], 4)[::FINE, ::FINE]  # one sample of each pixel
    array([[0, 0, 0, 0],
           [0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    wide = FINE * size
    points = np.concatenate([shape.points for shape in shapes]) * FINE - 0.5  # samples at whole coordinates
    corners = np.array([len(shape.points) for shape in shapes])
    ahead = np.arange(1, len(points) + 1)
    ahead[np.cumsum(corners) - 1] -= corners  # the last point of a shape leads to its first
    x, y = points.T
    upper, lower = np.minimum(y, y[ahead]), np.maximum(y, y[ahead])
    first = np.clip(np.ceil(upper), 0, wide).astype(np.intp)  # a line on a corner meets just one of its two edges
    lines = np.clip(np.ceil(lower), 0, wide).astype(np.intp) - first
    edge = np.repeat(np.arange(len(points)), lines)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(lines) - lines, lines) + first[edge]
    slope = (x[ahead] - x) / np.where(y[ahead] == y, 1, y[ahead] - y)
    crossing = np.clip(np.ceil(x[edge] + (line - y[edge]) * slope[edge]), 0, wide).astype(np.intp)
    shape = np.repeat(np.arange(len(shapes)), corners)[edge]
    start, stop = np.sort((shape * wide + line) * (wide + 1) + crossing).reshape(-1, 2).T
    lengths = stop - start
    row, column = np.divmod(start, wide + 1)
    begin = row % wide * wide + column - (np.cumsum(lengths) - lengths)
    canvas = np.zeros(wide * wide, np.int64)
    canvas[np.repeat(begin, lengths) + np.arange(lengths.sum())] = np.repeat(row // wide + 1, lengths)
    return canvas.reshape(wide, wide)


def render(plan: Plan, canvas: Ints) -> Pixels:
    """Colour the samples, average them to pixels, and add texture, light and noise.

    Args:
        plan: of the scene.
        canvas: int64 [3 S, 3 S], what `rasterise` returns for the plan's shapes.

    Returns:
        uint8 [S, S, 3].
    """
    table = np.zeros((len(plan.shapes) + 1, 5), np.float32)  # a shape's colour, whether it is there, whether textured
    table[1:] = [(*shape.colour, 1, shape.textured) for shape in plan.shapes]
    mean = np.zeros((*plan.light.shape[:2], 5), np.float32)
    for row, column in np.ndindex(FINE, FINE):
        mean += table[canvas[row::FINE, column::FINE]] / FINE**2
    weight = mean[..., 4:] * plan.texture_amount[..., None]
    image = mean[..., :3] + (1 - mean[..., 3:4]) * plan.ground
    image = (image + weight * (plan.texture_colour - image)) * plan.light + plan.noise
    return np.asarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def masks(plan: Plan, canvas: Ints) -> tuple[Mask, dict[str, Mask]]:
    """Find the pixels of which at least half is covered by the object, and those of each of its parts.

    Args:
        plan: of the scene.
        canvas: int64 [3 S, 3 S], what `rasterise` returns for the plan's shapes.

    Returns:
        bool [S, S] for the object, and for each visible part: its name -> bool [S, S].
    """
    size = len(canvas) // FINE
    names = sorted({plan.shapes[index].part for index in plan.body})
    part_of_shape = np.zeros(len(plan.shapes) + 1, np.intp)  # 0: not of the object
    for index in plan.body:
        part_of_shape[index + 1] = 1 + names.index(plan.shapes[index].part)
    pixel, kinds = np.arange(size).repeat(FINE), len(names) + 1
    bins = (pixel[:, None] * size + pixel) * kinds + part_of_shape[canvas]
    counts = np.bincount(bins.ravel(), minlength=size * size * kinds).reshape(size, size, kinds)
    half = counts[..., 1:] * 2 >= FINE**2
    visible = {name: half[..., index] for index, name in enumerate(names) if name and half[..., index].any()}
    return counts[..., 1:].sum(2) * 2 >= FINE**2, visible

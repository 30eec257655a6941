"""Projections as means over changed copies of an image: small shifts, and noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deconvviz.deconv.projection import Projection, SignalOptions, Unit
from deconvviz.errors import ProjectionError
from deconvviz.graph.network import Network
from deconvviz.types import Box

LEAST = 4  # pixels that the shifts extend over, where the layer's stride is smaller
Project = Callable[[Tensor, Sequence[Unit]], dict[str, list[Projection]]]


def averaged(
    network: Network, images: Tensor, units: Sequence[Unit], options: SignalOptions, project: Project
) -> dict[str, list[Projection]]:
    """Return the mean of the projections of each unit over copies of its image.

    Args:
        network: the network that is projected through.
        images: [N, C, H, W].
        units: (image, layer, channel, (y, x)) each.
        options: `shifts`, `noise` and `samples` say which copies there are.
        project: from images and units to rule -> one projection a unit.

    Returns:
        rule -> one projection a unit. Its value is that of the image as it is, its window what any of the copies sees.

    Raises:
        ProjectionError: a shift is as large as the image.
    """
    sums: dict[str, dict[int, Projection]] = {}
    for layer in dict.fromkeys(unit[1] for unit in units):
        numbers = [number for number, unit in enumerate(units) if unit[1] == layer]
        strides, copies = network.layer(layer).stride, 0
        for shift, changed in _copies(images, strides, options):
            copies += 1
            moved = [_moved(network, units[number], shift, strides) for number in numbers]
            for rule, projections in project(changed, moved).items():
                total = sums.setdefault(rule, {})
                for number, projection in zip(numbers, projections, strict=True):
                    back = _shifted_back(projection, shift)
                    total[number] = _added(total[number], back) if number in total else back
        for total in sums.values():
            for number in numbers:
                total[number] = replace(total[number], pixels=total[number].pixels / copies)
    plain = project(images, units)
    return {
        rule: [replace(total[n], value=plain[rule][n].value, position=unit[3]) for n, unit in enumerate(units)]
        for rule, total in sums.items()
    }


def _copies(
    images: Tensor, strides: tuple[int, int], options: SignalOptions
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield ((rows, columns) that the images are shifted by, the shifted and noisy images)."""
    spread = options.noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(0)  # the noise of a copy is the same whatever the batch
    for shift in shifts_over(strides, options.shifts, tuple(images.shape[2:])):
        shifted = _shifted(images, shift)
        for _ in range(options.samples if options.noise else 1):
            if options.noise:
                drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64).to(images)
                yield shift, shifted + spread * drawn
            else:
                yield shift, shifted


def shifts_over(strides: tuple[int, int], count: int, image: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return `count` shifts (rows, columns) in pixels, on a square grid over one stride; (0, 0) is among them.

    Args:
        strides: of the layer, (rows, columns) in pixels.
        count: of shifts, a square number.
        image: height and width in pixels.

    Raises:
        ProjectionError: a shift is as large as the image.

    >>> shifts_over((8, 8), 4, (32, 32))
    [(-4, -4), (-4, 0), (0, -4), (0, 0)]
    """
    side = math.isqrt(count)
    along = []
    for stride, length in zip(strides, image, strict=True):
        extent = max(stride, LEAST)
        offsets = [round((step - side // 2) * extent / side) for step in range(side)]
        if max(map(abs, offsets)) >= length:
            raise ProjectionError(
                f"shifts of up to {max(map(abs, offsets))} px given, one stride of the layer, for an image of "
                f"{length} px; project without shifts, or choose a layer before it"
            )
        along.append(offsets)
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def _shifted(images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return the images moved down and right; the border's pixels fill what is left free."""
    for axis, pixels in zip((2, 3), shift, strict=True):
        if pixels:
            places = (torch.arange(images.shape[axis], device=images.device) - pixels).clamp(0, images.shape[axis] - 1)
            images = images.index_select(axis, places)
    return images


def _moved(network: Network, unit: Unit, shift: tuple[int, int], strides: tuple[int, int]) -> Unit:
    """Return the unit whose position on the map is nearest to where the shifted image has what the unit saw."""
    image, layer, channel, position = unit
    lengths = network.layer(layer).units[1:]
    y, x = (
        min(max(at + round(pixels / stride) if stride else at, 0), length - 1)
        for at, pixels, stride, length in zip(position, shift, strides, lengths, strict=True)
    )
    return image, layer, channel, (y, x)


def _shifted_back(projection: Projection, shift: tuple[int, int]) -> Projection:
    """Return a projection of a shifted image on the image as it is; what lies outside of it is lost."""
    (top, left, bottom, right), (rows, columns) = projection.window, shift
    _, height, width = projection.image_shape
    window = Box(
        min(max(top - rows, 0), height),
        min(max(left - columns, 0), width),
        min(max(bottom - rows, 0), height),
        min(max(right - columns, 0), width),
    )
    first_row, first_column = window.top - (top - rows), window.left - (left - columns)
    pixels = projection.pixels[:, first_row : first_row + window.height, first_column : first_column + window.width]
    return replace(projection, window=window, pixels=pixels)


def _added(first: Projection, second: Projection) -> Projection:
    """Return the sum of two projections of one unit, on the window that holds both."""
    window = Box(
        min(first.window.top, second.window.top),
        min(first.window.left, second.window.left),
        max(first.window.bottom, second.window.bottom),
        max(first.window.right, second.window.right),
    )
    pixels = first.pixels.new_zeros(len(first.pixels), window.height, window.width)
    for part in (first, second):
        top, left = part.window.top - window.top, part.window.left - window.left
        pixels[:, top : top + part.window.height, left : left + part.window.width] += part.pixels
    return replace(first, window=window, pixels=pixels)

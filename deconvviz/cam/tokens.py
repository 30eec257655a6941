"""Layers whose value is a row of tokens: which of them belong to the patches of the image."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from deconvviz.errors import CamError

EXTRA = (0, 1, 2, 4, 5)  # class, distillation and register tokens that stand before the patches'


@dataclass(frozen=True)
class Layout:
    """How the value of a layer becomes maps [N, K, h, w], and back.

    Attributes:
        axis: dimension of the channels; 1 or 2 for a row [N, K, L] or tokens [N, L, K].
        grid: rows and columns of the patches, for tokens; None otherwise.
        extra: number of tokens before those of the patches, such as a class token.
    """

    axis: int = 1
    grid: tuple[int, int] | None = None
    extra: int = 0

    def maps(self, value: Tensor) -> Tensor:
        """View a layer's value as maps."""
        if self.grid is None:
            return value.movedim(self.axis, 1)
        row = value if self.axis == 1 else value.transpose(1, 2)  # [N, K, L]
        return row[:, :, self.extra :].reshape(*row.shape[:2], *self.grid)

    def value(self, maps: Tensor, original: Tensor) -> Tensor:
        """View maps as the layer's value; tokens that do not belong to patches are those of `original`."""
        if self.grid is None:
            return maps.movedim(1, self.axis)
        if self.axis == 1:
            return torch.cat([original[:, :, : self.extra], maps.flatten(2)], 2)
        return torch.cat([original[:, : self.extra], maps.flatten(2).transpose(1, 2)], 1)


def layout_of(
    layer: str, shape: tuple[int, ...], axis: int, image: tuple[int, int], tokens: tuple[int, int] | None
) -> Layout:
    """Find how the value of a layer becomes maps.

    Args:
        layer: its name.
        shape: of its value without the batch.
        axis: dimension of the channels.
        image: height and width of the images in pixels.
        tokens: rows and columns of the patches, where they cannot be found.

    Raises:
        CamError: the layer has no positions, or its tokens are not a grid of the image's shape.

    >>> layout_of("blocks.0", (197, 768), 2, (224, 224), None)  # a ViT: one class token, then 14 x 14 patches
    Layout(axis=2, grid=(14, 14), extra=1)
    """
    if len(shape) == 3:
        return Layout(axis)
    if len(shape) != 2:
        raise CamError(
            f"layer {layer!r} has the shape {list(shape)}, without rows and columns; choose one before the pooling"
        )
    axis = 1 if axis == 1 else 2
    count = shape[2 - axis]
    if tokens is not None:
        if not 0 < tokens[0] * tokens[1] <= count:
            raise CamError(f"tokens {tokens} given; layer {layer!r} has {count} of them")
        return Layout(axis, tokens, count - tokens[0] * tokens[1])
    for extra in EXTRA:
        rows = isqrt((count - extra) * image[0] // image[1]) if count > extra else 0
        if rows and rows * image[1] % image[0] == 0 and rows * (rows * image[1] // image[0]) == count - extra:
            return Layout(axis, (rows, rows * image[1] // image[0]), extra)
    raise CamError(
        f"the {count} positions of layer {layer!r} are no grid of the image's shape; choose a layer with rows and "
        "columns, or in Python give tokens=(rows, columns)"
    )

"""A square that is moved over images: where it is put, what stands in it, and the scores under it.

Every window is one whole forward pass in a batch of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deconvviz.cam.engine import Read, View
from deconvviz.cam.shaping import gaussian_blur
from deconvviz.choices import BORDERS
from deconvviz.errors import DataError, require_choice

DRAWN_FILLS = ("blur", "noise")  # are made of the image itself


def starts(room: int, side: int, step: int, border: str = "flush") -> list[int]:
    """Return where windows of a side begin along `room` pixels.

    border: "flush" moves the last one in so that it ends with the image; "beyond" begins before the image and ends
    after it, so that pixels at the border are covered as often as others. Raises DataError for another word.
    """
    require_choice("border", border, BORDERS)
    if border == "beyond":
        return list(range(min(step - side, 0), room, step))
    regular = list(range(0, max(room - side, 0) + 1, step))
    return regular if regular[-1] + side >= room else [*regular, room - side]


@dataclass(frozen=True)
class Occluder:
    """Windows over images of a size: rows of them from the top, each from the left.

    Attributes:
        size: (height, width) of the images in pixels.
        square: (height, width) of the windows in pixels.
        stride: (rows, columns) between two windows in pixels.
        border: "flush" or "beyond", see `starts`.

    Raises:
        DataError: a length below 1, a square that is larger than the image, or another border.
    """

    size: tuple[int, int]
    square: tuple[int, int]
    stride: tuple[int, int]
    border: str = "flush"

    def __post_init__(self) -> None:
        if min(*self.square, *self.stride) < 1:
            raise DataError(f"square {self.square} and stride {self.stride} given; expected 1 pixel or more")
        if self.square[0] > self.size[0] or self.square[1] > self.size[1]:
            shown = " x ".join(map(str, self.square)), " x ".join(map(str, self.size))
            raise DataError(f"an occluder of {shown[0]} given for images of {shown[1]}; take a smaller one")
        _ = self.grid  # another border is refused

    @cached_property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The windows' first rows, and their first columns."""
        rows, columns = (
            tuple(starts(*one, self.border)) for one in zip(self.size, self.square, self.stride, strict=True)
        )
        return rows, columns

    @cached_property
    def places(self) -> Tensor:
        """int64 [W, 2]: (top, left) of each window; negative where it begins before the image."""
        return torch.cartesian_prod(*(torch.tensor(one) for one in self.grid))

    def __len__(self) -> int:
        return len(self.grid[0]) * len(self.grid[1])

    def sides(self, windows: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 for the rows [m, H] and the columns [m, W] that each window covers, else 0; of like's dtype."""
        found = []
        for axis in (0, 1):
            first = self.places[windows.cpu(), axis, None].to(like.device)
            line = torch.arange(self.size[axis], device=like.device)
            found.append(((line >= first) & (line < first + self.square[axis])).to(like.dtype))
        return found[0], found[1]

    def covers(self, windows: Tensor, like: Tensor) -> Tensor:
        """Return 1 for the pixels that each window covers, else 0: [m, H, W] of like's dtype and device."""
        rows, columns = self.sides(windows, like)
        return rows[:, :, None] * columns[:, None, :]

    def averaged(self, values: Tensor) -> Tensor:
        """Return for each pixel the mean of the values [N, W] of the windows that cover it, [N, H, W]; 0 for none."""
        rows, columns = self.sides(torch.arange(len(self)), values)
        total = torch.einsum("nw,wy,wx->nyx", values, rows, columns)
        count: Tensor = torch.einsum("wy,wx->yx", rows, columns)
        return total / count.clamp(min=1)

    def under(self, x: Tensor, fill: Tensor | float, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one image with each window filled, a batch at a time.

        Args:
            x: the image, [1, C, H, W].
            fill: what the windows become: a number, or an image that broadcasts over x.
            at_once: windows in a batch.

        Yields:
            The windows int64 [m], and the images [m, C, H, W] in which they are filled.
        """
        for windows in torch.split(torch.arange(len(self)), at_once):
            covered = self.covers(windows, x)[:, None]
            yield windows, x * (1 - covered) + fill * covered

    def scores(self, v: View, fill: Tensor | float, read: Read | None = None) -> Tensor:
        """Return what is read off the output under each window, [N, W, ...]; the target's probability by default."""
        return v.masked(len(self), lambda _, windows: 1 - self.covers(windows, v.x), read, fill)


def filling(v: View, fill: Tensor | float | str) -> Tensor | float:
    """Return what stands in the square: a number or images as given; "blur" and "noise" are made from the view.

    Raises DataError for another word.
    """
    if not isinstance(fill, str):
        return fill
    if fill not in DRAWN_FILLS:
        raise DataError(f"fill {fill!r} given; expected a number, {' or '.join(DRAWN_FILLS)}")
    return gaussian_blur(v.x, 51, 50.0) if fill == "blur" else v.noise(v.everyone * 0, tuple(v.x.shape[1:]))

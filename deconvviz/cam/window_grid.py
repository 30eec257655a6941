"""Where a square is put when it is moved over images: rows of windows. Without torch, so that results can hold them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deconvviz.choices import BORDERS
from deconvviz.errors import DataError, require_choice
from deconvviz.types import Array, Floats, Ints, Mask


def starts(room: int, side: int, step: int, border: str = "flush") -> list[int]:
    """Return where windows of a side begin along `room` pixels.

    Args:
        room: length of the image in pixels.
        side: length of a window in pixels.
        step: pixels between the beginnings of two windows.
        border: "flush" moves the last window in so that it ends with the image; "beyond" begins before the image and
            ends after it, so that pixels at the border are covered as often as others.

    Returns:
        The first pixel of each window, ascending; negative where it lies before the image.

    Raises:
        DataError: another border.

    >>> starts(10, 4, 3)
    [0, 3, 6]
    >>> starts(9, 4, 3), starts(9, 4, 3, "beyond")
    ([0, 3, 5], [-1, 2, 5, 8])
    """
    require_choice("border", border, BORDERS)
    if border == "beyond":
        return list(range(min(step - side, 0), room, step))
    regular = list(range(0, max(room - side, 0) + 1, step))
    return regular if regular[-1] + side >= room else [*regular, room - side]


@dataclass(frozen=True)
class WindowGrid:
    """Windows over images of one size: rows of them from the top, each from the left.

    Attributes:
        size: (height, width) of the images in pixels.
        square: (height, width) of the windows in pixels.
        stride: (rows, columns) between two windows in pixels.
        border: "flush" or "beyond", see `starts`.

    Raises:
        DataError: a length below 1, a square that is larger than the image, or another border.

    >>> windows = WindowGrid(size=(6, 8), square=(4, 4), stride=(2, 4))
    >>> windows.grid
    ((0, 2), (0, 4))
    >>> windows.boxes[-1].tolist()
    [2, 4, 6, 8]
    """

    size: tuple[int, int]
    square: tuple[int, int]
    stride: tuple[int, int]
    border: str = "flush"

    def __post_init__(self) -> None:
        if min(*self.square, *self.stride) < 1:
            raise DataError(f"square {self.square} and stride {self.stride} given; expected 1 pixel or more")
        if self.square[0] > self.size[0] or self.square[1] > self.size[1]:
            square, size = (" x ".join(map(str, lengths)) for lengths in (self.square, self.size))
            raise DataError(f"an occluder of {square} given for images of {size}; take a smaller one")
        _ = self.grid  # raises for another border

    @cached_property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first row of each row of windows, and the first column of each column of windows."""
        rows, columns = (
            tuple(starts(room, side, step, self.border))
            for room, side, step in zip(self.size, self.square, self.stride, strict=True)
        )
        return rows, columns

    def __len__(self) -> int:
        return len(self.grid[0]) * len(self.grid[1])

    @cached_property
    def places(self) -> Ints:
        """int64 [W, 2]: (top, left) of each window; negative where it begins before the image."""
        rows, columns = np.meshgrid(*self.grid, indexing="ij")
        return np.stack([rows.ravel(), columns.ravel()], 1).astype(np.int64)

    @property
    def boxes(self) -> Ints:
        """int64 [W, 4]: (top, left, bottom, right) of each window; bottom and right are exclusive."""
        return np.concatenate([self.places, self.places + np.asarray(self.square)], 1)

    @cached_property
    def lines(self) -> tuple[Mask, Mask]:
        """Which image rows each row of windows covers, bool [R, H], and which columns each column covers, [C, W]."""
        rows, columns = (
            (np.arange(room) >= np.array(first)[:, None]) & (np.arange(room) < np.array(first)[:, None] + side)
            for room, side, first in zip(self.size, self.square, self.grid, strict=True)
        )
        return rows, columns

    def covered(self, window: int) -> Mask:
        """Return which pixels a window covers, bool [H, W]."""
        row, column = divmod(window, len(self.grid[1]))
        return np.outer(self.lines[0][row], self.lines[1][column])

    def as_rows(self, values: Array) -> Array:
        """Return values of the windows, [W], as rows and columns of windows, [R, C]."""
        return values.reshape(len(self.grid[0]), len(self.grid[1]))

    def mean_by_pixel(self, values: Array) -> Floats:
        """Return for each pixel the mean of the values [W] of the windows that cover it, [H, W]; 0 where none does.

        >>> WindowGrid((2, 3), (2, 2), (1, 1)).mean_by_pixel(np.array([4.0, 8.0]))
        array([[4., 6., 8.],
               [4., 6., 8.]])
        """
        rows, columns = (line.astype(np.float64) for line in self.lines)
        return np.asarray(mean_by_pixel(values, rows, columns), np.float64)


def mean_by_pixel(values: Any, rows: Any, columns: Any) -> Any:
    """Return for each pixel the mean of the values of the windows that cover it; 0 where none does.

    The windows form a grid, so that a sum over them is one product of matrices for the rows and one for the columns.

    Args:
        values: of the windows, [..., R * C]; a numpy array or a torch tensor, as the other two.
        rows: 1 where a row of windows covers a row of the image, else 0, [R, H].
        columns: 1 where a column of windows covers a column of the image, else 0, [C, W].

    Returns:
        [..., H, W].
    """
    grid = values.reshape(*values.shape[:-1], len(rows), len(columns))
    count = rows.sum(0)[:, None] * columns.sum(0)[None]
    return rows.T @ grid @ columns / count.clip(1)

"""Sprites: many small pictures on few sheets of bounded size, so that a page loads some files and not thousands.

A block is what stands on a sheet: one tile, or all tiles of a filter as one square.
"""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvviz.results.files import atomic
from deconvviz.results.tiles import GREY
from deconvviz.types import Pixels

LIMIT = 2048  # pixels, the longest side of a sheet: a phone still decodes it at once
QUALITY = 78  # of WebP, of 100
SMALL = 80  # pixels: smaller tiles are enlarged, because a browser would smooth one pixel, and one tile, into the next
Blocks = Callable[[int, int], Pixels]  # (first, last) -> the blocks first .. last - 1, uint8 [n, height, width, 3]


@dataclass(frozen=True)
class Layout:
    """Where blocks of one size stand: from left to right, row below row, sheet after sheet.

    Attributes:
        height: of a block in pixels.
        width: of a block in pixels.
        count: blocks on all sheets together.
        suffix: of the files, "webp" or "png".

    >>> layout = Layout(height=300, width=300, count=100)
    >>> layout.columns, layout.per_sheet, layout.sheets
    (6, 36, 3)
    """

    height: int
    width: int
    count: int
    suffix: str = "webp"

    @property
    def columns(self) -> int:
        """Number of blocks in a row."""
        return max(1, min(LIMIT // self.width, self.count))

    @property
    def per_sheet(self) -> int:
        """Number of blocks on a full sheet."""
        return self.columns * max(1, LIMIT // self.height)

    @property
    def sheets(self) -> int:
        """Number of sheets, each one file."""
        return math.ceil(self.count / self.per_sheet)

    def described(self, name: str) -> dict[str, object]:
        """Return what a page needs to find block n in the files `name`-000.`suffix`, `name`-001.`suffix`, ..."""
        return {
            "name": name,
            "suffix": self.suffix,
            "height": self.height,
            "width": self.width,
            "count": self.count,
            "columns": self.columns,
            "perSheet": self.per_sheet,
        }


def write_sheets(folder: pathlib.Path, name: str, layout: Layout, blocks: Blocks) -> list[str]:
    """Write the sheets; no more than the blocks of one sheet are in memory.

    Args:
        folder: where the files are written.
        name: the beginning of their names.
        layout: size and number of the blocks.
        blocks: (first, last) -> the blocks first .. last - 1, uint8 [last - first, height, width, 3].

    Returns:
        The names of the files.

    Raises:
        DataError: a file cannot be written.
    """
    files = []
    for number in range(layout.sheets):
        first = number * layout.per_sheet
        last = min(first + layout.per_sheet, layout.count)
        files.append(f"{name}-{number:03d}.{layout.suffix}")
        save_picture(folder / files[-1], tiled(blocks(first, last), layout.columns))
    return files


def tiled(blocks: Pixels, columns: int) -> Pixels:
    """Lay blocks [n, h, w, 3] out row by row without gaps; the rest of the last row is grey.

    >>> tiled(np.zeros((5, 4, 6, 3), np.uint8), columns=2).shape
    (12, 12, 3)
    """
    count, height, width, depth = blocks.shape
    rows = math.ceil(count / columns)
    filled = np.full((rows * columns, height, width, depth), GREY, np.uint8)
    filled[:count] = blocks
    grid = filled.reshape(rows, columns, height, width, depth).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, depth))


def side_of(k: int) -> int:
    """Return the number of columns of the smallest square that holds k tiles.

    >>> side_of(9), side_of(5)
    (3, 3)
    """
    return max(1, math.ceil(math.sqrt(k)))


def squares(tiles: Pixels, present: NDArray[np.bool_]) -> Pixels:
    """Lay each filter's tiles out as one square block.

    Args:
        tiles: uint8 [F, k, h, w, 3].
        present: [F, k], false where a filter has no tile; such places become grey.

    Returns:
        uint8 [F, side * h, side * w, 3] where side is `side_of(k)`.
    """
    side = side_of(tiles.shape[1])
    visible = np.where(present[:, :, None, None, None], tiles, np.uint8(GREY))
    missing = side**2 - tiles.shape[1]
    padded = np.pad(visible, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), constant_values=GREY)
    return np.stack([tiled(filter_tiles, side) for filter_tiles in padded])


def enlarged(height: int, width: int) -> int:
    """Return by what whole number a tile of this size (in pixels) is enlarged; 1 where it is not small.

    >>> enlarged(7, 7), enlarged(96, 48)
    (12, 1)
    """
    return max(1, math.ceil(SMALL / max(height, width)))


def magnified(pixels: Pixels, times: int, row_axis: int = 1) -> Pixels:
    """Repeat each pixel `times` times in both directions; the columns are the axis after `row_axis`."""
    return pixels.repeat(times, row_axis).repeat(times, row_axis + 1) if times > 1 else pixels


def save_picture(path: pathlib.Path, pixels: Pixels, quality: int = QUALITY) -> None:
    """Write a picture atomically as PNG or WebP, by the ending of the name.

    Args:
        path: ends in .png or .webp.
        pixels: uint8 [h, w, 3].
        quality: of WebP, 0 to 100.

    Raises:
        DataError: the file cannot be written.
    """
    buffer = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:  # half the size of a JPEG that looks the same; methods above 2 take longer and save little
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=2)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())

"""Sprites: many small pictures on few sheets of bounded size, so that a page loads some files and not thousands."""

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

LIMIT = 2048  # pixels, the longest side of a sheet: a phone still decodes it at once
QUALITY = 78
GREY = 128  # what stands where a filter has fewer pictures than the others: a projection's zero
SMALL = 40  # pixels: smaller tiles are enlarged, lest the browser smooth one into the next
Pixels = NDArray[np.uint8]
Blocks = Callable[[int, int], Pixels]


@dataclass(frozen=True)
class Layout:
    """Where equal blocks stand: from left to right, row below row, sheet after sheet.

    height, width: of a block, pixels. count: blocks on all sheets together. suffix: the picture format.
    """

    height: int
    width: int
    count: int
    suffix: str = "webp"

    @property
    def columns(self) -> int:
        """Blocks in a row."""
        return max(1, min(LIMIT // self.width, self.count))

    @property
    def per_sheet(self) -> int:
        """Blocks on a full sheet."""
        return self.columns * max(1, LIMIT // self.height)

    @property
    def sheets(self) -> int:
        """Files."""
        return math.ceil(self.count / self.per_sheet)

    def described(self, name: str) -> dict[str, object]:
        """Return what a page needs to find block n: the files are `name`-000.`suffix` and on."""
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
    """Write the sheets, reading no more than one sheet's blocks at a time; return the names of the files.

    blocks: (first, last) -> uint8 [last - first, height, width, 3].
    Raises DataError where a file cannot be written.
    """
    files = []
    for number in range(layout.sheets):
        first = number * layout.per_sheet
        last = min(first + layout.per_sheet, layout.count)
        files.append(f"{name}-{number:03d}.{layout.suffix}")
        save_picture(folder / files[-1], tiled(blocks(first, last), layout.columns))
    return files


def tiled(blocks: Pixels, columns: int) -> Pixels:
    """Lay blocks [n, h, w, 3] out row by row without gaps; the rest of the last row is grey."""
    count, height, width, depth = blocks.shape
    rows = math.ceil(count / columns)
    room = np.full((rows * columns, height, width, depth), GREY, np.uint8)
    room[:count] = blocks
    grid = room.reshape(rows, columns, height, width, depth).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, depth))


def side_of(k: int) -> int:
    """Return the columns of the square that holds k tiles."""
    return max(1, math.ceil(math.sqrt(k)))


def squares(tiles: Pixels, present: NDArray[np.bool_]) -> Pixels:
    """Lay each filter's tiles [F, k, h, w, 3] out as one square block; those not `present` [F, k] are grey."""
    shown = np.where(present[:, :, None, None, None], tiles, np.uint8(GREY))
    return np.stack([tiled(one, side_of(tiles.shape[1])) for one in _padded(shown)])


def enlarged(height: int, width: int) -> int:
    """Return how many times larger, in whole pixels, a tile of this size is kept."""
    return max(1, math.ceil(SMALL / max(height, width)))


def magnified(pixels: Pixels, times: int, first: int = 1) -> Pixels:
    """Repeat each pixel; first: the axis of the rows, before that of the columns."""
    return pixels.repeat(times, first).repeat(times, first + 1) if times > 1 else pixels


def save_picture(path: pathlib.Path, pixels: Pixels, quality: int = QUALITY) -> None:
    """Write pixels, uint8 [h, w, 3], atomically in the format of the name; raises DataError where that fails."""
    buffer = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:  # half the size of a JPEG that looks the same; method 2 of 6: the others take longer and save little
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=2)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _padded(tiles: Pixels) -> Pixels:
    """Fill [F, k, ...] up to a whole square with grey."""
    missing = side_of(tiles.shape[1]) ** 2 - tiles.shape[1]
    return np.pad(tiles, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), constant_values=GREY)

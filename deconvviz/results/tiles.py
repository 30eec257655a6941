"""Gallery files: a layer of a network as the atlas shows it, its many small pictures compressed.

The file is a result of kind "gallery". Its arrays are kept as they are, except for tiles, uint8 [F, k, h, w, 3]: the k
tiles of a row stand side by side in one image file. As arrays they would take ten times as much.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike
from deconvviz.results.results import Array, Result, reading

KIND, SCHEMA = "gallery", 1
QUALITY = 85
LOSSLESS = 32  # pixels: smaller tiles are looked at enlarged, where JPEG's blocks would show
BLOCK, MARGIN = 16, 2  # pixels of JPEG's blocks of colour, and how far its smoothing reaches: tiles stay apart by these
LONGEST = 65_500  # pixels of a JPEG's side
Pixels = NDArray[np.uint8]


class Tiles:
    """Tiles [F, k, h, w, 3], uint8, that are decoded row by row as they are asked for.

    `tiles[f]` is uint8 [k, h, w, 3]; with a slice or a list of rows, or as `np.asarray(tiles)`, one axis more.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, data: Pixels, offsets: NDArray[np.int64], shape: tuple[int, ...]) -> None:
        self._data, self._offsets, self.shape = data, offsets, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Pixels:
        """Return a row, or several; raises IndexError for one that is not there, DataError for a damaged one."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim == 0:
            return self._row(int(chosen))
        found = [self._row(int(row)) for row in chosen]
        return np.stack(found) if found else np.zeros((0, *self.shape[1:]), np.uint8)

    def __iter__(self) -> Iterator[Pixels]:
        return (self._row(row) for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _row(self, row: int) -> Pixels:
        count, width = self.shape[1], self.shape[3]
        try:
            with Image.open(io.BytesIO(self._data[self._offsets[row] : self._offsets[row + 1]].data)) as strip:
                pixels = np.asarray(strip.convert("RGB"))
            tiles = pixels.reshape(len(pixels), count, -1, 3).swapaxes(0, 1)
            left = MARGIN if tiles.shape[2] > width else 0
        except (OSError, ValueError) as error:
            raise DataError(f"the pictures of row {row} cannot be read ({error}); make the file again") from error
        return np.ascontiguousarray(tiles[:, :, left : left + width])


@dataclass
class TileWriter:
    """Takes tiles row by row and holds them compressed. shape: (k, h, w) of a row."""

    shape: tuple[int, int, int]
    rows: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        count, _, width = self.shape
        most = LONGEST // (width + BLOCK + 2 * MARGIN)
        if count > most:
            raise DataError(f"{count} tiles of {width} px in a row given; expected at most {most}")

    def add(self, tiles: Pixels) -> None:
        """Append one row, uint8 [k, h, w, 3]."""
        count, height, width = self.shape
        assert tiles.shape == (count, height, width, 3) and tiles.dtype == np.uint8
        lossless = max(height, width) <= LOSSLESS
        apart = (0, 0) if lossless else (MARGIN, MARGIN + -(width + 2 * MARGIN) % BLOCK)
        cells = np.pad(tiles, ((0, 0), (0, 0), apart, (0, 0)), "edge").swapaxes(0, 1)
        strip = Image.fromarray(cells.reshape(height, -1, 3))
        buffer = io.BytesIO()
        if lossless:
            strip.save(buffer, "PNG")
        else:
            strip.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0", optimize=True)
        self.rows.append(buffer.getvalue())

    def arrays(self, name: str) -> dict[str, Array]:
        """Return what a result keeps of these tiles, under a name; `load_gallery` makes `Tiles` of it."""
        lengths = [len(row) for row in self.rows]
        return {
            f"{name}/data": np.frombuffer(b"".join(self.rows), np.uint8),
            f"{name}/offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            f"{name}/shape": np.array([len(self.rows), *self.shape, 3], np.int64),
        }


@dataclass(frozen=True)
class Gallery:
    """What a gallery file holds.

    config: the layer and what was asked; sources: where things were; arrays: name -> array, or `Tiles`, which index by
    row as an array does. The names are those of `studies.gallery.layer_gallery`.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    arrays: dict[str, Any]

    def __repr__(self) -> str:
        return f"Gallery({self.config['layer']} of {self.config['model']}: {len(self.arrays['channels'])} filters)"


def gallery_config(path: Pathlike) -> dict[str, Any]:
    """Read the configuration of a gallery file only; raises DataError as `load_gallery`."""
    with reading(path, KIND, SCHEMA) as file:
        found: dict[str, Any] = json.loads(file.attrs["config"])
    return found


def load_gallery(path: Pathlike) -> Gallery:
    """Read a gallery file; raises DataError where it is missing, truncated or something else."""
    result = Result.load(path, KIND, SCHEMA)
    arrays: dict[str, Any] = dict(result.arrays)
    for name in [key.removesuffix("/offsets") for key in arrays if key.endswith("/offsets")]:
        shape = tuple(int(n) for n in arrays.pop(f"{name}/shape"))
        arrays[name] = Tiles(arrays.pop(f"{name}/data"), arrays.pop(f"{name}/offsets"), shape)
    return Gallery(result.config, result.sources, arrays)

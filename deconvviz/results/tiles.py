"""Gallery files: one layer of a network as the atlas shows it, with its many small pictures compressed.

The file is a result of kind "gallery". Its arrays are written as they are, except for tiles, uint8 [F, k, h, w, 3]: the
k tiles of a row stand side by side in one image file. As arrays they would take ten times as much.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from deconvviz.errors import DataError
from deconvviz.results.results import Result, read_config, whole
from deconvviz.types import Array, Ints, Pathlike, Pixels
from deconvviz.words import counted

KIND, SCHEMA = "gallery", 1
TILES_KIND, TILES_SCHEMA = "tiles of a gallery", 1
QUALITY = 85  # of JPEG, of 100
GREY = 128  # the colour of a tile that shows nothing, and of a projection's zero
LOSSLESS = 32  # pixels: tiles up to this size are shown enlarged, and JPEG's blocks would be visible
BLOCK, MARGIN = 16, 2  # pixels: JPEG's blocks of colour, and how far its smoothing reaches; tiles are that far apart
LONGEST = 65_500  # pixels: the longest side of a JPEG


class Tiles:
    """Tiles uint8 [F, k, h, w, 3], whose rows are decoded when they are asked for.

    `tiles[f]` is uint8 [k, h, w, 3]. A slice or a list of rows, and `np.asarray(tiles)`, give one axis more.

    Attributes:
        shape: (F, k, h, w, 3).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, data: Pixels, offsets: Ints, shape: tuple[int, ...]) -> None:
        """Take the image files of the rows.

        Args:
            data: uint8 [bytes], the image files one after the other.
            offsets: int64 [F + 1], where each file begins; the last number is the end.
            shape: (F, k, h, w, 3).
        """
        self._data, self._offsets, self.shape = data, offsets, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Pixels:
        """Return one row or several; raises IndexError for a row that does not exist, DataError for a damaged one."""
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            return self._row(int(numbers))
        decoded = [self._row(int(number)) for number in numbers]
        return np.stack(decoded) if decoded else np.zeros((0, *self.shape[1:]), np.uint8)

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
    """Takes tiles row by row and holds them compressed.

    Attributes:
        shape: (k, h, w) of a row.
        rows: the image file of each row.

    Raises:
        DataError: a row has more tiles than an image file can hold.

    >>> writer = TileWriter((9, 16, 16))
    >>> writer.add(np.zeros((9, 16, 16, 3), np.uint8))
    >>> sorted(writer.arrays("patches"))
    ['patches/data', 'patches/offsets', 'patches/shape']
    """

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
        """Return the arrays that hold these tiles under a name in a result; `load_gallery` makes `Tiles` of them."""
        lengths = [len(row) for row in self.rows]
        return {
            f"{name}/data": np.frombuffer(b"".join(self.rows), np.uint8),
            f"{name}/offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            f"{name}/shape": np.array([len(self.rows), *self.shape, 3], np.int64),
        }


def compressed(name: str, tiles: Pixels) -> dict[str, Array]:
    """Return tiles, uint8 [F, k, h, w, 3], as the arrays that hold them under a name in a result."""
    writer = TileWriter((tiles.shape[1], tiles.shape[2], tiles.shape[3]))
    for row in tiles:
        writer.add(row)
    return writer.arrays(name)


def joined_tiles(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the arrays of several blocks of rows, one or more, as those of all rows; see `TileWriter.arrays`.

    >>> one, two = (TileWriter((1, 8, 8)) for _ in range(2))
    >>> for writer, colour in ((one, 0), (one, 9), (two, 200)):
    ...     writer.add(np.full((1, 8, 8, 3), colour, np.uint8))
    >>> joined = joined_tiles([one.arrays("patches"), two.arrays("patches")])
    >>> tiles = Tiles(joined["patches/data"], joined["patches/offsets"], tuple(joined["patches/shape"].tolist()))
    >>> tiles.shape, int(tiles[2].mean())
    ((3, 1, 8, 8, 3), 200)
    """
    joined: dict[str, Array] = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if name.endswith("/offsets"):
            lengths = np.concatenate([np.diff(array) for array in arrays])
            joined[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        elif name.endswith("/shape"):
            joined[name] = np.concatenate([[sum(array[0] for array in arrays)], arrays[0][1:]]).astype(np.int64)
        else:
            joined[name] = np.concatenate(arrays)
    return joined


@dataclass(frozen=True)
class Gallery:
    """What a gallery file holds.

    Attributes:
        config: the layer, its network and images, and the options with which it was made; its "rule" may be "auto".
        rule: of the projections, one of `choices.RULES`.
        why: in words, how the rule was chosen; "" where it was given.
        whole: what is known of the whole layer, as JSON values: "switches" (whether the deconvnet has some),
            "rectified" (whether its values come from rectifiers), "pooled" (whether the network has max pooling),
            "channels" and "dead" (numbers of filters); empty in a file of an earlier version.
        sources: where model and images were, the command, and versions.
        arrays: name -> array, or `Tiles`, whose rows are indexed as those of an array. The names are described at
            `studies.atlas.galleries.GalleryMaker.make`.
    """

    config: dict[str, Any]
    rule: str
    why: str
    whole: dict[str, Any]
    sources: dict[str, Any]
    arrays: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"Gallery({self.config['layer']} of {self.config['model']}: "
            f"{counted(len(self.arrays['channels']), 'filter')})"
        )


def gallery_config(path: Pathlike) -> dict[str, Any]:
    """Read only the configuration of a gallery file; the errors are those of `load_gallery`."""
    return read_config(path, KIND, SCHEMA)


def load_gallery(path: Pathlike) -> Gallery:
    """Read a gallery file.

    Raises:
        DataError: the file is missing, truncated or of another kind.
    """
    result = Result.load(path, KIND, SCHEMA)
    arrays: dict[str, Any] = dict(result.arrays)
    with whole(path, KIND):
        for name in [key.removesuffix("/offsets") for key in arrays if key.endswith("/offsets")]:
            shape = tuple(int(n) for n in arrays.pop(f"{name}/shape"))
            arrays[name] = Tiles(arrays.pop(f"{name}/data"), arrays.pop(f"{name}/offsets"), shape)
    # version 0.1.0 wrote no state: its rules were all given
    rule, why = result.state.get("rule", result.config.get("rule", "")), result.state.get("why", "")
    known = {name: value for name, value in result.state.items() if name not in ("rule", "why")}
    return Gallery(result.config, rule, why, known, result.sources, arrays)

"""Tiles in a gallery's file come back, apart from each other, and a damaged row is told."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from gallery_case import soft_tiles
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.results import Result
from deconvviz.results.tiles import Gallery, TileWriter, compressed, load_gallery


def written(folder: pathlib.Path, tiles: NDArray[np.uint8]) -> Gallery:
    config = {"layer": "a", "model": "b"}
    arrays: dict[str, Any] = {
        "channels": np.arange(len(tiles)),
        "plain": tiles,
        **compressed("some/tiles", tiles),
    }
    Result("gallery", 1, config, {"command": "c"}, arrays).save(folder / "g.h5")
    return load_gallery(folder / "g.h5")


def test_small_tiles_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 7, 3), np.uint8)
    found = written(tmp_path, tiles)
    kept = found.arrays["some/tiles"]
    assert kept.shape == tiles.shape and kept.dtype == np.uint8 and len(kept) == 5
    assert np.array_equal(np.asarray(kept), tiles) and np.array_equal(kept[1:4], tiles[1:4])
    assert np.array_equal(kept[2], tiles[2]) and np.array_equal(kept[[4, 0]], tiles[[4, 0]])
    assert np.array_equal(np.stack(list(kept)), tiles) and kept[5:].shape == (0, 3, 32, 7, 3)
    assert np.array_equal(found.arrays["plain"], tiles) and found.sources == {"command": "c"}
    with pytest.raises(IndexError):
        kept[5]


def test_large_tiles_are_nearly_as_they_were_and_do_not_touch(tmp_path: pathlib.Path) -> None:
    tiles = soft_tiles((2, 4, 43, 61, 3))
    kept = np.asarray(written(tmp_path, tiles).arrays["some/tiles"])
    error = kept.astype(float) - tiles
    brightness = np.abs(error @ (0.299, 0.587, 0.114))
    assert np.abs(error).mean() < 2.5 and brightness.mean() < 1 and brightness.max() < 12
    other = tiles.copy()
    other[:, 1] = 255 - other[:, 1]
    changed = np.asarray(written(tmp_path, other).arrays["some/tiles"])
    same = np.array([0, 2, 3])
    assert np.array_equal(changed[:, same], kept[:, same]) and not np.array_equal(changed[:, 1], kept[:, 1])


def test_large_tiles_take_a_tenth(tmp_path: pathlib.Path) -> None:
    tiles = soft_tiles((6, 9, 90, 90, 3))
    writer = TileWriter((9, 90, 90))
    for row in tiles:
        writer.add(row)
    assert sum(map(len, writer.rows)) < tiles.nbytes / 10


def test_a_damaged_row_is_told(tmp_path: pathlib.Path) -> None:
    arrays: dict[str, Any] = {"channels": np.arange(2), **compressed("t", soft_tiles((2, 2, 40, 40, 3)))}
    arrays["t/data"] = arrays["t/data"].copy()
    arrays["t/data"][int(arrays["t/offsets"][1]) :] = 7
    Result("gallery", 1, {}, {}, arrays).save(tmp_path / "g.h5")
    tiles = load_gallery(tmp_path / "g.h5").arrays["t"]
    assert tiles[0].shape == (2, 40, 40, 3)
    with pytest.raises(DataError, match="row 1"):
        tiles[1]
    with pytest.raises(DataError, match="at most"):
        TileWriter((2000, 96, 96))

"""Images that are read past HDF5 are those that HDF5 reads."""

from __future__ import annotations

import pathlib
from typing import Any

import h5py
import numpy as np
import pytest

from deconvviz import ImageStore
from deconvviz.data.chunks import ImageChunks
from deconvviz.data.writing import StoreWriter
from deconvviz.errors import DataError

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), np.uint8)
ROWS = [3, 4, 5, 39, 0, 7, 7, 1]


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "raw.h5"
    with StoreWriter(path, raw=True, size=30) as writer:
        for number, picture in enumerate(PICTURES):
            writer.add(f"{number}.png", -1, picture, (30, 30))
        writer.finish([], [], {})
    return path


def test_chunks_are_the_images(store: pathlib.Path) -> None:
    with h5py.File(store) as file:
        chunks = ImageChunks.of(store, file["images"])
    assert chunks is not None
    out = np.zeros((len(ROWS), 30, 30, 3), np.uint8)
    chunks.read(ROWS, out)
    np.testing.assert_array_equal(out, PICTURES[ROWS])


def test_without_them_hdf5_reads(store: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageChunks, "of", lambda *_: None)
    several = ImageStore.open(store).several
    assert several is not None
    np.testing.assert_array_equal(several(np.array(ROWS), None), PICTURES[ROWS])


def test_compressed_and_shared_chunks_are_left_to_hdf5(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        layouts: dict[str, dict[str, Any]] = {
            "compressed": {"chunks": (1, 30, 30, 3), "compression": "gzip"},
            "shared": {"chunks": (2, 30, 30, 3)},
            "contiguous": {},
        }
        for name, how in layouts.items():
            file.create_dataset(name, data=PICTURES, **how)
            assert ImageChunks.of(tmp_path / "other.h5", file[name]) is None
        empty = file.create_dataset("unwritten", PICTURES.shape, np.uint8, chunks=(1, 30, 30, 3))
        assert ImageChunks.of(tmp_path / "other.h5", empty) is None


def test_a_file_that_ends_early_is_damaged(store: pathlib.Path) -> None:
    opened = ImageStore.open(store)
    assert opened.several is not None
    opened.several(np.array([0]), None)
    with store.open("r+b") as file:
        file.truncate(store.stat().st_size // 2)
    with pytest.raises(DataError, match=r"damaged or truncated \(the file ends before its images do\); pack it again"):
        opened.several(np.array([0, 39]), None)

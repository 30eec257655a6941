"""StoreWriter: writes an image store, image by image; `data.store_file` describes the layout and reads it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from deconvviz.data.store_file import FORMAT, SCHEMA, fingerprint_of, fingerprint_with
from deconvviz.errors import DataError
from deconvviz.results.files import Sink
from deconvviz.results.sealed import digest_of_bytes, digest_of_lists
from deconvviz.types import Array, Pathlike, Picture
from deconvviz.words import counted

_CHUNK = 1 << 18  # bytes: the most that a small file wastes at its end, and few enough chunks for 150 GB
_BATCH = 1 << 22  # bytes written at once: a call of HDF5 costs more than a small image
_TEXT = h5py.string_dtype()


class StoreWriter:
    """Writes an image store, image by image; `finish` completes it. A write that fails raises OSError.

    Attributes:
        kind: of the store, "encoded", "raw" or "arrays"; that of pixels is settled by the first image.
    """

    def __init__(
        self, path: Pathlike, raw: bool, size: int | None = None, label_names: Sequence[str] | None = None
    ) -> None:
        """Begin a file.

        Args:
            path: of the file.
            raw: whether pixels are stored, and not image files.
            size: the side that images have all. Raw colours of 8 bits are then stored as one array; others, and without
                a size, one after the other.
            label_names: the names of several labels an image; None where images have one class.
        """
        self._exits = contextlib.ExitStack()
        self._sink = self._exits.enter_context(Sink(path))
        self._file = self._exits.enter_context(h5py.File(self._sink, "w"))
        self.kind, self._size = "" if raw else "encoded", size
        self._pixels: tuple[str, int] | None = None  # type and channels of the first raw image
        self._data: h5py.Dataset | None = None
        self._names: list[str] = []
        self._labels: list[int] = []
        self._label_names, self._several = label_names, list[tuple[int, ...]]()
        self._sizes: list[tuple[int, int]] = []
        self._offsets = [0]
        self._digests: list[bytes] = []
        self._waiting: list[Array] = []
        self._waiting_bytes = 0
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, label: int, data: Picture, size: tuple[int, int], several: tuple[int, ...] = ()) -> None:
        """Append one image.

        Args:
            name: of the image.
            label: an index into the classes, -1 where unknown.
            data: uint8 [B], the content of an image file, or uint8, uint16 or float32 [H, W, C], its pixels.
            size: (height, width) of the image.
            several: of images with several labels, those that it has: indices into the names of the labels.

        Raises:
            DataError: raw pixels are of another type, or have other channels, than those before them.
        """
        if data.ndim == 3:
            self._refuse_mixture(name, data)
        rows: Array = data[None] if self.kind == "raw" else data
        if self.kind == "arrays":
            little = np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
            rows = little.reshape(-1).view(np.uint8)
        self._waiting.append(rows)
        self._offsets.append(self._offsets[-1] + len(rows))
        self._digests.append(digest_of_bytes(np.ascontiguousarray(rows)))
        self._lengths.append(rows.size)
        self._names.append(name)
        self._labels.append(label)
        self._several.append(several)
        self._sizes.append(size)
        self._waiting_bytes += rows.size
        if self._waiting_bytes > _BATCH:
            self._write()

    def _refuse_mixture(self, name: str, image: Picture) -> None:
        """Let the first raw image settle what the store holds, and refuse others of another kind."""
        pixels = str(image.dtype), image.shape[2]
        if self._pixels is None:
            self._pixels = pixels
            self.kind = "raw" if self._size is not None and pixels == ("uint8", 3) else "arrays"
        elif pixels != self._pixels:
            here, before = (
                f"{dtype} with {counted(channels, 'channel')}" for dtype, channels in (pixels, self._pixels)
            )
            raise DataError(
                f"{name} is {here}, and the images before it are {before}; a raw store holds images of one kind: pack "
                "them apart"
            )

    @property
    def pixels(self) -> tuple[str, int] | None:
        """Type and channels of the raw images; None where image files are stored, and before the first image."""
        return self._pixels

    def finish(self, classes: list[str], skipped: list[tuple[str, str]], configuration: dict[str, Any]) -> str:
        """Write the lists; return the fingerprint. A file without an image is written too: a shard may have none."""
        self._settle_nothing()
        self._write()
        self._file["names"] = np.array(self._names, _TEXT)
        self._file["classes"] = np.array(classes, _TEXT)
        self._file["skipped"] = np.array(skipped, _TEXT).reshape(-1, 2)
        labels, sizes = np.array(self._labels, np.int64), np.array(self._sizes, np.int64).reshape(-1, 2)
        offsets = None if self.kind == "raw" else np.array(self._offsets, np.int64)
        digests = np.frombuffer(bytearray().join(self._digests), np.uint8).reshape(-1, 16)
        arrays: list[Any] = [labels, sizes, offsets, digests]
        for name, array in zip(("labels", "sizes", "offsets", "digests"), arrays, strict=True):
            if array is not None:
                self._file[name] = array
        about = {}
        if self.kind == "arrays" and self._pixels is not None:
            about = dict(zip(("dtype", "channels"), self._pixels, strict=True))
        kinds = (*self._pixels, sizes) if self.kind == "arrays" and self._pixels is not None else None
        fingerprint = fingerprint_of(self._names, labels, np.array(self._lengths, np.int64), digests, kinds)
        made = json.dumps(configuration, sort_keys=True)
        several: list[Any] = []
        if self._label_names is not None:
            several = [list(self._label_names), fingerprint]
            fingerprint = self._write_several(fingerprint, arrays)
        lists: list[Any] = [self._names, classes, [list(pair) for pair in skipped], made, self.kind, fingerprint]
        self._file.attrs.update(
            about,
            lists=digest_of_lists([*lists, *about.values(), *several], arrays),
            format=FORMAT,
            schema=SCHEMA if several else 2 if about else 1,
            kind=self.kind,
            fingerprint=fingerprint,
            configuration=made,
        )
        return fingerprint

    def _write_several(self, images_fingerprint: str, arrays: list[Any]) -> str:
        """Write several labels an image, add them to the arrays that are digested, and return the fingerprint."""
        names = self._label_names or ()
        targets = np.zeros((len(self), len(names)), np.uint8)
        for row, labels in zip(targets, self._several, strict=True):
            row[list(labels)] = 1
        self._file["label_names"], self._file["targets"] = np.array(names, _TEXT), targets
        self._file.attrs["images_fingerprint"] = images_fingerprint
        arrays.append(targets)
        return fingerprint_with(images_fingerprint, names, targets != 0)

    def _settle_nothing(self) -> None:
        """Give a file without an image a kind and an empty array, as if its first image had settled them."""
        if len(self):
            return
        if self.kind != "encoded":
            self.kind, self._pixels = ("arrays" if self._size is None else "raw"), ("uint8", 3)
        self._create((self._size or 0, self._size or 0, 3))

    def _create(self, shape: tuple[int, ...]) -> h5py.Dataset:
        """Create the array of images; `shape` is that of the first image of a raw store."""
        name, chunk = ("images", (1, *shape)) if self.kind == "raw" else ("bytes", (_CHUNK,))
        options = {"chunks": chunk, "maxshape": (None, *chunk[1:])}
        self._data = self._file.create_dataset(name, (0, *chunk[1:]), np.uint8, **options)
        return self._data

    def _write(self) -> None:
        if self._waiting:
            data = self._create(self._waiting[0].shape[1:]) if self._data is None else self._data
            start, stop = len(data), self._offsets[-1]
            data.resize(stop, axis=0)
            data[start:] = np.concatenate(self._waiting)
            self._sink.check()
            self._waiting, self._waiting_bytes = [], 0

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

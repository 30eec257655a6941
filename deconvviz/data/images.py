"""ImageStore: many images in one HDF5 file, read in any order by any number of processes.

The layout of the file, schema 1.

Attributes:
  format          "deconvviz-images"
  schema          1
  kind            "encoded" or "raw"
  fingerprint     SHA-256 in hex over names, labels and image bytes
  configuration   JSON: the command line, the source and the settings that made the file

Datasets:
  names     [N] text
  labels    [N] int64, an index into the classes, -1 where unknown
  sizes     [N, 2] int64, height and width
  classes   [K] text
  skipped   [M, 2] text: name and reason of each image that could not be read
  bytes     of a store of kind "encoded": [B] uint8, the image files one after the other
  offsets   of a store of kind "encoded": [N + 1] int64, where each file begins in `bytes`
  images    of a store of kind "raw": [N, S, S, 3] uint8, one image in each chunk
  digests   [N, 16] uint8, BLAKE2 of each image's bytes, checked when it is read; older files have none
The attribute lists is a BLAKE2 digest in hex over all the other lists and the configuration, checked when it is opened.
"""

from __future__ import annotations

import contextlib
import html
import json
import operator
import os
import pathlib
import struct
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from deconvviz.data.decode import decode, encode
from deconvviz.errors import DataError
from deconvviz.results.files import READ_ERRORS, Sink, one_line, unreadable
from deconvviz.results.schemas import misfit_of_layout
from deconvviz.results.sealed import digest_of_bytes, digest_of_lists, refuse_foreign
from deconvviz.types import Ints, Pathlike, Pixels

FORMAT = "deconvviz-images"
SCHEMA = 1
_CHUNK = 1 << 18  # bytes: the most that a small file wastes at its end, and few enough chunks for 150 GB
_BATCH = 1 << 22  # bytes written at once: a call of HDF5 costs more than a small image
_TEXT = h5py.string_dtype()

# Held only while a handle is opened or closed: h5py itself makes the reads of several threads take turns. It is also
# held across a fork: a child would otherwise inherit a lock that a thread of its parent had to release.
_OPENING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


class ImageStore:
    """A file of images as a sequence of (uint8 [H, W, 3], label); `store[i]` decodes image i.

    A store can be a torch Dataset with any number of workers, forked or spawned, and threads may share it: each process
    opens its own handle when it first reads. The lists below are read once, when the store is opened.

    Attributes:
        path: absolute path of the file.
        kind: "encoded" where the file holds image files as they were, "raw" where it holds pixels of one size.
        names: N paths, relative to the folder that was packed.
        classes: the class names; empty where none were given.
        labels: int64 [N], an index into the classes, -1 where unknown.
        sizes: int64 [N, 2], height and width of each image in pixels.
        skipped: (name, reason) of each image that could not be read when the file was packed.
        configuration: the command line, the source and the settings that made the file.
        fingerprint: SHA-256 in hex over names, labels and image bytes; equal content has an equal fingerprint.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = dv.pack(dv.Scenes(5), f"{folder}/scenes.h5", progress=False)
    ...     with dv.ImageStore.open(f"{folder}/scenes.h5") as store:
    ...         image, label = store[0]
    >>> len(store), store.names[0], image.shape, store.classes[label]
    (5, '000000-bus.png', (72, 72, 3), 'bus')
    """

    def __init__(self, path: Pathlike) -> None:
        """Read the lists of a file; raises DataError where it is not a whole image store of a known schema."""
        self.path = pathlib.Path(os.path.abspath(path))  # noqa: PTH100, workers may start in another folder
        self._handle: tuple[int, h5py.Dataset] | None = None
        with _reading(self.path), _open(self.path) as file:
            self.kind = str(file.attrs["kind"])
            self.fingerprint = str(file.attrs["fingerprint"])
            self.configuration: dict[str, Any] = json.loads(file.attrs["configuration"])
            self.names: tuple[str, ...] = tuple(file["names"].asstr()[:])
            self.classes: tuple[str, ...] = tuple(file["classes"].asstr()[:])
            self.skipped: tuple[tuple[str, str], ...] = tuple((n, r) for n, r in file["skipped"].asstr()[:])
            self.labels = _constant(file["labels"])
            self.sizes = _constant(file["sizes"])
            self._offsets = _constant(file["offsets"]) if self.kind == "encoded" else None
            self._digests = file["digests"][:] if "digests" in file else None
            self._refuse_inconsistent(file)
            if "lists" in file.attrs and file.attrs["lists"] != self._digest_of_lists():
                raise DataError(
                    f"{self.path} is damaged or was changed: its lists are not those that were written; restore it, or "
                    "pack it again"
                )

    @classmethod
    def open(cls, path: Pathlike) -> ImageStore:
        """Open the image store at `path`; raises DataError where it is missing, truncated, foreign or too new."""
        return cls(path)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """Return image `index` as uint8 [H, W, 3], and its label.

        Raises:
            IndexError: the store has no such image.
            DataError: the bytes of the image are damaged.
        """
        index = self._checked(index)
        try:
            picture = self._raw(index) if self._offsets is None else decode(self._bytes(index))
        except DataError as error:
            raise DataError(f"cannot read image {index} ({self.names[index]}) of {self.path}: {error}") from error
        return picture, int(self.labels[index])

    @property
    def several(self) -> Callable[[Ints], Pixels] | None:
        """Reads n > 0 images in one call, indices int64 [n] -> uint8 [n, S, S, 3]; None where it holds image files."""
        return self._several if self._offsets is None else None

    def __iter__(self) -> Iterator[tuple[Pixels, int]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes:
        """Return image `index` as the content of an image file: the file that was packed, or a PNG of a raw store."""
        index = self._checked(index)
        return encode(self._raw(index)) if self._offsets is None else self._bytes(index)

    @property
    def info(self) -> dict[str, Any]:
        """What the file holds and how it was made, as values that JSON takes."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "schema": SCHEMA,
            "images": len(self),
            "classes": len(self.classes),
            "skipped": len(self.skipped),
            "bytes": self.path.stat().st_size,
            "fingerprint": self.fingerprint,
            "configuration": self.configuration,
        }

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with _OPENING:
            if self._handle is not None:
                self._handle[1].file.close()
                self._handle = None

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (str(self.path), self.fingerprint)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"<ImageStore {self.path}: {len(self)} {self.kind} images{classes}{skipped}>"

    def _repr_html_(self) -> str:
        row = "<tr><th>{}</th><td>{}</td></tr>"
        rows = (row.format(html.escape(key), html.escape(str(value))) for key, value in self.info.items())
        return f"<table><caption>ImageStore</caption>{''.join(rows)}</table>"

    def _checked(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {index} of {len(self)} in {self.path}")
        return position % len(self)

    def _bytes(self, index: int) -> bytes:
        assert self._offsets is not None
        start, stop = self._offsets[index : index + 2]
        with _reading(self.path):
            data = bytes(self._data()[start:stop].data)
        self._check(index, data)
        return data

    def _raw(self, index: int) -> Pixels:
        with _reading(self.path):
            picture = np.asarray(self._data()[index])
        self._check(index, picture.data)
        return picture

    def _several(self, indices: Ints) -> Pixels:
        rows = [self._checked(index) for index in indices.tolist()]
        with _reading(self.path):
            images = self._data()
            in_a_row = rows == [*range(rows[0], rows[0] + len(rows))]  # then one call of HDF5 reads them all
            pictures = images[rows[0] : rows[-1] + 1] if in_a_row else np.stack([images[row] for row in rows])
        for index, picture in zip(rows, pictures, strict=True):
            self._check(index, picture.data)
        return np.asarray(pictures)

    def _check(self, index: int, data: bytes | memoryview) -> None:
        """Raise DataError where an image's bytes are not those that were packed."""
        if self._digests is not None and digest_of_bytes(data) != self._digests[index].tobytes():
            raise DataError("its bytes are not those that were packed; restore the file, or pack it again")

    def _digest_of_lists(self) -> str:
        lists = [self.names, self.classes, self.skipped, json.dumps(self.configuration, sort_keys=True)]
        lists += [self.kind, self.fingerprint]
        arrays = [self.labels, self.sizes, self._offsets, self._digests]
        return digest_of_lists(lists, arrays)

    def _data(self) -> h5py.Dataset:
        """Return the dataset of images through this process's handle; one from before a fork is closed, not shared."""
        handle = self._handle
        if handle is None or handle[0] != os.getpid():
            with _OPENING:
                handle = self._handle
                if handle is None or handle[0] != os.getpid():
                    self.close()
                    handle = self._handle = (os.getpid(), self._opened())
        return handle[1]

    def _opened(self) -> h5py.Dataset:
        file = _open(self.path)
        if file.attrs["fingerprint"] != self.fingerprint:
            file.close()
            raise DataError(f"{self.path} has been replaced by other images since it was opened; open it again")
        return file["bytes" if self.kind == "encoded" else "images"]

    def _refuse_inconsistent(self, file: h5py.File) -> None:
        if self._offsets is None:
            count, whole = len(file["images"]), True
        else:
            count, whole = len(self._offsets) - 1, int(self._offsets[-1]) == len(file["bytes"])
        if not whole or not count == len(self) == len(self.labels) == len(self.sizes):
            raise DataError(f"{self.path} is damaged: its lists are not of one length; pack it again")


class StoreWriter:
    """Writes an image store, image by image; `finish` completes it. A write that fails raises OSError."""

    def __init__(self, path: Pathlike, size: int | None) -> None:
        """Begin a file.

        Args:
            path: of the file.
            size: None for image files, S for pixels [S, S, 3].
        """
        self._exits = contextlib.ExitStack()
        self._sink = self._exits.enter_context(Sink(path))
        self._file = self._exits.enter_context(h5py.File(self._sink, "w"))
        shape, chunks = ((0,), (_CHUNK,)) if size is None else ((0, size, size, 3), (1, size, size, 3))
        self._data = self._file.create_dataset(
            "bytes" if size is None else "images", shape, np.uint8, chunks=chunks, maxshape=(None, *shape[1:])
        )
        self._encoded = size is None
        self._names: list[str] = []
        self._labels: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._offsets = [0]
        self._digests: list[bytes] = []
        self._waiting: list[Pixels] = []
        self._waiting_bytes = 0
        self._digest = sha256()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, label: int, data: Pixels, size: tuple[int, int]) -> None:
        """Append one image.

        Args:
            name: of the image.
            label: an index into the classes, -1 where unknown.
            data: uint8 [B], the content of an image file, or uint8 [S, S, 3], its pixels.
            size: (height, width) of the image.
        """
        rows = data if self._encoded else data[None]
        self._waiting.append(rows)
        self._offsets.append(self._offsets[-1] + len(rows))
        self._digests.append(digest_of_bytes(np.ascontiguousarray(data)))
        text = name.encode()
        self._digest.update(struct.pack("<qqq", len(text), label, data.size) + text)
        self._digest.update(data.data)
        self._names.append(name)
        self._labels.append(label)
        self._sizes.append(size)
        self._waiting_bytes += data.size
        if self._waiting_bytes > _BATCH:
            self._write()

    def finish(self, classes: list[str], skipped: list[tuple[str, str]], configuration: dict[str, Any]) -> str:
        """Write the lists; return the fingerprint."""
        self._write()
        fingerprint = self._digest.hexdigest()
        self._file["names"] = np.array(self._names, _TEXT)
        self._file["classes"] = np.array(classes, _TEXT)
        self._file["skipped"] = np.array(skipped, _TEXT).reshape(-1, 2)
        offsets = np.array(self._offsets, np.int64) if self._encoded else None
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 16)
        arrays = [np.array(self._labels, np.int64), np.array(self._sizes, np.int64).reshape(-1, 2), offsets, digests]
        for name, array in zip(("labels", "sizes", "offsets", "digests"), arrays, strict=True):
            if array is not None:
                self._file[name] = array
        made = json.dumps(configuration, sort_keys=True)
        kind = "encoded" if self._encoded else "raw"
        lists = [self._names, classes, [list(pair) for pair in skipped], made, kind, fingerprint]
        self._file.attrs.update(
            lists=digest_of_lists(lists, arrays),
            format=FORMAT,
            schema=SCHEMA,
            kind=kind,
            fingerprint=fingerprint,
            configuration=made,
        )
        return fingerprint

    def _write(self) -> None:
        if self._waiting:
            start, stop = len(self._data), self._offsets[-1]
            self._data.resize(stop, axis=0)
            self._data[start:] = np.concatenate(self._waiting)
            self._sink.check()
            self._waiting, self._waiting_bytes = [], 0

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)


def _reopened(path: str, fingerprint: str) -> ImageStore:
    store = ImageStore.open(path)
    if store.fingerprint != fingerprint:
        raise DataError(f"{path} has been replaced by other images since the store was pickled; open it again")
    return store


def _open(path: pathlib.Path) -> h5py.File:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; expected an image store, as `deconvviz pack` writes it")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read; change its permissions")
    if not h5py.is_hdf5(path):
        raise DataError(f"{path} is not an HDF5 file; expected an image store: pack the images with `deconvviz pack`")
    # Without a chunk cache: it would read whole chunks where an image is a part of one.
    file = h5py.File(path, "r", rdcc_nbytes=0)
    schema = file.attrs.get("schema", 0)
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise DataError(f"{path} is HDF5 but no image store; expected a file that `deconvviz pack` wrote")
    if schema > SCHEMA:
        file.close()
        raise DataError(f"{path} has schema {schema}, this version reads up to {SCHEMA}; update deconvviz or pack anew")
    try:
        misfit = misfit_of_layout(FORMAT, refuse_foreign(file, path))
        if misfit:
            raise DataError(f"{path} is damaged: {misfit}; pack it again")
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Turn what h5py raises for a truncated or damaged file into a DataError."""
    try:
        yield
    except READ_ERRORS as error:
        damaged = f"{path} is damaged or truncated ({one_line(error)}); pack it again"
        raise DataError(unreadable(path, error, damaged)) from error


def _constant(dataset: h5py.Dataset) -> Ints:
    """Read a list of whole numbers that cannot be changed."""
    values: Ints = dataset[:].astype(np.int64)
    values.setflags(write=False)
    return values

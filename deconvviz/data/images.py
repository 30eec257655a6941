"""ImageStore: many images in one HDF5 file, read in any order by any number of processes.

The layout of the file, schema 2; schema 1 is the same without the kind "arrays", and is written where it suffices.

Attributes:
  format          "deconvviz-images"
  schema          1 or 2
  kind            "encoded", "raw" or "arrays"
  dtype           of a store of kind "arrays": "uint8", "uint16" or "float32"
  channels        of a store of kind "arrays": C
  fingerprint     SHA-256 in hex over names, labels and image bytes
  configuration   JSON: the command line, the source and the settings that made the file

Datasets:
  names     [N] text
  labels    [N] int64, an index into the classes, -1 where unknown
  sizes     [N, 2] int64, height and width
  classes   [K] text
  skipped   [M, 2] text: name and reason of each image that could not be read
  bytes     of a store of kind "encoded": [B] uint8, the image files one after the other; of kind "arrays" the values of
            the images, [H, W, C] each, little-endian
  offsets   of a store of these kinds: [N + 1] int64, where each image begins in `bytes`
  images    of a store of kind "raw": [N, S, S, 3] uint8, one image in each chunk
  digests   [N, 16] uint8, BLAKE2 of each image's bytes, checked when it is read; older files have none
The attribute lists is a BLAKE2 digest in hex over all the other lists and the configuration, checked when it is opened.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import operator
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from deconvviz.arrays import PEAKS
from deconvviz.data.decode import decode, encode
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.results.files import READ_ERRORS, one_line, unreadable
from deconvviz.results.schemas import misfit_of_layout
from deconvviz.results.sealed import digest_of_bytes, digest_of_lists, refuse_foreign
from deconvviz.types import Ints, Pathlike, Picture, Pixels

FORMAT = "deconvviz-images"
SCHEMA = 2

# Held only while a handle is opened or closed: h5py itself makes the reads of several threads take turns. It is also
# held across a fork: a child would otherwise inherit a lock that a thread of its parent had to release.
_OPENING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


class ImageStore(Shown, drawn_by="draw_images"):
    """A file of images as a sequence of (image [H, W, C], label); `store[i]` decodes image i.

    A store can be a torch Dataset with any number of workers, forked or spawned, and threads may share it: each process
    opens its own handle when it first reads. The lists below are read once, when the store is opened.

    Attributes:
        path: absolute path of the file.
        kind: "encoded" where the file holds image files as they were, "raw" where it holds pixels of one size, "arrays"
            where it holds images of any number of channels.
        channels: number of channels of each image: 3, except of kind "arrays".
        dtype: of the values: uint8, uint16 or float32. Of kind "encoded" 16-bit files become uint16 all the same.
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
            self._offsets = None if self.kind == "raw" else _constant(file["offsets"])
            self.channels = int(file.attrs.get("channels", 3))
            self.dtype = np.dtype(str(file.attrs.get("dtype", "uint8")))
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

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index`, [H, W, C] with the store's `channels` and `dtype`, and its label.

        Raises:
            IndexError: the store has no such image.
            DataError: the bytes of the image are damaged.
        """
        index = self._checked(index)
        try:
            picture = decode(self._bytes(index)) if self.kind == "encoded" else self._pixels(index)
        except DataError as error:
            raise DataError(f"cannot read image {index} ({self.names[index]}) of {self.path}: {error}") from error
        return picture, int(self.labels[index])

    @property
    def several(self) -> Callable[[Ints], Pixels] | None:
        """Reads n > 0 images in one call, indices [n] -> uint8 [n, S, S, 3]; None where they are read one by one."""
        return self._several if self._offsets is None else None

    def __iter__(self) -> Iterator[tuple[Picture, int]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes:
        """Return image `index` as the content of a file: the one that was packed, a PNG, or a .npy file of an array."""
        index = self._checked(index)
        if self.kind == "encoded":
            return self._bytes(index)
        if self.kind == "raw":
            return encode(self._raw(index))
        content = io.BytesIO()
        np.save(content, self._pixels(index))
        return content.getvalue()

    @property
    def info(self) -> dict[str, Any]:
        """What the file holds and how it was made, as values that JSON takes."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "schema": SCHEMA if self.kind == "arrays" else 1,
            "images": len(self),
            "channels": self.channels,
            "dtype": str(self.dtype),
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

    def text_as_html(self) -> str:
        """Return the text below the picture, as HTML: a table."""
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

    def _pixels(self, index: int) -> Picture:
        """Return the pixels of image `index` of a store that holds no image files."""
        if self.kind == "raw":
            return self._raw(index)
        values = np.frombuffer(self._bytes(index), self.dtype.newbyteorder("<")).astype(self.dtype)
        return values.reshape(*self.sizes[index], self.channels)

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
        lists: list[Any] = [self.names, self.classes, self.skipped, json.dumps(self.configuration, sort_keys=True)]
        lists += [self.kind, self.fingerprint]
        lists += [str(self.dtype), self.channels] if self.kind == "arrays" else []
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
        return file["images" if self.kind == "raw" else "bytes"]

    def _refuse_inconsistent(self, file: h5py.File) -> None:
        if self._offsets is None:
            count, whole = len(file["images"]), True
        else:
            count, whole = len(self._offsets) - 1, int(self._offsets[-1]) == len(file["bytes"])
        if not whole or not count == len(self) == len(self.labels) == len(self.sizes):
            raise DataError(f"{self.path} is damaged: its lists are not of one length; pack it again")
        if self.kind == "arrays":
            lengths = self.sizes.prod(1) * self.channels * self.dtype.itemsize
            if str(self.dtype) not in PEAKS or not np.array_equal(np.diff(np.asarray(self._offsets)), lengths):
                raise DataError(f"{self.path} is damaged: its images have other sizes than it says; pack it again")


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

"""StoreFile: one HDF5 file of images, read in any order; an `ImageStore` is one of them, or several shards.

The layout of the file, schema 3. Schema 2 is the same without several labels an image, schema 1 also without the kind
"arrays"; the lowest that suffices is written.

Attributes:
  format          "deconvviz-images"
  schema          1, 2 or 3
  kind            "encoded", "raw" or "arrays"
  dtype           of a store of kind "arrays": "uint8", "uint16" or "float32"
  channels        of a store of kind "arrays": C
  fingerprint     SHA-256 in hex over names, labels and image bytes; see `fingerprint_of`, and `fingerprint_with` for
                  a store with several labels an image
  images_fingerprint  of such a store, the fingerprint that it would have without them
  configuration   JSON: the command line, the source and the settings that made the file. That of a shard has an entry
                  "shard": its index from 0, the number of shards ("of"), and their plan; see `data.shards`

Datasets:
  names     [N] text
  labels    [N] int64, an index into the classes, -1 where unknown
  sizes     [N, 2] int64, height and width
  classes   [K] text
  skipped   [M, 2] text: name and reason of each image that could not be read
  label_names  of a store with several labels an image: [L] text, sorted
  targets   of such a store: [N, L] uint8, 1 where an image has a label; all are 0 where its labels are unknown
  bytes     of a store of kind "encoded": [B] uint8, the image files one after the other; of kind "arrays" the values of
            the images, [H, W, C] each, little-endian
  offsets   of a store of these kinds: [N + 1] int64, where each image begins in `bytes`
  images    of a store of kind "raw": [N, S, S, 3] uint8, one image in each chunk
  digests   [N, 16] uint8, BLAKE2 of each image's bytes, checked when it is read; older files have none
The attribute lists is a BLAKE2 digest in hex over all the other lists and the configuration, checked when it is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from deconvviz.arrays import PEAKS
from deconvviz.data.chunks import ImageChunks
from deconvviz.data.decode import decode
from deconvviz.errors import DataError
from deconvviz.results.files import READ_ERRORS, one_line, unreadable
from deconvviz.results.schemas import misfit_of_layout
from deconvviz.results.sealed import digest_of_bytes, digest_of_lists, refuse_foreign
from deconvviz.types import Array, Ints, Mask, Pathlike, Picture, Pixels

FORMAT = "deconvviz-images"
SCHEMA = 3

# Held only while a handle is opened or closed: h5py itself makes the reads of several threads take turns. It is also
# held across a fork: a child would otherwise inherit a lock that a thread of its parent had to release.
OPENING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=OPENING.release)


class StoreFile:
    """One file of images, with its lists; each process opens its own handle when it first reads an image.

    Attributes:
        path: absolute path of the file.
        kind: "encoded", "raw" or "arrays".
        channels: number of channels of each image.
        dtype: of the values.
        names: N texts.
        classes: the class names.
        labels: int64 [N].
        sizes: int64 [N, 2], height and width of each image in pixels.
        skipped: (name, reason) of each image that could not be read when the file was packed.
        configuration: the command line, the source and the settings that made the file.
        fingerprint: as the file tells it: SHA-256 in hex over names, labels and image bytes.
        schema: of the file's layout.
        label_names: the names of several labels an image; None where images have one class.
        targets: bool [N, labels], whether an image has a label; None where images have one class.
        images_fingerprint: the fingerprint without several labels an image.
        digests: uint8 [N, 16], BLAKE2 of each image's bytes; None in older files.

    Raises:
        DataError: it is not a whole image store of a known schema.
    """

    def __init__(self, path: Pathlike) -> None:
        """Read the lists of a file."""
        self.path = pathlib.Path(os.path.abspath(path))  # noqa: PTH100, workers may start in another folder
        self._handle: tuple[int, h5py.Dataset] | None = None
        self._chunks: ImageChunks | None = None
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
            self.digests: Array | None = file["digests"][:] if "digests" in file else None
            self.schema = int(file.attrs["schema"])
            self.label_names: tuple[str, ...] | None = None
            self.targets: Mask | None = None
            self.images_fingerprint = self.fingerprint
            if "targets" in file:
                self.label_names = tuple(file["label_names"].asstr()[:])
                self.targets = file["targets"][:] != 0
                self.images_fingerprint = str(file.attrs["images_fingerprint"])
            self._refuse_inconsistent(file)
            if "lists" in file.attrs and file.attrs["lists"] != self._digest_of_lists():
                raise DataError(
                    f"{self.path} is damaged or was changed: its lists are not those that were written; restore it, or "
                    "pack it again"
                )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> Ints:
        """int64 [N], the number of bytes in which each image is stored."""
        lengths: Ints = self.sizes.prod(1) * 3 if self._offsets is None else np.diff(self._offsets)
        return lengths

    def picture(self, index: int) -> Picture:
        """Return image `index`, from 0, as [H, W, C]; raises DataError where its bytes are damaged."""
        return decode(self.content(index)) if self.kind == "encoded" else self.pixels(index)

    def content(self, index: int) -> bytes:
        """Return the bytes of image `index` of a store that is not raw."""
        assert self._offsets is not None
        start, stop = self._offsets[index : index + 2]
        with _reading(self.path):
            data = bytes(self._data()[start:stop].data)
        self._check(index, data)
        return data

    def pixels(self, index: int) -> Picture:
        """Return the pixels of image `index` of a store that holds no image files."""
        if self.kind == "raw":
            with _reading(self.path):
                picture = np.asarray(self._data()[index])
            self._check(index, picture.data)
            return picture
        values = np.frombuffer(self.content(index), self.dtype.newbyteorder("<")).astype(self.dtype)
        return values.reshape(*self.sizes[index], self.channels)

    def several(self, rows: Sequence[int], out: Pixels | None = None) -> Pixels:
        """Return n > 0 images of a raw store, uint8 [n, S, S, 3]; in `out`, where it is given."""
        pictures = np.empty((len(rows), *self.sizes[rows[0]], 3), np.uint8) if out is None else out
        with _reading(self.path):
            images, chunks = self._data(), self._chunks
            if chunks is not None:
                chunks.read(rows, pictures)
            else:
                for row, picture in zip(rows, pictures, strict=True):
                    images.read_direct(picture, np.s_[row])
        for index, picture in zip(rows, pictures, strict=True):
            self._check(index, picture.data)
        return pictures

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with OPENING:
            if self._handle is not None:
                self._handle[1].file.close()
                self._handle = None
            if self._chunks is not None:
                self._chunks.close()
                self._chunks = None

    def _check(self, index: int, data: bytes | memoryview) -> None:
        """Raise DataError where an image's bytes are not those that were packed."""
        if self.digests is not None and digest_of_bytes(data) != self.digests[index].tobytes():
            raise DataError("its bytes are not those that were packed; restore the file, or pack it again")

    def _digest_of_lists(self) -> str:
        lists: list[Any] = [self.names, self.classes, self.skipped, json.dumps(self.configuration, sort_keys=True)]
        lists += [self.kind, self.fingerprint]
        lists += [str(self.dtype), self.channels] if self.kind == "arrays" else []
        arrays = [self.labels, self.sizes, self._offsets, self.digests]
        if self.targets is not None:
            lists += [self.label_names, self.images_fingerprint]
            arrays.append(self.targets.astype(np.uint8))
        return digest_of_lists(lists, arrays)

    def _data(self) -> h5py.Dataset:
        """Return the dataset of images through this process's handle; one from before a fork is closed, not shared."""
        handle = self._handle
        if handle is None or handle[0] != os.getpid():
            with OPENING:
                handle = self._handle
                if handle is None or handle[0] != os.getpid():
                    self.close()
                    images = self._opened()
                    self._chunks = ImageChunks.of(self.path, images) if self.kind == "raw" else None
                    handle = self._handle = (os.getpid(), images)
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
            if str(self.dtype) not in PEAKS or not np.array_equal(self.lengths, lengths):
                raise DataError(f"{self.path} is damaged: its images have other sizes than it says; pack it again")


def fingerprint_of(
    names: Sequence[str], labels: Ints, lengths: Ints, digests: Array, arrays: tuple[str, int, Ints] | None = None
) -> str:
    """Return the fingerprint of images: SHA-256 in hex over names, labels and image bytes, these by their digests.

    It is computed from the lists of a store, so that shards have that of the single file with the same images. Hashed
    are the number of images; their labels; the numbers of bytes in which they are stored; their digests; the numbers of
    bytes of their names; the names in UTF-8. All numbers are little-endian int64. Of a store of kind "arrays", the type
    and the number of channels (as in "uint16 5") and the heights and widths follow. Before version 0.2 it was SHA-256
    over the names, labels and whole bytes, image after image; files keep the fingerprint that they were written with.

    Args:
        names: N names.
        labels: int64 [N].
        lengths: int64 [N], the number of bytes in which each image is stored.
        digests: uint8 [N, 16], BLAKE2 of each image's bytes.
        arrays: of a store of kind "arrays" the type of the values, their channels, and int64 [N, 2], the sizes.

    >>> one = fingerprint_of(["a.png"], np.array([3]), np.array([70]), np.zeros((1, 16), np.uint8))
    >>> one[:16], one == fingerprint_of(["a.png"], np.array([4]), np.array([70]), np.zeros((1, 16), np.uint8))
    ('55d8c1bf0746bbac', False)
    """
    texts = [name.encode() for name in names]
    digest = sha256(np.array([len(texts)], "<i8").data)
    for numbers in (labels, lengths, digests, np.array([len(text) for text in texts], np.int64)):
        digest.update(np.ascontiguousarray(numbers, "u1" if numbers is digests else "<i8").data)
    digest.update(b"".join(texts))
    if arrays is not None:
        dtype, channels, sizes = arrays
        digest.update(f"{dtype} {channels}".encode())
        digest.update(np.ascontiguousarray(sizes, "<i8").data)
    return digest.hexdigest()


def fingerprint_with(images_fingerprint: str, label_names: Sequence[str], targets: Mask) -> str:
    """Return the fingerprint of images with several labels each, be these packed with them or in a table beside them.

    It is SHA-256 over the fingerprint of the images without these labels, the number of labels and the numbers of bytes
    of their names (little-endian int64), the names in UTF-8, and a byte for each image and label: 1 where it has it.

    Args:
        images_fingerprint: of the images, in hex.
        label_names: L names.
        targets: bool [N, L], whether an image has a label.

    >>> one = fingerprint_with("00", ["cat", "dog"], np.array([[True, False]]))
    >>> one[:16], one == fingerprint_with("00", ["cat", "dog"], np.array([[True, True]]))
    ('aef969b744e5141d', False)
    """
    texts = [name.encode() for name in label_names]
    digest = sha256(images_fingerprint.encode())
    digest.update(np.array([len(texts), *map(len, texts)], "<i8").data)
    digest.update(b"".join(texts))
    digest.update(np.ascontiguousarray(targets, np.uint8).data)
    return digest.hexdigest()


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

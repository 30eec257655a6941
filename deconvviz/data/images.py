"""ImageStore: many images in one HDF5 file, or in several of one folder, read in any order by any number of processes.

`data.store_file` describes the layout of a file, and `data.shards` which files belong together.
"""

from __future__ import annotations

import contextlib
import html
import io
import operator
import os
import pathlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deconvviz.data.decode import encode
from deconvviz.data.shards import first_with_images, open_shards
from deconvviz.data.store_file import StoreFile, fingerprint_of, fingerprint_with
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.types import Array, Ints, Mask, Pathlike, Picture, Pixels


class ImageStore(Shown, drawn_by="draw_images"):
    """Packed images as a sequence of (image [H, W, C], label); `store[i]` decodes image i.

    A store is one file, or a folder of shards that `pack(..., shards=N)` wrote, which reads as one. It can be a torch
    Dataset with any number of workers, forked or spawned, and threads may share it: each process opens its own handles
    when it first reads. The lists below are read once, when the store is opened.

    Attributes:
        path: absolute path of the file, or of the folder.
        kind: "encoded" where the store holds image files as they were, "raw" where it holds pixels of one size,
            "arrays" where it holds images of any number of channels.
        channels: number of channels of each image: 3, except of kind "arrays".
        dtype: of the values: uint8, uint16 or float32. Of kind "encoded" 16-bit files become uint16 all the same.
        names: N paths, relative to the folder that was packed.
        classes: the class names; empty where none were given. Of images with several labels, the sorted names of these.
        labels: int64 [N], an index into the classes, -1 where unknown; -1 everywhere where images have several labels.
        targets: of images with several labels (`pack(..., labels=FILE)`) bool [N, classes], whether an image has a
            label; None where images have one class.
        known: of images with several labels bool [N], whether any of them is known; None where images have one class.
        sizes: int64 [N, 2], height and width of each image in pixels.
        skipped: (name, reason) of each image that could not be read when the images were packed.
        configuration: the command line, the source and the settings that made the store, and the number of its shards.
        fingerprint: SHA-256 in hex over names, labels and image bytes; equal content has an equal fingerprint, in one
            file or in shards.
        images_fingerprint: the same without several labels an image; equal to `fingerprint` where there are none.
        shards: number of files of a folder; 0 where the store is a single file.

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
        """Read the lists of a store; raises DataError where it is not a whole image store of a known schema."""
        self.path = pathlib.Path(os.path.abspath(path))  # noqa: PTH100, workers may start in another folder
        is_folder = self.path.is_dir()
        self._files = open_shards(self.path) if is_folder else [StoreFile(self.path)]
        self.shards = len(self._files) if is_folder else 0
        self._starts: list[int] = np.cumsum([0, *map(len, self._files)])[:-1].tolist()
        first = first_with_images(self._files)
        self.kind, self.channels, self.dtype, self.classes = first.kind, first.channels, first.dtype, first.classes
        self.names = tuple(name for file in self._files for name in file.names) if is_folder else first.names
        self.skipped = tuple(pair for file in self._files for pair in file.skipped)
        self.labels = _joined([file.labels for file in self._files])
        self.sizes = _joined([file.sizes for file in self._files])
        self.configuration = first.configuration
        self.fingerprint, self.images_fingerprint = first.fingerprint, first.images_fingerprint
        if is_folder:
            self.configuration = {key: value for key, value in first.configuration.items() if key != "shard"}
            self.configuration["shards"] = self.shards
            self.fingerprint = self.images_fingerprint = self._fingerprint()
        self.targets: Mask | None = None
        self.known: Mask | None = None
        if first.label_names is not None:
            self._take_several_labels(first.label_names)

    @classmethod
    def open(cls, path: Pathlike) -> ImageStore:
        """Open the image store at `path`, a file or a folder of shards.

        Raises:
            DataError: it is missing, truncated, foreign or too new; a shard is missing or of another store.
        """
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
        file, place = self._place(index)
        with self.named(index):
            picture = file.picture(place)
        return picture, int(self.labels[index])

    @property
    def several(self) -> Callable[[Ints, Pixels | None], Pixels] | None:
        """Reads n > 0 images in one call, indices [n] -> uint8 [n, S, S, 3]; None where they are read one by one.

        Its second argument is the array that they are read into, or None for a new one.
        """
        return self._several if self.kind == "raw" else None

    def __iter__(self) -> Iterator[tuple[Picture, int]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes:
        """Return image `index` as the content of a file: the one that was packed, a PNG, or a .npy file of an array.

        Raises:
            IndexError: the store has no such image.
            DataError: the bytes of the image are damaged.
        """
        index = self._checked(index)
        file, place = self._place(index)
        with self.named(index):
            if self.kind == "encoded":
                return file.content(place)
            pixels = file.pixels(place)
        if self.kind == "raw":
            return encode(pixels)
        content = io.BytesIO()
        np.save(content, pixels)
        return content.getvalue()

    @property
    def info(self) -> dict[str, Any]:
        """What the store holds and how it was made, as values that JSON takes."""
        shards = {"shards": self.shards} if self.shards else {}
        return {
            "path": str(self.path),
            "kind": self.kind,
            "schema": self._files[0].schema,
            **shards,
            "images": len(self),
            "channels": self.channels,
            "dtype": str(self.dtype),
            ("classes" if self.targets is None else "labels"): len(self.classes),
            "skipped": len(self.skipped),
            "bytes": sum(file.path.stat().st_size for file in self._files),
            "fingerprint": self.fingerprint,
            "configuration": self.configuration,
        }

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        for file in self._files:
            file.close()

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (str(self.path), self.fingerprint)

    def __repr__(self) -> str:
        shards = f" in {self.shards} shards" if self.shards else ""
        kind = "classes" if self.targets is None else "labels"
        classes = f", {len(self.classes)} {kind}" if self.classes else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"<ImageStore {self.path}: {len(self)} {self.kind} images{shards}{classes}{skipped}>"

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

    @contextlib.contextmanager
    def named(self, index: int) -> Iterator[None]:
        """Name image `index` and its file in what is raised within a `with` block because it cannot be read."""
        try:
            yield
        except DataError as error:
            path = self._place(index)[0].path
            raise DataError(f"cannot read image {index} ({self.names[index]}) of {path}: {error}") from error

    def _place(self, index: int) -> tuple[StoreFile, int]:
        """Return the file that image `index` is in, and its index there."""
        number = bisect_right(self._starts, index) - 1
        return self._files[number], index - self._starts[number]

    def _several(self, indices: Ints, out: Pixels | None = None) -> Pixels:
        rows = [self._checked(index) for index in indices.tolist()]
        numbers = [bisect_right(self._starts, row) - 1 for row in rows]
        if numbers.count(numbers[0]) == len(numbers):
            return self._files[numbers[0]].several([row - self._starts[numbers[0]] for row in rows], out)
        pictures = np.empty((len(rows), *self.sizes[rows[0]], 3), np.uint8) if out is None else out
        for number in sorted(set(numbers)):
            places = [place for place, each in enumerate(numbers) if each == number]
            read = self._files[number].several([rows[place] - self._starts[number] for place in places])
            pictures[places] = read
        return pictures

    def _take_several_labels(self, label_names: tuple[str, ...]) -> None:
        """Let images have several labels each, and no single class."""
        targets: Mask = np.concatenate([file.targets for file in self._files if file.targets is not None])
        known: Mask = targets.sum(1) > 0
        labels: Ints = np.full(len(self), -1, np.int64)
        for array in (targets, known, labels):
            array.setflags(write=False)
        self.classes, self.labels, self.targets, self.known = label_names, labels, targets, known
        self.fingerprint = fingerprint_with(self.images_fingerprint, label_names, targets)

    def _fingerprint(self) -> str:
        """Return the fingerprint that a single file of the same images, with one class each, has."""
        filled = [file for file in self._files if len(file)]
        digests = [np.zeros((0, 16), np.uint8), *(file.digests for file in filled if file.digests is not None)]
        lengths = np.concatenate([np.zeros(0, np.int64), *(file.lengths for file in filled)])
        arrays = (str(self.dtype), self.channels, self.sizes) if self.kind == "arrays" else None
        return fingerprint_of(self.names, self.labels, lengths, np.concatenate(digests), arrays)


def _reopened(path: str, fingerprint: str) -> ImageStore:
    store = ImageStore.open(path)
    if store.fingerprint != fingerprint:
        raise DataError(f"{path} has been replaced by other images since the store was pickled; open it again")
    return store


def _joined(lists: list[Array]) -> Ints:
    """Return lists of whole numbers one after the other; they cannot be changed."""
    if len(lists) == 1:
        return lists[0]
    values: Ints = np.concatenate(lists)
    values.setflags(write=False)
    return values

"""From an entry of a source to what a store holds of it, and from many entries to the file of a store."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from deconvviz.data.array_files import ARRAY_EXTENSIONS, checked_array, is_array_file, read_array
from deconvviz.data.decode import as_image, decode, encode, pixels
from deconvviz.data.sources import Entry
from deconvviz.data.writing import StoreWriter
from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Picture

Readable = tuple[Picture, tuple[int, int]]
"""What is stored of an image that can be read, and its (height, width)."""


@dataclasses.dataclass(frozen=True)
class EntryReader:
    """Reads one image; threads and processes call it.

    Attributes:
        raw: whether pixels are stored, and not image files.
        size: side of the square that they become; None leaves them as they are.
    """

    raw: bool
    size: int | None

    def __call__(self, entry: Entry) -> tuple[Entry, Readable | str]:
        """Return the entry without its content, and what is stored with (height, width), or the reason against it."""
        emptied = dataclasses.replace(entry, content=None)  # so that what a dataset returned can be freed
        try:
            if self.raw and is_array(entry.content):
                array = entry.content
                picture = read_array(array) if isinstance(array, pathlib.Path) else checked_array(array)
            else:
                data = _file_content(entry.content)
                picture = decode(data)
                if not self.raw:
                    return emptied, (np.frombuffer(data, np.uint8), picture.shape[:2])
            if self.size is not None:
                from deconvviz.data.preprocess import Preprocess  # with torch, which takes seconds to import

                count = picture.shape[2]
                square = Preprocess(resize=self.size, crop=self.size, mean=(0.0,) * count, std=(1.0,) * count)
                picture = square.picture(picture)
        except DataError as error:
            return emptied, one_line(error)
        return emptied, (picture, picture.shape[:2])


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written of a store.

    Attributes:
        count: number of images.
        skipped: (name, reason) of each image that could not be read.
        fingerprint: of the file.
        labels: the classes of these images, as indices; those of images of unknown class are not among them.
        unlabelled: how many images have none of several labels.
    """

    count: int
    skipped: list[tuple[str, str]]
    fingerprint: str
    labels: set[int]
    unlabelled: int


def write_entries(
    path: pathlib.Path,
    results: Iterable[tuple[Entry, Readable | str]],
    reader: EntryReader,
    classes: list[str],
    configuration: dict[str, Any],
    tell: Callable[[int], Any],
    label_names: Sequence[str] | None = None,
) -> Written:
    """Write a store of what `EntryReader` returns for each entry, in this order.

    Args:
        path: of the file.
        results: (entry, what is stored of it, or the reason against it).
        reader: that returned them.
        classes: the class names.
        configuration: what the file says about how it was made.
        tell: called with 1 after each entry.
        label_names: the names of several labels an image; None where images have one class.

    Raises:
        DataError: raw images are of several kinds.
        OSError: the file cannot be written.
    """
    skipped: list[tuple[str, str]] = []
    labels: set[int] = set()
    unlabelled = 0
    with StoreWriter(path, reader.raw, reader.size, label_names) as writer:
        for entry, result in results:
            if isinstance(result, str):
                skipped.append((entry.name, result))
            else:
                writer.add(entry.name, entry.label, *result, entry.several)
                labels.add(entry.label)
                unlabelled += not entry.several
            tell(1)
        fingerprint = writer.finish(classes, skipped, configuration)
        return Written(len(writer), skipped, fingerprint, labels - {-1}, unlabelled)


def is_array(content: Any) -> bool:
    """Return whether the content of an entry is an array, and no picture: no grey or colours of 8 bits."""
    if isinstance(content, pathlib.Path):
        return is_array_file(content)
    if isinstance(content, Image.Image | DataError) or not hasattr(content, "shape"):
        return False
    channels_first = hasattr(content, "movedim")
    channels = 1 if len(content.shape) == 2 else content.shape[0 if channels_first else -1]
    return str(content.dtype).removeprefix("torch.") != "uint8" or channels not in (1, 3)


def _file_content(content: Any) -> bytes:
    """Return the content of an image file: of the file at a path, or of a PNG with what a dataset returned."""
    if isinstance(content, DataError):
        raise content
    try:
        if not isinstance(content, pathlib.Path):
            image = as_image(content)
            if image.mode.startswith("I"):  # 16-bit grey keeps its bits
                return _png(image)
            return encode(np.asarray(pixels(image), np.uint8))
        if content.suffix.lower() in ARRAY_EXTENSIONS:
            raise DataError("an array, not an image file; pack it with raw=True (--raw)")
        if content.exists() and not content.is_file():  # reading a pipe would never end
            raise DataError("not a file")
        return content.read_bytes()
    except (OSError, ValueError, SyntaxError, TypeError) as error:  # a dataset's PIL image may be read only now
        raise DataError(one_line(error)) from error


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

"""Pack a folder, a list of files or a dataset of images into one HDF5 file that `ImageStore` reads."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from PIL import Image

from deconvviz.data.array_files import ARRAY_EXTENSIONS, checked_array, is_array_file, read_array
from deconvviz.data.decode import as_image, decode, encode, pixels
from deconvviz.data.parallel import cores, in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.data.sources import EXTENSIONS, DatasetEntries, Entry, Source, find_source
from deconvviz.data.writing import StoreWriter
from deconvviz.errors import DataError, require
from deconvviz.progress import progress_bar
from deconvviz.results.files import atomic, one_line
from deconvviz.types import Pathlike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack


SIDE = 256  # pixels: of the pictures that a raw store holds


class PackKeywords(TypedDict, total=False):
    """The fields of `PackOptions`, as the keyword arguments of `pack`."""

    raw: bool
    size: int | None
    limit: int | None
    workers: int
    progress: bool
    command: str | None
    overwrite: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How images are packed.

    Attributes:
        raw: store pixels, [H, W, C], instead of the image files as they are. This is faster to read, and larger. Files
            of arrays, which have any number of channels, are packed in this way only.
        size: side of the pixels that `raw` stores: the shorter side of an image is resized to it (bilinear) and the
            central square is kept. By default pictures have 256, and where any of the images is an array, all of them
            keep their own sizes and their values as they are.
        limit: take only so many images, spread over the classes and over the source; None takes all.
        workers: threads that decode images.
        progress: whether a progress bar is shown on standard error.
        command: the command line, which is kept in the file.
        overwrite: whether an existing file is replaced.

    Raises:
        DataError: a limit, a number of workers or a size below 1.
    """

    raw: bool = False
    size: int | None = None
    limit: int | None = None
    workers: int = dataclasses.field(default_factory=cores)
    progress: bool = True
    command: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            workers=(self.workers >= 1, "at least 1"),
            size=(self.size is None or self.size >= 1, "at least 1"),
        )


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What `pack` did; `print(report)` lists it.

    Attributes:
        path: the file that was written.
        count: number of images that were packed.
        classes: number of classes that a packed image is of.
        skipped: (name, reason) of each image that could not be read.
        ignored: number of files that are not named like images.
        fingerprint: of the store: SHA-256 in hex over names, labels and image bytes.
    """

    path: pathlib.Path
    count: int
    classes: int
    skipped: list[tuple[str, str]]
    ignored: int
    fingerprint: str

    def __str__(self) -> str:
        classes = f" of {self.classes} classes" if self.classes else ""
        lines = [f"packed {self.count} images{classes} into {self.path} ({self.path.stat().st_size / 1e6:.1f} MB)"]
        if self.ignored:
            lines.append(f"ignored {self.ignored} files that are not named like images")
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} images that cannot be read:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  and {len(self.skipped) - 10} more; all are listed in ImageStore.skipped")
        return "\n".join(lines)


def pack(source: Any, out: Pathlike, **options: Unpack[PackKeywords]) -> PackReport:
    """Pack images into one file. Each image is decoded once; an image that cannot be read is skipped and listed.

    Args:
        source: one of these three.
            A folder: the images below each sub-folder are a class, and labels number the sorted names of the
            sub-folders; images directly in the folder have the label -1. Images are packed in the order of their names.
            A list of images, in its own order: a .txt file with a path on each line, perhaps followed by a tab and a
            label, or a .csv file with the columns path and label. Paths are relative to the list. Labels are integers,
            or class names if any of them is not an integer.
            With `raw`, files may also be arrays [H, W, C] or [H, W] of uint8, uint16 or float32: .npy, .npz with one
            array, and TIFF of any number of channels. A store holds images of one type and number of channels.
            A dataset with `len()`, whose items are (image, label): the image is a PIL image, a uint8 tensor [C, H, W]
            or a uint8 array [H, W, C], and it is packed as PNG. With `raw` it may be an array or a tensor of uint8,
            uint16 or float32 with any number of channels. Its `classes` and `names` are used if it has them.
        out: path of the file; it is written as a whole or not at all.
        options: `raw`, `size`, `limit`, `workers`, `progress`, `command` and `overwrite`; see `PackOptions`.

    Returns:
        What was packed and what was skipped.

    Raises:
        DataError: the source does not exist or has no image that can be read, `out` exists and `overwrite` is not set,
            `out` cannot be written, an option is invalid, or raw images are of several kinds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = pack([(np.zeros((4, 5, 3), np.uint8), 0)], f"{folder}/one.h5", progress=False)
    >>> report.count, report.skipped
    (1, [])
    """
    settings = PackOptions(**options)
    path = pathlib.Path(out)
    with atomic(path) as temporary:
        _refuse_output(path, source, settings.overwrite)
        images = _limited(find_source(source, settings.raw), settings.limit)
        size = settings.size
        if settings.raw and size is None and not _any_array(images):
            size = SIDE
        skipped: list[tuple[str, str]] = []
        with StoreWriter(temporary, settings.raw, size) as writer:
            labels: set[int] = set()
            results = in_order(_Reader(settings.raw, size), images.entries, settings.workers)
            bar = progress_bar(results, total=images.count, unit="image", disable=not settings.progress)
            for entry, result in bar:
                if isinstance(result, str):
                    skipped.append((entry.name, result))
                else:
                    writer.add(entry.name, entry.label, *result)
                    labels.add(entry.label)
            if not len(writer):
                raise DataError(_nothing_packed(images, skipped))
            made_by = {"command": settings.command, "source": images.description, "limit": settings.limit}
            size = size if settings.raw else None
            fingerprint = writer.finish(images.classes, skipped, {**made_by, "raw": settings.raw, "size": size})
            count, seen = len(writer), len({label for label in labels if label >= 0}) if images.classes else 0
    return PackReport(path, count, seen, skipped, images.ignored, fingerprint)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one image; threads call it.

    Attributes:
        raw: whether pixels are stored, and not image files.
        size: side of the square that they become; None leaves them as they are.
    """

    raw: bool
    size: int | None

    def __call__(self, entry: Entry) -> tuple[Entry, tuple[Picture, tuple[int, int]] | str]:
        """Return the entry without its content, and what is stored with (height, width), or the reason against it."""
        emptied = dataclasses.replace(entry, content=None)  # so that what a dataset returned can be freed
        try:
            if self.raw and _is_array(entry.content):
                array = entry.content
                picture = read_array(array) if isinstance(array, pathlib.Path) else checked_array(array)
            else:
                data = _file_content(entry.content)
                picture = decode(data)
                if not self.raw:
                    return emptied, (np.frombuffer(data, np.uint8), picture.shape[:2])
            if self.size is not None:
                count = picture.shape[2]
                square = Preprocess(resize=self.size, crop=self.size, mean=(0.0,) * count, std=(1.0,) * count)
                picture = square.picture(picture)
        except DataError as error:
            return emptied, one_line(error)
        return emptied, (picture, picture.shape[:2])


def _is_array(content: Any) -> bool:
    """Return whether the content of an entry is an array, and no picture: no grey or colours of 8 bits."""
    if isinstance(content, pathlib.Path):
        return is_array_file(content)
    if isinstance(content, Image.Image | DataError) or not hasattr(content, "shape"):
        return False
    channels_first = hasattr(content, "movedim")
    channels = 1 if len(content.shape) == 2 else content.shape[0 if channels_first else -1]
    return str(content.dtype).removeprefix("torch.") != "uint8" or channels not in (1, 3)


def _any_array(images: Source) -> bool:
    """Return whether a source has arrays: any of its files, or the first image of a dataset."""
    entries = images.entries[:1] if isinstance(images.entries, DatasetEntries) else images.entries
    return any(_is_array(entry.content) for entry in entries)


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


def _limited(source: Source, limit: int | None) -> Source:
    """Return a source with a part of its images, spread over its classes where they are known beforehand."""
    if limit is None or limit >= source.count:
        return source
    entries = source.entries
    if isinstance(entries, DatasetEntries):
        return dataclasses.replace(source, count=limit, entries=entries.chosen(spread(entries.labels, limit)))
    places = spread(np.array([entry.label for entry in entries]), limit)
    return dataclasses.replace(source, count=limit, entries=[entries[place] for place in places])


def _refuse_output(out: pathlib.Path, source: Any, overwrite: bool) -> None:
    """Raise DataError where the output is named like an image, is the source itself, or exists."""
    if out.suffix.lower() in EXTENSIONS:
        raise DataError(f"{out} is named like an image; an image store is named like photos.h5")
    origin = source if isinstance(source, str | os.PathLike) else getattr(source, "path", None)
    if isinstance(origin, str | os.PathLike) and os.path.realpath(origin) == os.path.realpath(out):
        raise DataError(f"{out} is both what to pack and where to; give another output file")
    if out.is_file() and not overwrite:
        raise DataError(f"{out} exists; choose another name, or overwrite it with overwrite=True (--force)")


def _nothing_packed(source: Source, skipped: list[tuple[str, str]]) -> str:
    """Return the message for a source without an image that can be read."""
    if skipped:
        name, reason = skipped[0]
        return f"no readable image in {source.description}: {len(skipped)} skipped, the first {name}: {reason}"
    others = f"; the {source.ignored} files there are named otherwise" if source.ignored else ""
    return f"no image in {source.description}; expected files named {', '.join(EXTENSIONS)}{others}; arrays need --raw"

"""Pack a folder, a list of files or a dataset of images into one HDF5 file that `ImageStore` reads."""

from __future__ import annotations

import csv
import dataclasses
import io
import operator
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.data.decode import as_image, decode, encode, pixels
from deconvviz.data.images import StoreWriter
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, atomic, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
A = TypeVar("A")
B = TypeVar("B")


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What `pack` did: how many images it packed, which it skipped and why, how many other files it passed over."""

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


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image before it is read: where it is, or what a dataset gave."""

    name: str
    label: int
    content: Any


@dataclasses.dataclass(frozen=True)
class Source:
    description: str
    count: int
    entries: Iterable[Entry]
    classes: list[str]
    ignored: int = 0


def pack(
    source: Any,
    out: Pathlike,
    *,
    raw: bool = False,
    size: int = 256,
    workers: int = 2,
    progress: bool = True,
    limit: int | None = None,
    command: str | None = None,
    overwrite: bool = False,
) -> PackReport:
    """Pack images into `out`; every image is decoded once, what cannot be read is skipped and listed.

    source: a folder: the images below each sub-folder are a class, labelled in the order of the sorted folder names,
        images directly in it have label -1; in the order of their names. Or a list, .txt (a path a line, and after a
        tab its label, if any) or .csv (path,label), in its own order; paths are relative to the list; labels are
        integers, or class names if any of them is not an integer. Or a dataset with len() whose items are (PIL image
        or uint8 tensor [C,H,W] or array [H,W,C], label), and its `.classes` and `.names` if it has them; packed as PNG.
    raw: store pixels, uint8 [size,size,3] (shorter side resized to `size`, bilinear, and the centre cropped), instead
        of the image files as they are: faster to read, larger.
    workers: threads that decode. progress: show a bar on stderr. limit: take only the first `limit` images.
    command: the command line, kept in the file. overwrite: replace an existing `out`.
    Raises DataError for a source that does not exist or has no readable image, and for an `out` that exists or cannot
    be written; `out` is written whole or not at all.
    """
    if (limit is not None and limit < 1) or workers < 1 or size < 1:
        raise DataError(f"limit {limit}, workers {workers} and size {size} must be at least 1")
    path = pathlib.Path(out)
    work = _Work(Preprocess(resize=size, crop=size) if raw else None)
    with atomic(path) as temporary:
        _refuse_output(path, source, overwrite)
        found = _find(source)
        if limit is not None:
            found = dataclasses.replace(found, count=min(limit, found.count), entries=islice(found.entries, limit))
        skipped: list[tuple[str, str]] = []
        with StoreWriter(temporary, size if raw else None) as writer:
            results = in_order(work, found.entries, workers)
            for entry, result in tqdm(results, total=found.count, unit="image", disable=not progress, file=sys.stderr):
                if isinstance(result, str):
                    skipped.append((entry.name, result))
                else:
                    writer.add(entry.name, entry.label, *result)
            if not len(writer):
                raise DataError(_nothing(found, skipped))
            settings = {"raw": raw, "size": size if raw else None, "limit": limit}
            made_by = {"command": command, "source": found.description, **settings}
            fingerprint = writer.finish(found.classes, skipped, made_by)
            count = len(writer)
    return PackReport(path, count, len(found.classes), skipped, found.ignored, fingerprint)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is done to one entry in a thread; the reason where it fails."""

    raw: Preprocess | None

    def __call__(self, entry: Entry) -> tuple[Entry, tuple[NDArray[np.uint8], tuple[int, int]] | str]:
        bare = dataclasses.replace(entry, content=None)  # lets go of what a dataset gave
        try:
            data = _content(entry.content)
            picture = decode(data)
            if self.raw is not None:
                picture = self.raw.picture(picture)
        except DataError as error:
            return bare, one_line(error)
        height, width = picture.shape[:2]
        return bare, (np.frombuffer(data, np.uint8) if self.raw is None else picture, (height, width))


def _content(content: Any) -> bytes:
    """Return the bytes of an image file: those of the file at a path, or of a PNG with what a dataset gave."""
    if isinstance(content, DataError):
        raise content
    try:
        if not isinstance(content, pathlib.Path):
            return encode(pixels(as_image(content)))
        if content.exists() and not content.is_file():  # to read a pipe would take for ever
            raise DataError("not a file")
        return content.read_bytes()
    except (OSError, ValueError, SyntaxError, TypeError) as error:  # a dataset's PIL image may be read only now
        raise DataError(one_line(error)) from error


def _find(source: Any) -> Source:
    if not isinstance(source, str | os.PathLike):
        if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
            return _dataset(source)
        raise DataError(f"expected a folder, a list file or a dataset with len() and [index], got {source!r}")
    path = pathlib.Path(source)
    try:
        if path.is_dir():
            return folder_source(path)
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a folder of images, or a list of them as .txt or .csv")
    except OSError as error:  # not left to `atomic`, which would blame the output
        raise DataError(f"cannot read {path}: {one_line(error)}; change its permissions") from error
    if path.suffix.lower() not in (".txt", ".csv"):
        raise DataError(f"{path} is neither a folder of images nor a list of them as .txt or .csv")
    return _list(path)


def folder_source(folder: pathlib.Path) -> Source:
    """Find the images below a folder, in the order of their names. What is hidden is passed over."""
    names: list[str] = []
    classes: list[str] = []
    ignored, seen = 0, {_identity(folder)}
    for at, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        inside = pathlib.Path(at).relative_to(folder)
        fresh = []
        for name in sorted(folders):
            identity = _identity(pathlib.Path(at, name))
            if not name.startswith(".") and identity not in seen:  # a link may lead back to where it stands
                seen.add(identity)
                fresh.append(name)
        folders[:] = fresh
        classes = classes if inside.parts else fresh
        images = [n for n in files if not n.startswith(".") and pathlib.Path(n).suffix.lower() in EXTENSIONS]
        names += [(inside / name).as_posix() for name in images]
        ignored += len(files) - len(images)
    labels = {name: label for label, name in enumerate(classes)}
    entries = [Entry(_text(n), labels[n.split("/")[0]] if "/" in n else -1, folder / n) for n in sorted(names)]
    return Source(str(folder), len(entries), entries, [_text(name) for name in classes], ignored)


def _list(path: pathlib.Path) -> Source:
    rows = _rows(path)
    given = {label for _, label in rows if label}
    numbers = all(re.fullmatch("-?[0-9]+", label) for label in given)
    classes = [] if numbers else sorted(given)
    labels = {label: _label(int(label)) if numbers else classes.index(label) for label in given}
    entries = [Entry(_text(name), labels.get(label, -1), path.parent / name) for name, label in rows]
    return Source(str(path), len(entries), entries, classes)


def _rows(path: pathlib.Path) -> list[tuple[str, str]]:
    """Return (path, label or "") of each line of a list."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(csv.reader(io.StringIO(text, newline="")))
            rows = rows[1:] if rows and [cell.strip().lower() for cell in rows[0][:1]] == ["path"] else rows
        else:
            rows = [line.split("\t") for line in text.split("\n")]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read the list {path}: {one_line(error)}; expected UTF-8 text") from error
    named = [[cell.strip() for cell in (*row, "", "")] for row in rows]
    return [(name, label) for name, label, *_ in named if name and not name.startswith("#")]


def _dataset(dataset: Any) -> Source:
    names = getattr(dataset, "names", None)

    def entries() -> Iterator[Entry]:
        for index in range(len(dataset)):
            name = f"{index:08d}.png" if names is None else str(names[index])
            try:
                content, label = dataset[index]
                yield Entry(name, -1 if label is None else _label(operator.index(label)), content)
            except Exception as error:  # whatever a dataset raises for one image, the others can be packed
                yield Entry(name, -1, DataError(one_line(error)))

    classes = [str(name) for name in getattr(dataset, "classes", None) or ()]
    return Source(type(dataset).__name__, len(dataset), entries(), classes)


def _label(label: int) -> int:
    if not -1 <= label < 2**63:
        raise DataError(f"label {label} is neither the index of a class, from 0, nor -1 for unknown")
    return label


def _refuse_output(out: pathlib.Path, source: Any, overwrite: bool) -> None:
    if out.suffix.lower() in EXTENSIONS:
        raise DataError(f"{out} is named like an image; an image store is named like photos.h5")
    given = source if isinstance(source, str | os.PathLike) else getattr(source, "path", None)
    if isinstance(given, str | os.PathLike) and os.path.realpath(given) == os.path.realpath(out):
        raise DataError(f"{out} is both what to pack and where to; give another output file")
    if out.is_file() and not overwrite:
        raise DataError(f"{out} exists; choose another name, or overwrite it with overwrite=True (--force)")


def _nothing(found: Source, skipped: list[tuple[str, str]]) -> str:
    if skipped:
        name, reason = skipped[0]
        return f"no readable image in {found.description}: {len(skipped)} skipped, the first {name}: {reason}"
    others = f"; the {found.ignored} files there are named otherwise" if found.ignored else ""
    return f"no image in {found.description}; expected files named {', '.join(EXTENSIONS)}{others}"


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> None:
    raise DataError(f"cannot read the folder {error.filename}: {one_line(error)}; change its permissions")


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")  # a file name may hold bytes that are no text

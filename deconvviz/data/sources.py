"""Where the images to pack are: below a folder, in a list of files, or in a dataset."""

from __future__ import annotations

import csv
import dataclasses
import io
import operator
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from deconvviz.errors import DataError
from deconvviz.results.files import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image before it is read.

    Attributes:
        name: of the image.
        label: an index into the classes, -1 where unknown.
        content: the path of the image file, or what a dataset returned: a PIL image, a tensor or an array. Where the
            dataset raised an error, it is that error as a DataError.
    """

    name: str
    label: int
    content: Any


@dataclasses.dataclass(frozen=True)
class Source:
    """Images to pack, in their order.

    Attributes:
        description: what the images are read from: a path, or the name of a dataset's type.
        count: number of images.
        entries: the images.
        classes: the class names; empty where none were given.
        ignored: number of files that are not named like images.
    """

    description: str
    count: int
    entries: Iterable[Entry]
    classes: list[str]
    ignored: int = 0


def find_source(source: Any) -> Source:
    """Find the images to pack; see `deconvviz.data.pack.pack` for what a source may be.

    Raises:
        DataError: the source does not exist, cannot be read, or is of another kind.
    """
    if not isinstance(source, str | os.PathLike):
        if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
            return _dataset_source(source)
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
    return _list_source(path)


def folder_source(folder: pathlib.Path) -> Source:
    """Find the images below a folder, in the order of their names; its sub-folders are the classes.

    Hidden files and folders are left out. A folder that several links lead to is read once.

    Raises:
        DataError: a folder cannot be read.
    """
    names: list[str] = []
    classes: list[str] = []
    ignored, visited = 0, {_identity(folder)}
    for at, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        inside = pathlib.Path(at).relative_to(folder)
        new_folders = []
        for name in sorted(folders):
            identity = _identity(pathlib.Path(at, name))
            if not name.startswith(".") and identity not in visited:  # a link may lead back to a folder above it
                visited.add(identity)
                new_folders.append(name)
        folders[:] = new_folders
        classes = classes if inside.parts else new_folders
        images = [n for n in files if not n.startswith(".") and pathlib.Path(n).suffix.lower() in EXTENSIONS]
        names += [(inside / name).as_posix() for name in images]
        ignored += len(files) - len(images)
    labels = {name: label for label, name in enumerate(classes)}
    entries = [Entry(_as_text(n), labels[n.split("/")[0]] if "/" in n else -1, folder / n) for n in sorted(names)]
    return Source(str(folder), len(entries), entries, [_as_text(name) for name in classes], ignored)


def _list_source(path: pathlib.Path) -> Source:
    """Return the images of a list: labels are numbers if all of them are, else class names."""
    rows = _rows(path)
    given_labels = {label for _, label in rows if label}
    numbers = all(re.fullmatch("-?[0-9]+", label) for label in given_labels)
    classes = [] if numbers else sorted(given_labels)
    labels = {label: _checked_label(int(label)) if numbers else classes.index(label) for label in given_labels}
    entries = [Entry(_as_text(name), labels.get(label, -1), path.parent / name) for name, label in rows]
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
    stripped = [[cell.strip() for cell in (*row, "", "")] for row in rows]
    return [(name, label) for name, label, *_ in stripped if name and not name.startswith("#")]


def _dataset_source(dataset: Any) -> Source:
    """Return the images of a dataset, which are asked for one after the other."""
    names = getattr(dataset, "names", None)

    def entries() -> Iterator[Entry]:
        for index in range(len(dataset)):
            name = f"{index:08d}.png" if names is None else str(names[index])
            try:
                content, label = dataset[index]
                yield Entry(name, -1 if label is None else _checked_label(operator.index(label)), content)
            except Exception as error:  # whatever a dataset raises for one image, the others can be packed
                yield Entry(name, -1, DataError(one_line(error)))

    classes = [str(name) for name in getattr(dataset, "classes", None) or ()]
    return Source(type(dataset).__name__, len(dataset), entries(), classes)


def _checked_label(label: int) -> int:
    """Return a label; raises DataError where it is neither an index nor -1."""
    if not -1 <= label < 2**63:
        raise DataError(f"label {label} is neither the index of a class, from 0, nor -1 for unknown")
    return label


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    """Return what is the same for two paths of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"cannot read the folder {error.filename}: {one_line(error)}; change its permissions")


def _as_text(name: str) -> str:
    """Return a file's name as text: bytes in it that are not UTF-8 become a replacement character."""
    return os.fsencode(name).decode("utf-8", "replace")

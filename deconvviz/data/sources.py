"""Where the images to pack are: below a folder, in a list of files, or in a dataset."""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import io
import json
import operator
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from PIL import Image

from deconvviz.data.array_files import ARRAY_EXTENSIONS
from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.types import Ints

OF_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
NUMBER = re.compile(r"-?[0-9]+(\.0*)?")  # also as tables write it: 2.0
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "img", "image_path", "image_id", "image_name")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "y", "label_id", "class_id")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image before it is read.

    Attributes:
        name: of the image.
        label: an index into the classes, -1 where unknown.
        content: the path of the image file, or what a dataset returned: a PIL image, a tensor or an array. Where the
            dataset raised an error, it is that error as a DataError.
        several: of images with several labels each, those that it has: indices into the source's `label_names`.
    """

    name: str
    label: int
    content: Any
    several: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Images to pack, in their order.

    Attributes:
        description: what the images are read from: a path, or the name of a dataset's type.
        count: number of images.
        entries: the images; those of a dataset are read when they are asked for.
        classes: the class names; empty where none were given.
        ignored: number of files that are not named like images.
        label_names: the names of several labels an image; None where images have one class.
    """

    description: str
    count: int
    entries: Sequence[Entry]
    classes: list[str]
    ignored: int = 0
    label_names: tuple[str, ...] | None = None


def find_source(source: Any, arrays: bool = False) -> Source:
    """Find the images to pack; see `deconvviz.data.pack.pack` for what a source may be.

    Args:
        source: a folder, a list file or a dataset.
        arrays: whether files of arrays in a folder are images as well.

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
            return folder_source(path, (*EXTENSIONS, *ARRAY_EXTENSIONS) if arrays else EXTENSIONS)
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a folder of images, or a list of them as .txt or .csv")
    except OSError as error:  # not left to `atomic`, which would blame the output
        raise DataError(f"cannot read {path}: {one_line(error)}; change its permissions") from error
    if path.suffix.lower() not in (".txt", ".csv"):
        raise DataError(f"{path} is neither a folder of images nor a list of them as .txt or .csv")
    return _list_source(path)


def folder_source(folder: pathlib.Path, extensions: Sequence[str] = EXTENSIONS) -> Source:
    """Find the images below a folder, in the order of their names; its sub-folders are the classes.

    Args:
        folder: its path.
        extensions: how the names of images end.

    Hidden files and folders are left out, and folders that systems make. A folder that several links lead to is read
    once.

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
            if (
                not name.startswith(".") and name not in OF_SYSTEMS and identity not in visited
            ):  # a link may lead back to a folder above it
                visited.add(identity)
                new_folders.append(name)
        folders[:] = new_folders
        classes = classes if inside.parts else new_folders
        images = [n for n in files if not n.startswith(".") and pathlib.Path(n).suffix.lower() in extensions]
        names += [(inside / name).as_posix() for name in images]
        ignored += len(files) - len(images)
    labels = {name: label for label, name in enumerate(classes)}
    entries = [Entry(_as_text(n), labels[n.split("/")[0]] if "/" in n else -1, folder / n) for n in sorted(names)]
    return Source(str(folder), len(entries), entries, [_as_text(name) for name in classes], ignored)


def _is_comment(folder: pathlib.Path, line: str) -> bool:
    """Whether a line of a list is a comment: it begins with #, and no image is called so."""
    return line.startswith("#") and not (folder / line).exists()


def _list_source(path: pathlib.Path) -> Source:
    """Return the images of a list: labels are numbers if all of them are, else class names."""
    rows = _rows(path)
    given_labels = {label for _, label in rows if label}
    numbers = all(NUMBER.fullmatch(label) for label in given_labels)
    classes = [] if numbers else sorted(given_labels)
    labels = {
        label: _checked_label(int(label.partition(".")[0])) if numbers else classes.index(label)
        for label in given_labels
    }
    entries = [Entry(_as_text(name), labels.get(label, -1), path.parent / name) for name, label in rows]
    return Source(str(path), len(entries), entries, classes)


def _rows(path: pathlib.Path) -> list[tuple[str, str]]:
    """Return (path, label or "") of each line of a list."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = _columns(list(csv.reader(io.StringIO(text, newline=""))), path.parent)
        else:
            rows = [line.split("\t") for line in text.split("\n")]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read the list {path}: {one_line(error)}; expected UTF-8 text") from error
    stripped = [[cell.strip() for cell in (*row, "", "")] for row in rows]
    return [(name, label) for name, label, *_ in stripped if name and not _is_comment(path.parent, name)]


def _columns(rows: list[list[str]], folder: pathlib.Path) -> list[list[str]]:
    """Return the columns of paths and labels of a table, without its header.

    A first row is a header where it names the columns, or where its path is no image, does not exist, and its label is
    no number. A header tells which columns are meant; without one they are the first two.
    """
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    paths = [at for at, cell in enumerate(head) if cell in PATH_COLUMNS]
    first, second = [*head, "", ""][:2]
    no_file = pathlib.Path(first).suffix not in EXTENSIONS and not (folder / (rows[0][0] if head else "")).is_file()
    if not head or not (paths or (first and no_file and not NUMBER.fullmatch(second))):
        return rows
    path = paths[0] if paths else 0
    labels = [at for at, cell in enumerate(head) if cell in LABEL_COLUMNS and at != path]
    label = labels[0] if labels else path + 1
    return [[row[path] if path < len(row) else "", row[label] if label < len(row) else ""] for row in rows[1:]]


def _dataset_source(dataset: Any) -> Source:
    """Return the images of a dataset, which are asked for one after the other."""
    classes = [str(name) for name in getattr(dataset, "classes", None) or ()]
    return Source(type(dataset).__name__, len(dataset), DatasetEntries(dataset, classes), classes)


class DatasetEntries(Sequence[Entry]):
    """The entries of a dataset; an item is asked for when its entry is.

    Attributes:
        indices: int64 [n], the items of the dataset, in their order.
        labels: int64 [N], where the dataset tells them without its images (`labels`, or `targets` as torchvision's
            have); -1 for all otherwise.
        names: of the items, in their order.
    """

    def __init__(self, dataset: Any, classes: list[str]) -> None:
        self._dataset, self._classes = dataset, classes
        self._names = getattr(dataset, "names", None)
        self._several: Mapping[str, tuple[int, ...]] = {}
        try:
            labels = np.asarray(getattr(dataset, "labels", getattr(dataset, "targets", None)), np.int64)
        except (TypeError, ValueError):
            labels = np.zeros(0, np.int64)
        self.labels: Ints = labels if labels.shape == (len(dataset),) else np.full(len(dataset), -1, np.int64)
        self.indices = np.arange(len(dataset))

    def identity(self) -> str:
        """Return a text that differs where it is known that the entries do; no item is asked for."""
        names = None if self._names is None else [str(self._names[index]) for index in self.indices.tolist()]
        fingerprint = str(getattr(self._dataset, "fingerprint", ""))
        about = [type(self._dataset).__name__, fingerprint, names, self.labels.tolist(), self.indices.tolist()]
        return json.dumps(about)

    def chosen(self, indices: Ints) -> DatasetEntries:
        """Return only some of the entries, in this order."""
        some = copy.copy(self)
        some.indices, some.labels = self.indices[indices], self.labels[indices]
        return some

    def labelled(self, several: Mapping[str, tuple[int, ...]]) -> DatasetEntries:
        """Return the same entries with several labels each: name -> indices of its labels."""
        labelled = copy.copy(self)
        labelled._several = several
        return labelled

    @property
    def names(self) -> list[str]:
        """The names of the entries; no item is asked for."""
        return [self._name(index) for index in self.indices.tolist()]

    @property
    def several(self) -> list[Sequence[int]]:
        """Which of several labels each entry has, as indices."""
        return [self._several.get(name, ()) for name in self.names]

    def _name(self, index: int) -> str:
        return f"{index:08d}.png" if self._names is None else str(self._names[index])

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        index = int(self.indices[index])
        name = self._name(index)
        try:
            content, label = _image_and_label(self._dataset[index])
            return Entry(name, _label_of(label, self._classes), content, self._several.get(name, ()))
        except Exception as error:  # whatever a dataset raises for one image, the others can be packed
            return Entry(name, -1, DataError(one_line(error)))


IMAGE_KEYS, LABEL_KEYS = ("image", "img", "picture", "pixel_values"), ("label", "labels", "target", "class")


def _image_and_label(item: Any) -> tuple[Any, Any]:
    """Return the image of a dataset's item and its label; None where there is no label.

    An item is (image, label), perhaps with more behind, {"image": ..., "label": ...}, or an image alone.

    Raises:
        DataError: the item is anything else.
    """
    if isinstance(item, Mapping):
        images = [item[key] for key in IMAGE_KEYS if key in item]
        if images:
            return images[0], next((item[key] for key in LABEL_KEYS if key in item), None)
    elif isinstance(item, tuple | list):
        if len(item) >= 2:
            return item[0], item[1]
        if len(item) == 1:
            return item[0], None
    elif hasattr(item, "shape") or isinstance(item, Image.Image):
        return item, None
    what = f"keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
    raise DataError(f'{what} given; expected an item (image, label), or {{"image": ..., "label": ...}}')


def _label_of(label: Any, classes: list[str]) -> int:
    """Return a dataset's label as a number; -1 where there is none."""
    if label is None:
        return -1
    if isinstance(label, str):
        if label in classes:
            return classes.index(label)
        raise DataError(f"label {label!r} given; expected a number, or a name among the dataset's `classes`")
    with contextlib.suppress(TypeError):
        return _checked_label(operator.index(label))
    try:
        number = float(label)
    except (TypeError, ValueError):
        raise DataError(
            f"a label of type {type(label).__name__} given; expected (image, label), with a number"
        ) from None
    if not number.is_integer():
        raise DataError(f"label {number} given; expected a whole number")
    return _checked_label(int(number))


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
    """Return a file's name as text: bytes in it that are not UTF-8, or are zero, become a replacement character."""
    return os.fsencode(name).decode("utf-8", "replace").replace("\0", "\ufffd")  # HDF5 ends a text at a zero

"""Several labels an image: a CSV table beside a dataset, and the dataset with these labels."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from deconvviz.data.datasets import Images, ImagesOfLabels, has_several_labels
from deconvviz.data.store_file import fingerprint_with
from deconvviz.errors import DataError, nearest
from deconvviz.notebook import Shown
from deconvviz.types import Ints, Mask, Pathlike, Picture
from deconvviz.words import counted

COLUMNS = ("image", "label")


@dataclass(frozen=True)
class LabelTable:
    """Which labels images have, from a CSV file with the columns image and label: a row for each label of an image.

    An image is called as in its dataset, such as dog/0003.jpg in a store that was packed from a folder.

    Attributes:
        path: of the file.
        labels: name of an image -> the names of its labels.
        fingerprint: SHA-256 in hex of the file's text.
    """

    path: pathlib.Path
    labels: Mapping[str, frozenset[str]]
    fingerprint: str

    @classmethod
    def read(cls, path: Pathlike) -> LabelTable:
        """Read a table.

        Raises:
            DataError: the file cannot be read, lacks a column or any row, or a row has no image or no label.
        """
        text = _text(pathlib.Path(path))
        reader = csv.DictReader(text.splitlines())
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path} has no column {missing[0]!r}; expected {' and '.join(COLUMNS)}, a row for each label"
            )
        labels: dict[str, set[str]] = {}
        for row in reader:
            image, label = ((row[name] or "").strip() for name in COLUMNS)
            if not image or not label:
                lacking = COLUMNS[0] if not image else COLUMNS[1]
                raise DataError(
                    f"{path}, line {reader.line_num}: no {lacking}; expected an image and one of its labels"
                )
            labels.setdefault(image, set()).add(label)
        if not labels:
            raise DataError(f"{path} holds no label; expected a row for each label of an image")
        frozen = {image: frozenset(names) for image, names in labels.items()}
        return cls(pathlib.Path(path), frozen, sha256(text.encode()).hexdigest())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all labels, sorted."""
        return tuple(sorted(frozenset[str]().union(*self.labels.values())))

    def check(self, *datasets: Images) -> None:
        """Raise DataError where the table has a row of an image that none of the datasets has."""
        names = [str(name) for images in datasets for name in images.names]
        other = self.row_of_none(names)
        if other is not None:
            raise self.unknown(other, names)

    def row_of_none(self, names: Sequence[str]) -> str | None:
        """Return the first image of the table that is not among these; None where all are."""
        known_names = set(names)
        return next((image for image in self.labels if image not in known_names), None)

    def unknown(self, image: str, names: Sequence[str]) -> DataError:
        """Return the error for a row of an image that is not among these."""
        return DataError(
            f"{self.path}: no image {image!r} among the {len(set(names))}; names are as packed, "
            f"{nearest(image, names[:2000])}"
        )


class SeveralLabels(Shown, drawn_by="draw_images"):
    """Images each of which may have several labels, as a table says.

    It is a dataset whose images have no single class: what tells classes apart refuses it, and `train` learns every
    label by itself.

    Attributes:
        images: the dataset that the table is about.
        table: which labels they have.
        classes: the names of the labels, sorted.
        targets: bool [N, classes], whether an image has a label; of an image without a row all are False.
        known: bool [N], whether the table has a row of an image; the others are left out of a training.
        labels: int64 [N], -1 everywhere: there is no single class.
        names: those of the dataset.
        fingerprint: SHA-256 in hex over that of the dataset, the labels and who has which; a store that the same table
            was packed into has the same one.

    Raises:
        DataError: no image of the dataset is in the table, or the dataset has several labels of its own.

    >>> import tempfile
    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = pathlib.Path(folder, "labels.csv")
    ...     _ = table.write_text("image,label\\n000000-bus.png,bus\\n000000-bus.png,red\\n000001-car.png,car\\n")
    ...     images = SeveralLabels(Scenes(3), LabelTable.read(table))
    >>> images.classes, images.targets.tolist()[:2], images.known.tolist()
    (('bus', 'car', 'red'), [[True, False, True], [False, True, False]], [True, True, False])
    """

    def __init__(self, images: Images, table: LabelTable) -> None:
        """Give images the labels of a table; the table may have rows of other images, see `LabelTable.check`."""
        if has_several_labels(images):
            raise DataError(
                f"{table.path} given for images that hold labels of their own; leave the table out, or pack the images "
                "without labels"
            )
        self.images, self.table, self.classes = images, table, table.classes
        self.channels, self.dtype = getattr(images, "channels", None), getattr(images, "dtype", np.dtype(np.uint8))
        self.names = tuple(map(str, images.names))
        columns = {name: place for place, name in enumerate(self.classes)}
        self.targets: Mask = np.zeros((len(images), len(self.classes)), bool)
        self.known: Mask = np.array([name in table.labels for name in self.names], bool)
        for place in np.flatnonzero(self.known):
            self.targets[place, [columns[label] for label in table.labels[self.names[place]]]] = True
        if not self.known.any():
            raise DataError(
                f"{table.path} has no row of any of these {counted(len(images), 'image')}; give their table"
            )
        self.labels: Ints = np.full(len(images), -1, np.int64)
        self.fingerprint = fingerprint_with(images.fingerprint, self.classes, self.targets)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index` [H, W, C], and -1: it has no single class."""
        return self.images[index][0], -1

    def __repr__(self) -> str:
        labelled = f"{int(self.known.sum())} with labels of {len(self.classes)}"
        return f"<SeveralLabels: {counted(len(self), 'image')}, {labelled}>"


def labelled(images: Images, table: LabelTable) -> ImagesOfLabels:
    """Return images with the labels of a table; a store that holds these labels already is returned as it is.

    Raises:
        DataError: no image is in the table, or the images hold labels of their own that differ from the table's.
    """
    if not has_several_labels(images):
        return SeveralLabels(images, table)
    place = getattr(images, "path", "the images")
    for index, name in enumerate(map(str, images.names)):
        labels_of_images = {images.classes[label] for label in np.flatnonzero(images.targets[index]).tolist()}
        labels_of_table = table.labels.get(name, frozenset())
        if labels_of_images != labels_of_table:
            ours, theirs = (", ".join(sorted(labels)) or "none" for labels in (labels_of_images, labels_of_table))
            raise DataError(
                f"{place} holds labels of its own, and {table.path} differs from them: {name} has {ours} there and "
                f"{theirs} in the table; leave --labels out, or pack the images without labels"
            )
    if tuple(images.classes) != table.classes:
        other_label = sorted({*images.classes} ^ {*table.classes})[0]
        raise DataError(
            f"{place} holds labels of its own, and {table.path} differs from them: {other_label!r} is only in one; "
            "leave --labels out, or pack the images without labels"
        )
    return images


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the labels in {path}: it is no text; expected a CSV file") from error
    except OSError as error:
        raise DataError(f"cannot read the labels in {path}: {error.strerror}; expected a CSV file") from error

"""Where an object and its parts are: masks of generated scenes, boxes from a table, or pictures of masks."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Protocol

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.data.decode import decode
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.errors import DataError
from deconvviz.types import Box, Mask, Pathlike

OBJECT = ""  # the name of the part that is the whole object
COLUMNS = ("image", "left", "top", "right", "bottom")  # of a table of boxes


class Truth(Protocol):
    """Known places of objects in images, in the pixels of the images as they are stored.

    Attributes:
        fingerprint: text that is equal for equal places.
    """

    fingerprint: str

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the masks of image `index`: part -> bool [H, W]; OBJECT is the whole. Empty where none is known."""


class SceneTruth:
    """The exact masks of generated scenes.

    Attributes:
        scenes: the dataset.
        fingerprint: that of the dataset.
    """

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.fingerprint = scenes, scenes.fingerprint

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the masks of the object and of its visible parts."""
        scene = self.scenes.scene(index)
        return {OBJECT: scene.mask, **scene.parts}


class BoxTruth:
    """Boxes from a CSV file with the columns image, left, top, right, bottom and perhaps part.

    The edges are pixels; right and bottom are exclusive. Several boxes of one part of an image are united.

    Attributes:
        path: of the table.
        images: the images that its lines name.
        boxes: index of an image -> (part, box) of each of its lines.
        fingerprint: SHA-256 in hex of the table's text.
    """

    def __init__(self, path: Pathlike, images: Images) -> None:
        """Read the table.

        Raises:
            DataError: the table cannot be read, lacks a column or any line, or a line has no valid box or names no
                image.
        """
        self.path, self.images = pathlib.Path(path), images
        text = _read_text(self.path)
        self.fingerprint = sha256(text.encode()).hexdigest()
        indices = {name: index for index, name in enumerate(images.names)}
        self.boxes: dict[int, list[tuple[str, Box]]] = {}
        reader = csv.DictReader(text.splitlines())
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; expected {', '.join(COLUMNS)} and perhaps part")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if row["image"] not in indices:
                raise DataError(f"{where}: no image {row['image']!r} among the {len(indices)}; names are as packed")
            self.boxes.setdefault(indices[row["image"]], []).append((row.get("part") or OBJECT, _box(row, where)))
        if not self.boxes:
            raise DataError(f"{path} holds no box; expected a line for each")

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the boxes of image `index` as masks; raises DataError where a box leaves the image."""
        masks: dict[str, Mask] = {}
        if index in self.boxes:
            height, width = self.images[index][0].shape[:2]
            for part, box in self.boxes[index]:
                if box.right > width or box.bottom > height:
                    name = self.images.names[index]
                    raise DataError(
                        f"{self.path}: a box of {name} ends at ({box.right}, {box.bottom}), the image is {width} x "
                        f"{height}; give pixels of the stored image"
                    )
                mask = masks.setdefault(part, np.zeros((height, width), bool))
                box.of(mask)[:] = True
        return masks


class MaskFolder:
    """A folder with pictures of masks: what is not black is the object.

    The mask of the image `cat/1.jpg` is the file `cat/1.png` below the folder. Images without a file are unknown.

    Attributes:
        images: the images that the masks belong to.
        files: index of an image -> path of its mask.
        fingerprint: SHA-256 in hex of the files' sizes.
    """

    def __init__(self, path: Pathlike, images: Images) -> None:
        """List the folder; raises DataError where it has a mask for no image."""
        self.images, folder = images, pathlib.Path(path)
        self.files = {
            index: file
            for index, name in enumerate(images.names)
            if (file := (folder / name).with_suffix(".png")).is_file()
        }
        if not self.files:
            raise DataError(
                f"no mask in {path}; expected {pathlib.Path(images.names[0]).with_suffix('.png')} and so on"
            )
        sizes = [f"{index} {file.stat().st_size}" for index, file in self.files.items()]
        self.fingerprint = sha256("\n".join(sizes).encode()).hexdigest()

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the mask of the object in image `index`; raises DataError where its size is not that of the image."""
        if index not in self.files:
            return {}
        mask: Mask = np.asarray(decode(self.files[index].read_bytes()).any(2))
        size = self.images[index][0].shape[:2]
        if mask.shape != size:
            raise DataError(
                f"{self.files[index]} is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]}"
            )
        return {OBJECT: mask}


def open_truth(source: Pathlike | None, images: Images) -> Truth | None:
    """Open what is known about where objects are.

    Args:
        source: a CSV file of boxes (see `BoxTruth`) or a folder of masks (see `MaskFolder`). None takes the exact
            masks of generated scenes.
        images: the images in which the objects are.

    Returns:
        The truth, or None where nothing is known.

    Raises:
        DataError: the source cannot be read, or does not belong to the images.

    >>> truth = open_truth(None, Scenes(10))
    >>> sorted(truth.masks(2))[:3], truth.masks(2)[OBJECT].shape
    (['', 'antennae', 'body'], (72, 72))
    """
    if source is None:
        return SceneTruth(images) if isinstance(images, Scenes) else None
    return MaskFolder(source, images) if pathlib.Path(source).is_dir() else BoxTruth(source, images)


def bounds(mask: Mask) -> Box:
    """Return the smallest box around a mask, bool [h, w], that is not empty.

    >>> bounds(np.array([[False, False, False], [False, True, True]]))
    Box(top=1, left=1, bottom=2, right=3)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _box(row: Mapping[str, str], where: str) -> Box:
    """Return the box of a line; `where` says in an error which line it is."""
    try:
        left, top, right, bottom = (int(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: left, top, right and bottom are whole numbers of pixels") from None
    if not (0 <= left < right and 0 <= top < bottom):
        raise DataError(f"{where}: the box ({left}, {top}, {right}, {bottom}) is empty or leaves the image")
    return Box(top, left, bottom, right)


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the boxes in {path}: it is no text; expected a CSV file") from error
    except OSError as error:
        raise DataError(f"cannot read the boxes in {path}: {error}; expected a CSV file") from error

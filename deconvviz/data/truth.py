"""Where the object and its parts are: masks of generated scenes, boxes from a table, or a folder of mask pictures."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.data.decode import decode
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.errors import DataError
from deconvviz.types import Box, Mask, Pathlike

OBJECT = ""  # the part that is the whole object
COLUMNS = ("image", "left", "top", "right", "bottom")


class Truth(Protocol):
    """Known places in images, in the pixels of the images as they are stored."""

    fingerprint: str

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return image `index`'s masks by part, bool [H, W]; OBJECT is the whole. Empty where nothing is known."""


class SceneTruth:
    """The exact masks of generated scenes."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.fingerprint = scenes, scenes.fingerprint

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the object's mask and those of its parts that are seen."""
        scene = self.scenes.scene(index)
        return {OBJECT: scene.mask, **scene.parts}


class BoxTruth:
    """Boxes from a CSV file with the columns image, left, top, right, bottom (pixels; right and bottom exclusive) and,
    if parts are meant, part. Several boxes of one part of one image are its union."""

    def __init__(self, path: Pathlike, images: Images) -> None:
        """Read the table; raises DataError for a line that is none, or names no image of `images`."""
        self.path, self.images = pathlib.Path(path), images
        text = _text(self.path)
        self.fingerprint = _digest(text)
        places = {name: index for index, name in enumerate(images.names)}
        self.boxes: dict[int, list[tuple[str, Box]]] = {}
        reader = csv.DictReader(text.splitlines())
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; expected {', '.join(COLUMNS)} and perhaps part")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if row["image"] not in places:
                raise DataError(f"{where}: no image {row['image']!r} among the {len(places)}; names are as packed")
            self.boxes.setdefault(places[row["image"]], []).append((row.get("part") or OBJECT, _box(row, where)))
        if not self.boxes:
            raise DataError(f"{path} holds no box; expected a line for each")

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the boxes as masks; raises DataError for one that leaves the image."""
        found: dict[str, Mask] = {}
        if index in self.boxes:
            height, width = self.images[index][0].shape[:2]
            for part, box in self.boxes[index]:
                if box.right > width or box.bottom > height:
                    name = self.images.names[index]
                    raise DataError(
                        f"{self.path}: a box of {name} ends at ({box.right}, {box.bottom}), the image is {width} x "
                        f"{height}; give pixels of the stored image"
                    )
                mask = found.setdefault(part, np.zeros((height, width), bool))
                box.of(mask)[:] = True
        return found


class MaskFolder:
    """A folder with a picture for each image, of its name with the ending .png; what is not black is the object."""

    def __init__(self, path: Pathlike, images: Images) -> None:
        """List the folder; raises DataError where it has no mask for any image."""
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
        self.fingerprint = _digest("\n".join(sizes))

    def masks(self, index: int) -> Mapping[str, Mask]:
        """Return the object's mask; raises DataError where its size is not the image's."""
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
    """Return what is known of where things are in `images`: of scenes their masks, else what `source` has.

    source: a CSV file of boxes or a folder of masks; None for none. Raises DataError as these do.
    """
    if source is None:
        return SceneTruth(images) if isinstance(images, Scenes) else None
    return MaskFolder(source, images) if pathlib.Path(source).is_dir() else BoxTruth(source, images)


def bounds(mask: Mask) -> Box:
    """Return the box around a mask [h, w] that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _box(row: Mapping[str, str], where: str) -> Box:
    try:
        left, top, right, bottom = (int(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: left, top, right and bottom are whole numbers of pixels") from None
    if not (0 <= left < right and 0 <= top < bottom):
        raise DataError(f"{where}: the box ({left}, {top}, {right}, {bottom}) is empty or leaves the image")
    return Box(top, left, bottom, right)


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the boxes in {path}: {error}; expected a CSV file") from error


def _digest(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()


__all__: Sequence[str] = ("OBJECT", "BoxTruth", "MaskFolder", "SceneTruth", "Truth", "bounds", "open_truth")

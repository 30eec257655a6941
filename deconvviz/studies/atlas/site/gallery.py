"""A gallery file as the site reads it: its numbers, and its pictures when they are needed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, one_line
from deconvviz.results.tiles import load_gallery
from deconvviz.web.scripts import folder_name

PICTURES = ("patches", "projections", "filters", "evolution/patches", "evolution/projections")
NEEDED = (
    *("channels", "values", "images", "positions", "boxes", "windows", "patches", "projections", "fired"),
    *("firing_rate", "maximum", "mean_activation", "dead", "top_class", "top_class_share", "neighbours"),
    *("similarity", "duplicate_of"),
)


@dataclass(frozen=True)
class Texts:
    """What the image store says of its images: names, labels int64 (-1 unknown) and the class names."""

    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]

    @cached_property
    def digest(self) -> str:
        """A sum that differs where any of them does."""
        found = sha256(np.asarray(self.labels, np.int64).tobytes())
        for text in (*self.names, "\0classes", *self.classes):
            found.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return found.hexdigest()


class Gallery:
    """The gallery of one layer; its pictures are read when they are asked for, and not kept.

    config, sources: as they stand in the file. arrays: every array but the pictures, by its name.
    shapes: of the pictures that it has. Raises DataError where the file is missing, of another kind, or without one of
    the arrays.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = pathlib.Path(path)
        found = load_gallery(path)
        missing = [name for name in NEEDED if name not in found.arrays]
        if missing:
            raise DataError(f"{path} has no {', '.join(missing)}; make the gallery of this layer again")
        self.config, self.sources = found.config, found.sources
        self.shapes = {name: tuple(found.arrays[name].shape) for name in PICTURES if name in found.arrays}
        self.arrays: dict[str, NDArray[Any]] = {n: a for n, a in found.arrays.items() if n not in PICTURES}

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return str(self.config["layer"])

    @property
    def folder(self) -> str:
        """Name of the folder that its part of the site stands in."""
        return folder_name(int(self.config["depth"]), self.layer)

    def __len__(self) -> int:
        return len(self.arrays["channels"])

    def pictures(self) -> dict[str, Any]:
        """Read the pictures: name -> what gives uint8 [n, ...] for a slice or a list of rows."""
        arrays = load_gallery(self.path).arrays
        return {name: arrays[name] for name in self.shapes}

    def used(self) -> NDArray[np.int64]:
        """Return the images that its filters show, ascending."""
        shown = np.unique(np.append(self.arrays["images"], self.arrays.get("occlusion/image", -1)))
        return np.asarray(shown[shown >= 0], np.int64)

    def below(self, group: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a group, by the rest of their name."""
        return {n.split("/", 1)[1]: a for n, a in self.arrays.items() if n.startswith(group + "/")}


def file_digest(path: Pathlike) -> str:
    """Return the sha256 of a file; raises DataError where it cannot be read."""
    found = sha256()
    try:
        with pathlib.Path(path).open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
    except OSError as error:
        raise DataError(f"cannot read {path}: {one_line(error)}; make it again") from error
    return found.hexdigest()

"""Labelled images from wherever they are: a packed store, a folder of classes, or generated scenes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.decode import decode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import folder_source
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, one_line

SCENES = 8000


class Images(Protocol):
    """Labelled images in a fixed order: an `ImageStore`, a `Folder` or `Scenes`."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names; empty where none were given."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], an index into the classes, -1 where unknown."""

    @property
    def names(self) -> Sequence[str]:
        """N names, each another."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.uint8], int]: ...


class Folder:
    """The images below a folder, its sub-folders being the classes, read as they are needed.

    The fingerprint covers names, labels and file sizes, not the pixels: to read a large folder for it would take as
    long as to pack it.
    """

    def __init__(self, path: Pathlike) -> None:
        """List the folder; raises DataError where it cannot be read or holds no image."""
        found = folder_source(pathlib.Path(path))
        entries = list(found.entries)
        if not entries:
            raise DataError(f"no image in {path}; expected a folder for each class, with images in it")
        self.path = pathlib.Path(path).resolve()
        self.classes = tuple(found.classes)
        self.names = tuple(entry.name for entry in entries)
        self.labels = np.array([entry.label for entry in entries], np.int64)
        self._files: list[pathlib.Path] = [entry.content for entry in entries]
        digest = sha256()
        for entry, file in zip(entries, self._files, strict=True):
            digest.update(f"{entry.name}\0{entry.label}\0{file.stat().st_size}\0".encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image `index` as uint8 [H,W,3] and its label; raises DataError where the file cannot be read."""
        try:
            return decode(self._files[index].read_bytes()), int(self.labels[index])
        except (OSError, DataError) as error:
            raise DataError(
                f"cannot read {self._files[index]}: {one_line(error)}; remove it, or `deconvviz pack` the folder, "
                "which leaves out what cannot be read"
            ) from error

    def __repr__(self) -> str:
        return f"<Folder {self.path}: {len(self)} images, {len(self.classes)} classes>"


class Part:
    """Some images of a dataset, in the order given.

    images: the whole; chosen: int64 [n], which of them. Raises DataError where there are none.
    """

    def __init__(self, images: Images, chosen: NDArray[np.int64]) -> None:
        if not len(chosen):
            raise DataError("no image left in this part; give more images, or another share")
        self.images, self.chosen, self.classes = images, np.asarray(chosen, np.int64), images.classes
        self.labels, self.names = images.labels[self.chosen], tuple(images.names[i] for i in self.chosen.tolist())
        self.fingerprint = sha256(images.fingerprint.encode() + self.chosen.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return image `index` of the part, uint8 [H,W,3], and its label."""
        return self.images[int(self.chosen[index])]

    def __repr__(self) -> str:
        return f"<Part: {len(self)} of {len(self.images)} images>"


def open_images(source: Any) -> Images:
    """Open labelled images.

    source: the path of a packed store or of a folder with a sub-folder for each class, "scenes[:COUNT[:SEED]]" for
    generated ones, or something that has what `Images` has. Raises DataError for anything else.
    """
    if not isinstance(source, str | pathlib.Path):
        return source  # type: ignore[no-any-return]
    scenes = parse_scenes(str(source))
    if scenes is not None:
        return scenes
    return Folder(source) if pathlib.Path(source).is_dir() else ImageStore.open(source)


def parse_scenes(text: str) -> Scenes | None:
    """Return the scenes that "scenes[:COUNT[:SEED]]" names, None for another text; raises DataError for bad numbers."""
    name, *numbers = text.split(":")
    if name != "scenes":
        return None
    if len(numbers) > 2 or not all(number.isdigit() for number in numbers):
        raise DataError(f"{text!r} given; expected scenes, scenes:COUNT or scenes:COUNT:SEED, such as scenes:2000")
    count, seed = (int(number) for number in (*numbers, *(str(SCENES), "0")[len(numbers) :]))
    return Scenes(count, seed=seed)

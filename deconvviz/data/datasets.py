"""Labelled images from wherever they are: a packed store, a folder of classes, or generated scenes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Protocol, TypeGuard

import numpy as np

from deconvviz.data.decode import decode
from deconvviz.data.gpu_decoding import PREFIX, DecodedOnDevice
from deconvviz.data.images import ImageStore
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.data.shards import is_sharded
from deconvviz.data.sources import folder_source
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.results.files import one_line
from deconvviz.types import Ints, Mask, Pathlike, Picture
from deconvviz.words import counted

SCENES = 8000  # how many "scenes" are without a number


class Images(Protocol):
    """Labelled images in a fixed order, as an `ImageStore`, a `Folder`, `Scenes` or `InMemoryImages` holds them.

    Every function of the package that takes images takes any object with these members. An image is uint8, uint16 or
    float32 [H, W, C]. Where the object has the attributes `channels` and `dtype` too, images that do not fit a network
    are refused before any is read.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The class names; empty where none were given."""

    @property
    def labels(self) -> Ints:
        """int64 [N], an index into the classes, -1 where unknown."""

    @property
    def names(self) -> Sequence[str]:
        """N distinct names."""

    @property
    def fingerprint(self) -> str:
        """Text that is equal for equal content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Picture, int]: ...


class ImagesOfLabels(Images, Protocol):
    """Images each of which may have several labels, as `SeveralLabels` or a store that was packed with them.

    Their `classes` are the names of the labels, and their `labels` are -1: there is no single class.
    """

    @property
    def targets(self) -> Mask:
        """bool [N, classes], whether an image has a label."""

    @property
    def known(self) -> Mask:
        """bool [N], whether the labels of an image are known; of others all targets are False."""


def has_several_labels(images: Images) -> TypeGuard[ImagesOfLabels]:
    """Return whether images have several labels each, and no single class.

    >>> has_several_labels(Scenes(3))
    False
    """
    return getattr(images, "known", None) is not None and getattr(images, "targets", None) is not None


class Folder(Shown, drawn_by="draw_images"):
    """The images below a folder, whose sub-folders are the classes; an image is read when it is asked for.

    Attributes:
        path: absolute path of the folder.
        classes: the sorted names of the sub-folders.
        names: N paths relative to the folder, sorted.
        labels: int64 [N], an index into the classes, -1 for images directly in the folder.
        fingerprint: SHA-256 in hex over names, labels and file sizes. It does not cover the pixels: reading a large
            folder for it would take as long as packing it.
        channels: 3: files of pictures are read as colours.

    Raises:
        DataError: the folder cannot be read, or no image is in it.
    """

    channels = 3

    def __init__(self, path: Pathlike) -> None:
        """List a folder; no image is read yet."""
        source = folder_source(pathlib.Path(path))
        entries = list(source.entries)
        if not entries:
            raise DataError(f"no image in {path}; expected images in it, or a folder of images for each class")
        self.path = pathlib.Path(path).resolve()
        self.classes = tuple(source.classes)
        self.names = tuple(entry.name for entry in entries)
        self.labels: Ints = np.array([entry.label for entry in entries], np.int64)
        self._files: list[pathlib.Path] = [entry.content for entry in entries]
        digest = sha256()
        for entry, file in zip(entries, self._files, strict=True):
            digest.update(f"{entry.name}\0{entry.label}\0{file.stat().st_size}\0".encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index`, uint8 or uint16 [H, W, 3], and its label; DataError where the file cannot be read."""
        try:
            return decode(self._files[index].read_bytes()), int(self.labels[index])
        except (OSError, DataError) as error:
            raise DataError(
                f"cannot read {self._files[index]}: {one_line(error)}; remove it, or `deconvviz pack` the folder, "
                "which leaves out what cannot be read"
            ) from error

    def __repr__(self) -> str:
        return f"<Folder {self.path}: {counted(len(self), 'image')}, {counted(len(self.classes), 'class')}>"


class Part(Shown, drawn_by="draw_images"):
    """Some images of a dataset, as a dataset of their own.

    Attributes:
        images: the whole dataset.
        indices: int64 [n], the images of the whole that belong to the part, in the part's order.
        classes: the class names of the whole.
        labels: int64 [n], an index into the classes, -1 where unknown.
        names: n distinct names.
        fingerprint: SHA-256 in hex over the whole's fingerprint and the indices.
        channels: number of channels of the images, None where the whole does not tell it.
        dtype: of the images' values.
        targets: of images with several labels bool [n, classes], whether an image has a label; None otherwise.
        known: of images with several labels bool [n], whether those of an image are known; None otherwise.

    Raises:
        DataError: no image belongs to the part.

    >>> part = Part(Scenes(20), np.array([7, 2]))
    >>> len(part), part.names
    (2, ('000007-cat.png', '000002-butterfly.png'))
    """

    def __init__(self, images: Images, indices: Sequence[int] | Ints) -> None:
        """Take the images with these indices."""
        if not len(indices):
            raise DataError("no image left in this part; give more images, or another share")
        self.images, self.indices, self.classes = images, np.asarray(indices, np.int64), images.classes
        self.channels, self.dtype = getattr(images, "channels", None), getattr(images, "dtype", np.dtype(np.uint8))
        self.labels, self.names = images.labels[self.indices], tuple(images.names[i] for i in self.indices.tolist())
        self.targets: Mask | None = None
        self.known: Mask | None = None
        if has_several_labels(images):
            self.targets, self.known = images.targets[self.indices], images.known[self.indices]
        self.fingerprint = sha256(images.fingerprint.encode() + self.indices.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image `index` of the part [H, W, C], and its label."""
        return self.images[int(self.indices[index])]

    def __repr__(self) -> str:
        return f"<Part: {len(self)} of {counted(len(self.images), 'image')}>"


def labels_of(images: Images) -> Ints:
    """Return the label of each image, int64 [N]; -1 for all where the dataset has none."""
    labels = getattr(images, "labels", None)
    return np.full(len(images), -1, np.int64) if labels is None else np.asarray(labels, np.int64)


def place_of(images: Images) -> dict[str, str]:
    """Return where images are, for the sources of a result; nothing for those that were in memory.

    >>> place_of(Scenes(3, seed=7)), place_of(Scenes(3, size=64))
    ({'images': 'scenes:3:7'}, {})
    """
    if isinstance(images, Scenes):
        text = name_of_store(images)  # which says nothing of the size
        again = parse_scenes(text)
        return {"images": text} if again is not None and again.size == images.size else {}
    path = getattr(images, "path", None)
    if path is None:
        return {}
    return {"images": getattr(images, "source", None) or str(pathlib.Path(path).resolve())}


def limited(count: int, limit: int | None) -> dict[str, str]:
    """Return what a result notes of which part of a dataset it is of: nothing where it is of all.

    Results of earlier versions, which took the first images, have no such note, and are not mixed with later ones.
    """
    return {} if limit is None or limit >= count else {"part": "spread over the classes"}


def open_images(source: Any) -> Images:
    """Open labelled images.

    Args:
        source: the path of a packed store (a file, or a folder of shards), "gpu:" before it for one whose JPEG files a
            GPU decodes (see `data.gpu_decoding`), the path of a folder with a sub-folder for each class,
            "scenes[:COUNT[:SEED]]" for generated pictures, or a dataset, which is returned as it is.

    Raises:
        DataError: the source does not exist, or is of another kind.

    >>> open_images("scenes:50:1")
    Scenes(count=50, size=72, seed=1)
    """
    if not isinstance(source, str | pathlib.Path):
        return source  # type: ignore[no-any-return]
    is_folder_of_images = pathlib.Path(source).is_dir() and not is_sharded(source)
    return Folder(source) if is_folder_of_images else open_store(source)


Store = ImageStore | DecodedOnDevice | Scenes


def open_store(source: Pathlike) -> Store:
    """Open a packed store: its path, "gpu:PATH" for one whose JPEG files a GPU decodes, or scenes, which need none.

    Raises:
        DataError: it is missing, truncated, foreign or too new; or it has to be decoded on a GPU and there is none.
    """
    scenes = parse_scenes(str(source))
    if scenes is not None:
        return scenes
    path = str(source).removeprefix(PREFIX)
    store = ImageStore.open(path)
    return store if path == str(source) else DecodedOnDevice(store)


def name_of_store(store: Store) -> str:
    """Return what opens a store again: its path, or scenes:COUNT:SEED.

    >>> name_of_store(Scenes(3, seed=7))
    'scenes:3:7'
    """
    return f"scenes:{store.count}:{store.seed}" if isinstance(store, Scenes) else str(store.path)


def parse_scenes(text: str) -> Scenes | None:
    """Return the scenes that a text asks for, or None where it does not begin with "scenes".

    Args:
        text: "scenes", "scenes:COUNT" or "scenes:COUNT:SEED".

    Raises:
        DataError: count or seed is not a whole number, or out of range.

    >>> parse_scenes("scenes:2000"), parse_scenes("photos.h5")
    (Scenes(count=2000, size=72, seed=0), None)
    """
    name, *numbers = text.split(":")
    if name != "scenes":
        return None
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise DataError(f"{text!r} given; expected scenes, scenes:COUNT or scenes:COUNT:SEED, such as scenes:2000")
    count, seed = (int(number) for number in (*numbers, *(str(SCENES), "0")[len(numbers) :]))
    return Scenes(count, seed=seed)

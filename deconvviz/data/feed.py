"""Feed: the one loop from the indices of images to batches that a network takes."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.arrays import evenly, stacked
from deconvviz.data.blocks import BLOCK, Unusable, filled_batches, readers
from deconvviz.data.parallel import cores, in_order, worked_ahead
from deconvviz.data.picture_memory import PictureMemory
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.transfer import Transfer
from deconvviz.errors import DataError
from deconvviz.types import Ints, Picture, Pixels

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images


ENLARGED = 2  # times: beyond that, images are hardly those that the network was trained on
SIZES, READ = 100, 5  # images whose sizes are looked at; where no sizes are known, so many are read for it
OWN_SIZE = (
    "if it was trained on images of their own size, say so with --input and --resize, and with --mean and --std how "
    "they were normalised"
)


@dataclass(frozen=True)
class Enlargement:
    """How much images are enlarged for a network.

    Attributes:
        factor: by how much; below 1 where they are reduced.
        height: median height of the images in pixels.
        width: median width in pixels.
    """

    factor: float
    height: int
    width: int

    def __str__(self) -> str:
        return f"images of {self.width} x {self.height} px are enlarged {self.factor:.1f} times for this network"


def enlargement(images: Images, preprocess: Preprocess, indices: Ints) -> Enlargement | None:
    """Return how much most of some images are enlarged: far enlarged, the network sees a blur. None for no images.

    Args:
        images: the dataset. Where it has no `sizes`, a few of the images are read.
        preprocess: how an image becomes the network's input.
        indices: int64 [n], the images that are meant.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> str(enlargement(Scenes(6), Preprocess(resize=216, crop=200), np.arange(6)))
    'images of 72 x 72 px are enlarged 3.0 times for this network'
    """
    if not len(indices):
        return None
    sizes = getattr(images, "sizes", None)
    some = indices[evenly(len(indices), READ if sizes is None else SIZES)]
    sides = [images[int(index)][0].shape[:2] for index in some] if sizes is None else np.asarray(sizes)[some]
    height, width = (int(side) for side in np.median(sides, 0))
    factor = min(a / b for a, b in zip(preprocess.resized(height, width), (height, width), strict=True))
    return Enlargement(factor, height, width)


class PictureBatch(NamedTuple):
    """Some pictures of a feed.

    Attributes:
        places: int64 [n], the places of the pictures in the feed.
        pictures: uint8, uint16 or float32 [n, h, w, C], as the network sees them.
        left_out: name -> reason of each image of the batch that cannot be used; see `Feed.batches`.
    """

    places: Ints
    pictures: Picture
    left_out: Mapping[str, str] = {}


class InputBatch(NamedTuple):
    """Some pictures of a feed on the device of a network.

    Attributes:
        places: int64 [n], the places of the pictures in the feed, on the host.
        images: int64 [n], the indices of the pictures in the dataset, on the device.
        pictures: uint8, uint16 or float32 [n, h, w, C], as the network sees them, on the device; `Feed.tensor`
            normalises them.
        left_out: name -> reason of each image of the batch that cannot be used; see `Feed.batches`.
    """

    places: Ints
    images: Tensor
    pictures: Tensor
    left_out: Mapping[str, str] = {}


class _Part(NamedTuple):
    """The pictures of a batch, one by one or stacked on the host; attributes as in `PictureBatch`."""

    places: Ints
    pictures: list[Picture] | Tensor
    left_out: Mapping[str, str]


class Feed:
    """Some images of a dataset in a fixed order, prepared for a network.

    Images are decoded in threads while earlier ones are computed with, and a job that was interrupted resumes where it
    stopped. Pillow decodes and resizes without Python's lock. A place is an index into
    the feed; `indices` says which image of the dataset is at each place.

    Attributes:
        images: the dataset.
        preprocess: how an image becomes the network's input.
        indices: int64 [n], the images in the order in which they are fed.
        workers: number of threads that decode images.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> feed = Feed(Scenes(6), Preprocess(resize=32, crop=32), indices=[4, 0, 2])
    >>> [(batch.places.tolist(), batch.pictures.shape) for batch in feed.batches(2)]
    [([0, 1], (2, 32, 32, 3)), ([2], (1, 32, 32, 3))]
    """

    def __init__(
        self,
        images: Images,
        preprocess: Preprocess,
        indices: Sequence[int] | Ints | range | None = None,
        *,
        workers: int | None = None,
        memory: int = 0,
    ) -> None:
        """Make a feed; nothing is read yet.

        Args:
            images: the dataset.
            preprocess: how an image becomes the network's input.
            indices: int64 [n], the images to feed, in this order; by default all of them.
            workers: number of threads that decode images; by default as many as there are processors.
            memory: bytes of decoded pictures that are kept, so that they need not be decoded again. Where not all
                pictures fit, those that were used last are kept.

        Raises:
            DataError: the images have another number of channels than the network takes, or values of another kind.
        """
        channels = getattr(images, "channels", None)  # a dataset of the user's own may not tell it
        if channels is not None:
            preprocess.check_images(channels, getattr(images, "dtype", np.dtype(np.uint8)))
        self.images, self.preprocess, self.workers = images, preprocess, workers or cores()
        self.indices: Ints = np.arange(len(images)) if indices is None else np.asarray(indices, np.int64)
        self._memory = PictureMemory(memory)
        self._note_enlargement()

    def _note_enlargement(self) -> None:
        """Warn where most images are far smaller than what they are resized to; no image is read for it."""
        if not hasattr(self.images, "sizes"):
            return
        measured = enlargement(self.images, self.preprocess, self.indices)
        if measured is not None and measured.factor > ENLARGED:
            warnings.warn(f"{measured}; {OWN_SIZE}", stacklevel=3)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Ints:
        """int64 [n], the class of each image, -1 where it is unknown."""
        return np.asarray(self.images.labels, np.int64)[self.indices]

    def name(self, place: int) -> str:
        """Return the name of the image at a place."""
        return str(self.images.names[int(self.indices[place])])

    def picture(self, place: int) -> Picture:
        """Return the picture at a place as the network sees it, [h, w, C]. It may be kept: do not change it."""
        index = int(self.indices[place])
        try:
            return self._memory.get(index, lambda: self.preprocess.picture(self.images[index][0]))
        except DataError as error:
            raise DataError(f"image {self.name(place)} cannot be used: {error}; leave it out of the images") from error

    def pictures(self, places: Sequence[int] | NDArray[np.integer]) -> Picture:
        """Return the pictures at some places, uint8, uint16 or float32 [n, h, w, C]."""
        return stacked([self.picture(int(place)) for place in places])

    def display(self, place: int) -> Pixels:
        """Return the picture at a place as figures show it, uint8 [h, w, 3]."""
        return self.preprocess.display(self.picture(place))

    def batches(
        self,
        size: int,
        order: Sequence[int] | NDArray[np.integer] | None = None,
        start: int = 0,
        tolerant: bool = False,
    ) -> Iterator[PictureBatch]:
        """Yield pictures batch by batch, while the next ones are decoded.

        Args:
            size: pictures in a batch; the last batch may have fewer.
            order: int64 [m], the places to feed, in this order; by default all of them.
            start: number of places at the beginning of the order that are left out, because a job that was
                interrupted has done them.
            tolerant: whether an image that cannot be used is left out of its batch, and named there; otherwise it ends
                the job.

        Raises:
            DataError: an image cannot be used, and `tolerant` is not set; the message names it.
        """
        transfer = Transfer("cpu")
        for places, pictures, left_out in self._parts(transfer, size, order, start, tolerant):
            yield PictureBatch(places, transfer.stacked(pictures, self._empty).numpy(), left_out)

    def on_device(
        self,
        size: int,
        device: torch.device | str,
        order: Sequence[int] | NDArray[np.integer] | None = None,
        start: int = 0,
        tolerant: bool = False,
    ) -> Generator[InputBatch]:
        """Yield pictures on a device batch by batch; the next batch is decoded and sent while one is computed with.

        On a GPU they travel as they are stored, mostly uint8, from pinned memory, on a stream of their own, and nothing
        waits on the host. Up to two batches are in memory beside the one that is used.

        Arguments and errors are those of `batches`.
        """
        transfer = Transfer(device)
        parts = self._parts(transfer, size, order, start, tolerant)

        def sent() -> Iterator[tuple[_Part, Callable[[], tuple[Tensor, ...]]]]:
            with contextlib.closing(parts):
                for part in parts:
                    pictures = transfer.stacked(part.pictures, self._empty)
                    yield part, transfer.send(pictures, torch.from_numpy(self.indices[part.places]))

        with contextlib.closing(worked_ahead(sent())) as batches:
            for part, received in batches:
                pictures, images = received()
                yield InputBatch(part.places, images, pictures, part.left_out)

    def _empty(self) -> Picture:
        """Return no picture, for a batch of which all were left out."""
        return np.zeros((0, *self.preprocess.shape[1:], self.preprocess.shape[0]), np.uint8)

    def _parts(
        self,
        transfer: Transfer,
        size: int,
        order: Sequence[int] | NDArray[np.integer] | None,
        start: int,
        tolerant: bool,
    ) -> Generator[_Part]:
        places = (np.arange(len(self)) if order is None else np.asarray(order, np.int64))[start:]
        several = getattr(self.images, "several", None)
        if several is not None and not self._memory.limit:
            yield from self._parts_in_blocks(several, transfer, size, places, tolerant)
            return
        pictures = self._one_by_one(places, tolerant)
        with contextlib.closing(pictures):
            for first in range(0, len(places), size):
                part = places[first : first + size]
                made = list(zip(part.tolist(), islice(pictures, len(part)), strict=True))
                left_out = {self.name(place): str(reason) for place, reason in made if isinstance(reason, DataError)}
                usable = [(place, picture) for place, picture in made if not isinstance(picture, DataError)]
                ours = np.array([place for place, _ in usable], np.int64)
                yield _Part(ours, [picture for _, picture in usable], left_out)

    def _one_by_one(self, places: Ints, tolerant: bool) -> Generator[Picture | DataError]:
        """Yield the picture at each place, or, if tolerant, why it cannot be used."""
        read = self._picture_or_reason if tolerant else self.picture
        decoded = getattr(self.images, "decoded", None)
        if decoded is None or self._memory.limit:
            yield from in_order(read, map(int, places), self.workers)
            return

        def read_block(some: Ints) -> list[Picture | DataError]:
            try:
                return [self.preprocess.picture(image) for image in decoded(self.indices[some])]
            except DataError:  # one of them is damaged: which one shows where each is read alone
                return [read(place) for place in some.tolist()]

        blocks = (places[first : first + BLOCK] for first in range(0, len(places), BLOCK))
        with contextlib.closing(in_order(read_block, blocks, self.workers)) as read_blocks:
            yield from chain.from_iterable(read_blocks)

    def _parts_in_blocks(
        self,
        several: Callable[[Ints, Pixels | None], Pixels],
        transfer: Transfer,
        size: int,
        places: Ints,
        tolerant: bool,
    ) -> Generator[_Part]:
        """Yield the batches of a store of pixels: threads read many images in one call, and put them where they belong.

        Memory that is new costs as much as reading into it, so that each thread reads into the same room again.
        """
        rooms, shape = threading.local(), self._empty().shape[1:]
        side = tuple(self.images.sizes[0]) if len(places) else ()  # type: ignore[attr-defined]

        def fill(some: Ints, batch: Tensor) -> Unusable:
            if not hasattr(rooms, "room"):
                rooms.room = np.empty((BLOCK, *side, 3), np.uint8)
            try:
                pictures = self.preprocess.pictures(several(self.indices[some], rooms.room[: len(some)]))
            except DataError:  # one of them is damaged: which one shows where each is read alone
                return self._filled_one_by_one(some, batch, tolerant)
            for row, picture in zip(batch.numpy(), pictures, strict=True):
                row[:] = picture
            return {}

        def room(count: int) -> Tensor:
            return transfer.room((count, *shape))

        workers = min(self.workers, readers(cores()))
        with contextlib.closing(filled_batches(fill, places, size, room, workers)) as batches:
            for batch in batches:
                left_out = {self.name(place): str(reason) for place, reason in batch.unusable.items()}
                yield _Part(*batch.usable(), left_out)

    def _filled_one_by_one(self, some: Ints, batch: Tensor, tolerant: bool) -> Unusable:
        unusable: dict[int, DataError] = {}
        for place, row in zip(some.tolist(), batch.numpy(), strict=True):
            picture = self._picture_or_reason(place) if tolerant else self.picture(place)
            if isinstance(picture, DataError):
                unusable[place] = picture
            else:
                row[:] = picture
        return unusable

    def _picture_or_reason(self, place: int) -> Picture | DataError:
        try:
            return self.picture(place)
        except DataError as error:
            return error

    def tensor(
        self, pictures: Picture | Tensor, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return pictures, [n, h, w, C], as inputs of the network: `dtype` [n, C, h, w] on a device."""
        return self.preprocess.tensor(pictures, device, dtype)

    def tensors(
        self,
        size: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        order: Sequence[int] | NDArray[np.integer] | None = None,
        start: int = 0,
    ) -> Iterator[tuple[Ints, Tensor]]:
        """Yield (places int64 [n], inputs `dtype` [n, C, h, w] on a device) batch by batch; see `on_device`."""
        for batch in self.on_device(size, device, order, start):
            yield batch.places, self.preprocess.tensor(batch.pictures, dtype=dtype)

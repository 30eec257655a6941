"""Choices among images: a part held out for validation, random crops, the mean colour, some images of every class.

Everything random is drawn from a seed, and never from a generator that other draws have moved on. A training that was
killed and resumed therefore draws the same as one that was not.
"""

from __future__ import annotations

import numpy as np

from deconvviz.arrays import PEAKS, evenly
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.types import Floats, Ints, Picture

MEMORY = 2 << 30  # bytes of decoded pictures that a job keeps, where all of them fit


def split(labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Split the labelled images at random into training and validation, the same share of every class.

    Args:
        labels: int64 [N], -1 where the class is unknown; such images are in neither part.
        share: of each class that is held out, from 0 to below 1.
        seed: of the choice.

    Returns:
        Two ascending int64 arrays of indices: to train on, and held out.

    Raises:
        DataError: a part would be empty.

    >>> training, validation = split(np.array([0, 0, 0, 0, 1, 1, 1, 1, -1]), 0.25, seed=0)
    >>> len(training), len(validation)
    (6, 2)
    """
    rng = np.random.default_rng([seed, 1])
    held_out: list[Ints] = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        held_out.append(rng.permutation(members)[: round(share * len(members))])
    validation = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, np.int64)
    training = np.setdiff1d(np.flatnonzero(labels >= 0), validation)
    if not len(training) or (share > 0 and not len(validation)):
        raise DataError(
            f"{int((labels >= 0).sum())} of {len(labels)} images have a class; a share of {share:g} leaves "
            f"{len(training)} to train on and {len(validation)} to validate: expected some of each; hold out a larger "
            "share of the images, or none (0)"
        )
    return training, validation


def random_crops(pictures: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Cut a random square out of each picture, and mirror it with a probability of one half.

    Args:
        pictures: [n, h, w, C].
        side: of the squares, in pixels.
        rng: where places and mirroring are drawn from.

    Returns:
        [n, side, side, C], of the same type.

    >>> random_crops(np.zeros((4, 30, 40, 3), np.uint8), 24, np.random.default_rng(0)).shape
    (4, 24, 24, 3)
    """
    count, height, width, _ = pictures.shape
    tops, lefts = rng.integers(0, height - side + 1, count), rng.integers(0, width - side + 1, count)
    steps = np.where(rng.random(count) < 0.5, -1, 1)
    crops = (
        picture[top : top + side, left : left + side][:, ::step]
        for picture, top, left, step in zip(pictures, tops, lefts, steps, strict=True)
    )
    return np.stack(list(crops))


def mean_colour(feed: Feed, seed: int, count: int = 1000) -> tuple[float, float, float]:
    """Return the mean of each colour channel over pictures of a feed.

    Args:
        feed: the pictures.
        seed: of the choice of pictures.
        count: pictures that are looked at, at most.

    Returns:
        Red, green and blue in 0..1, rounded to four digits.
    """

    def mean_of(picture: Picture) -> Floats:
        values: Floats = picture.mean((0, 1), dtype=np.float64) / (PEAKS[str(picture.dtype)] or 1)
        return values

    rng = np.random.default_rng([seed, 2])
    places = np.sort(rng.permutation(len(feed))[:count])
    total = sum(mean_of(feed.picture(int(place))) for place in places) / len(places)
    red, green, blue = (round(float(value), 4) for value in np.asarray(total))
    return red, green, blue


def room_for(count: int, height: int, width: int, pixel: int = 3) -> int:
    """Return how many bytes a feed may keep: MEMORY where all pictures fit in it, else 0.

    Keeping a part of them would help little: each epoch has another order.

    Args:
        count: number of pictures.
        height: of a picture in pixels.
        width: of a picture in pixels.
        pixel: bytes of a pixel.

    >>> room_for(1000, 224, 224) // 2**30, room_for(1_000_000, 224, 224)
    (2, 0)
    """
    return MEMORY if count * height * width * pixel <= MEMORY else 0


def bytes_of_pixel(images: Images) -> int:
    """Return how many bytes a pixel of some images has; those that do not tell are 8-bit colours.

    >>> from deconvviz.data.memory import InMemoryImages
    >>> bytes_of_pixel(InMemoryImages(np.zeros((1, 4, 4, 6), np.uint16)))
    12
    """
    channels, dtype = getattr(images, "channels", None), getattr(images, "dtype", np.uint8)
    return int((channels or 3) * np.dtype(dtype).itemsize)


def spread(labels: Ints, count: int) -> Ints:
    """Choose a part of some images that is spread over them: as many of each class, and evenly within it.

    Stores are often packed class by class, so that their first images are all of one class. Where fewer images are
    left to choose than there are classes that have more, these classes are evenly spread. Within a class of n images of
    which q are chosen, they are one of each of q equal parts: the later the class, the later in the part.

    Args:
        labels: int64 [N], the class of each image; images of unknown class (-1) count as one class.
        count: number of images; all are chosen where there are fewer.

    Returns:
        int64 [min(count, N)], indices of images, ascending.

    >>> spread(np.array([0, 0, 0, 1, 1, 2, 2]), 4), spread(np.full(10, -1), 4)
    (array([0, 1, 4, 6]), array([1, 3, 6, 8]))
    """
    labels = np.asarray(labels)
    if count >= len(labels):
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    quotas = np.zeros(len(sizes), np.int64)
    while quotas.sum() < count:
        having_more = np.flatnonzero(sizes > quotas)
        left = count - int(quotas.sum())
        share = min(left // len(having_more), int((sizes - quotas)[having_more].min()))
        if share:
            quotas[having_more] += share
        else:
            quotas[having_more[evenly(len(having_more), left)]] += 1
    chosen = []
    for rank, (start, size, quota) in enumerate(zip(first, sizes, quotas, strict=True)):
        phase = (rank + 0.5) / len(sizes)  # so that classes that take turns do not give neighbours
        chosen.append(order[start + ((np.arange(quota) + phase) * size / max(quota, 1)).astype(np.int64)])
    return np.sort(np.concatenate(chosen))

"""What a training draws of its images: a part held out, the order of an epoch, crops and flips, the mean colour.

Everything that is random is drawn from an address, such as (seed, epoch), and never from what came before. So a
training that was killed and resumed draws the same as one that was not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvviz.arrays import evenly
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.types import Ints, Pixels

MEMORY = 2 << 30  # bytes of decoded pictures that a training keeps, where all of them fit


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
            f"{len(training)} to train on and {len(validation)} to validate: expected some of each"
        )
    return training, validation


def random_crops(pictures: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """Cut a random square out of each picture and flip every second one, by chance.

    Args:
        pictures: uint8 [n, h, w, 3].
        side: of the squares, in pixels.
        rng: where places and flips are drawn from.

    Returns:
        uint8 [n, side, side, 3].
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
    """Return the mean of each channel, in 0..1, over at most `count` pictures of a feed."""
    rng = np.random.default_rng([seed, 2])
    places = np.sort(rng.permutation(len(feed))[:count])
    total = sum(feed.picture(int(place)).mean((0, 1)) for place in places) / len(places) / 255
    red, green, blue = (round(float(value), 4) for value in np.asarray(total))
    return red, green, blue


def room_for(feed_length: int, height: int, width: int) -> int:
    """Return how many bytes of pictures a training keeps: all of them, or none where they do not fit in MEMORY."""
    return MEMORY if feed_length * height * width * 3 <= MEMORY else 0


def spread(labels: NDArray[np.int64], count: int) -> Ints:
    """Return `count` images, ascending: the first of evenly chosen classes, then their second ones, and so on.

    Args:
        labels: int64 [N]; the images of unknown class (-1) count as one class.
        count: of images; all of them where there are not more.

    >>> spread(np.array([0, 0, 1, 1, 2, 2]), 4)
    array([0, 1, 2, 4])
    """
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    chosen: list[int] = []
    turn = 0
    while len(chosen) < min(count, len(labels)):
        left = np.flatnonzero(sizes > turn)
        classes = left[evenly(len(left), count - len(chosen))]
        chosen += [int(order[first[each] + turn]) for each in classes]
        turn += 1
    return np.sort(np.array(chosen, np.int64))

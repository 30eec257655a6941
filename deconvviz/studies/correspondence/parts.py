"""The parts of images: which images have them, where they are, and masks of their shape at random other places."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.feed import Feed
from deconvviz.data.truth import OBJECT, Truth, bounds
from deconvviz.errors import DataError
from deconvviz.studies.correspondence.options import CorrespondenceOptions
from deconvviz.types import Ints, Mask
from deconvviz.words import counted


def random_masks(mask: Mask, number: int, rng: np.random.Generator, within: Mask | None = None) -> NDArray[np.bool_]:
    """Move a mask's shape to random other places of its picture.

    Args:
        mask: bool [H, W], the shape.
        number: of masks.
        rng: that draws the places, each with the same probability.
        within: where the middle of the shape's box may be, bool [H, W]; None for anywhere.

    Returns:
        bool [number, H, W], masks of equal area.

    Raises:
        DataError: the shape has no other place.

    >>> mask = np.array([[True, True, False]])
    >>> random_masks(mask, 1, np.random.default_rng(0))
    array([[[False,  True,  True]]])
    """
    box, places = bounds(mask), _other_places(mask, within)
    if not len(places):
        raise DataError("the part has no other place in the picture; choose a smaller part, or random_on='picture'")
    masks = np.zeros((number, *mask.shape), bool)
    for moved, (top, left) in zip(masks, places[rng.integers(len(places), size=number)], strict=True):
        moved[top : top + box.height, left : left + box.width] = box.of(mask)
    return masks


def _other_places(mask: Mask, within: Mask | None) -> NDArray[np.intp]:
    """Return where the upper left corner of a shape's box may be moved to, [places, 2]."""
    if not mask.any():
        return np.zeros((0, 2), np.intp)
    box = bounds(mask)
    free = np.ones((mask.shape[0] - box.height + 1, mask.shape[1] - box.width + 1), bool)
    if within is not None:
        free &= within[box.height // 2 :, box.width // 2 :][: free.shape[0], : free.shape[1]]
    free[box.top, box.left] = False
    return np.argwhere(free)


class Parts:
    """Where the parts of images are in the network's pictures.

    Attributes:
        feed: all images of a dataset, in their order.
        truth: where the parts are in the images as they are stored.
        options: which images form a set, and where random masks may be.
    """

    def __init__(self, feed: Feed, truth: Truth, options: CorrespondenceOptions) -> None:
        self.feed, self.truth, self.options = feed, truth, options

    def masks(self, index: int) -> dict[str, Mask]:
        """Return the masks of an image in the network's picture, by part.

        The whole object is among them. A part that the crop cuts off, or that has no other place, is not.

        Raises:
            DataError: the place of the object is not known, and random masks have to be on it.
        """
        masks = {part: self.feed.preprocess.mask(mask) for part, mask in self.truth.masks(index).items()}
        within = self._within(masks, index)
        return {part: mask for part, mask in masks.items() if part == OBJECT or len(_other_places(mask, within))}

    def with_random_masks(self, index: int, part: str) -> NDArray[np.bool_]:
        """Return the part's mask in an image and random masks of its shape, bool [1 + R, H, W]."""
        masks = self.masks(index)
        rng = self.generator(part, 1, index)
        others = random_masks(masks[part], self.options.random, rng, self._within(masks, index))
        return np.concatenate([masks[part][None], others])

    def sets(self, parts: Sequence[str] | None) -> dict[str, Ints]:
        """Return the sets of images of each part, int64 [S, n].

        Args:
            parts: by name; None takes all that are in enough images.

        Raises:
            DataError: no part is known, or a part is not in enough images.
        """
        having = self._images_by_part()
        if not having:
            raise DataError("no part is known in these images; give scenes, or boxes with a column part")
        sets = {part: self._drawn_sets(having.get(part, [])) for part in parts or sorted(having)}
        known = ", ".join(f"{part} ({len(images)})" for part, images in sorted(having.items()))
        least = f"{self.options.count} {'of one class ' if self.options.per_class else ''}at least"
        for part in parts or ():
            if not len(sets[part]):
                number = len(having.get(part, []))
                raise DataError(
                    f"{counted(number, 'image')} with a part {part!r} given; expected {least}; the parts are {known}"
                )
        sets = {part: images for part, images in sets.items() if len(images)}
        if not sets:
            raise DataError(f"no part is in enough images; expected {least}; the parts are {known}")
        return sets

    def generator(self, part: str, *purpose: int) -> np.random.Generator:
        """Return what draws for a part: what is drawn does not depend on which other parts are asked for."""
        return np.random.default_rng([self.options.seed, zlib.crc32(part.encode()), *purpose])

    def _within(self, masks: Mapping[str, Mask], index: int) -> Mask | None:
        """Return where the middle of a random mask may be; None for anywhere."""
        if self.options.random_on == "picture" or not masks:
            return None
        if OBJECT not in masks:
            name = self.feed.name(index)
            raise DataError(f"the object of {name} is not known; give a box without a part for it")
        return masks[OBJECT]

    def _images_by_part(self) -> dict[str, list[int]]:
        having: dict[str, list[int]] = {}
        with self.options.bar("image", len(self.feed), "finding parts") as bar:
            for index in range(len(self.feed)):
                for part in self.masks(index).keys() - {OBJECT}:
                    having.setdefault(part, []).append(index)
                bar.update()
        return having

    def _drawn_sets(self, having: Sequence[int]) -> Ints:
        """Draw disjoint sets of images, [S, n], of one class each or of any; parts of the same images get the same."""
        images, size = np.array(having, np.int64), self.options.count
        labels = self.feed.labels[images] if self.options.per_class else np.zeros(len(images), np.int64)
        sets = [np.zeros((0, size), np.int64)]
        for label in np.unique(labels):
            rng = np.random.default_rng([self.options.seed, 0, label + 1])
            of_class = rng.permutation(images[labels == label])
            sets.append(of_class[: min(len(of_class) // size, self.options.repeats) * size].reshape(-1, size))
        return np.concatenate(sets)

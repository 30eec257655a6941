"""The labelled images of a training: which to learn from, which to validate on, and the names of their classes."""

from __future__ import annotations

import numpy as np

from deconvviz.data.datasets import Images, has_several_labels
from deconvviz.data.sampling import split
from deconvviz.errors import DataError
from deconvviz.studies.training.recipe import Recipe
from deconvviz.types import Ints


def training_and_validation(images: Images, validation: Images | None, recipe: Recipe) -> tuple[Ints, Ints]:
    """Return the indices of the images to train on, and of those to validate on.

    Args:
        images: labelled images.
        validation: other images to validate on; None holds a share of `images` out.
        recipe: its `validation` is that share, its `seed` draws it.

    Returns:
        Two ascending int64 arrays: indices into `images`, and indices into `validation` or else into `images`. All have
        a known class, or labels.

    Raises:
        DataError: the validation images are the training images, or have other labels, or a part would be empty.
    """
    require_same_labels(images, validation)
    labels = splitting_labels(images)
    training, held_out = split(labels, 0 if validation is not None else recipe.validation, recipe.seed)
    if validation is None:
        return training, held_out
    if validation.fingerprint == images.fingerprint:
        raise DataError("the validation images are the training images; give others, or a share of them")
    return training, np.flatnonzero(splitting_labels(validation) >= 0)


def require_same_labels(images: Images, validation: Images | None) -> None:
    """Raise DataError where one of both has several labels an image and the other has not, or other ones."""
    if validation is None:
        return
    several = has_several_labels(images), has_several_labels(validation)
    if several[0] != several[1]:
        first, second = ("several labels each" if each else "one class each" for each in several)
        raise DataError(
            f"the training images have {first} and the validation images {second}; pack both with --labels, or give "
            "one table of both with --labels"
        )
    if several[0] and tuple(images.classes) != tuple(validation.classes):
        other = sorted({*images.classes} ^ {*validation.classes})[0]
        raise DataError(
            f"the training images and the validation images have other labels, {other!r} among them; expected the "
            "same: pack both without --labels, and give one table of both with --labels"
        )


def splitting_labels(images: Images) -> Ints:
    """Return the classes by which images are split, int64 [N]; -1 for those that take no part.

    Images with several labels are split as if they were of one class: no split could keep the share of every label.
    """
    if has_several_labels(images):
        return np.where(images.known, 0, -1)
    return np.asarray(images.labels, np.int64)


def class_names(images: Images) -> tuple[str, ...]:
    """Return the names of the images' classes, or their numbers where they have no names."""
    return tuple(images.classes) or tuple(map(str, range(int(images.labels.max(initial=-1)) + 1)))

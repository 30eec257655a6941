"""The labelled images of a training: which to learn from, which to validate on, and the names of their classes."""

from __future__ import annotations

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.data.label_table import SeveralLabels
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
        DataError: the validation images are the training images, or a part would be empty.
    """
    labels = splitting_labels(images)
    training, held_out = split(labels, 0 if validation is not None else recipe.validation, recipe.seed)
    if validation is None:
        return training, held_out
    if validation.fingerprint == images.fingerprint:
        raise DataError("the validation images are the training images; give others, or a share of them")
    return training, np.flatnonzero(splitting_labels(validation) >= 0)


def splitting_labels(images: Images) -> Ints:
    """Return the classes by which images are split, int64 [N]; -1 for those that take no part.

    Images with several labels are split as if they were of one class: no split could keep the share of every label.
    """
    if isinstance(images, SeveralLabels):
        return np.where(images.known, 0, -1)
    return np.asarray(images.labels, np.int64)


def class_names(images: Images) -> tuple[str, ...]:
    """Return the names of the images' classes, or their numbers where they have no names."""
    return tuple(images.classes) or tuple(map(str, range(int(images.labels.max(initial=-1)) + 1)))

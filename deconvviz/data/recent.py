"""The images that a result was made of, found again: those that are in memory still, else by their path."""

from __future__ import annotations

import contextlib
from weakref import WeakValueDictionary

from deconvviz.data.datasets import Images, open_images
from deconvviz.errors import DataError, MismatchError
from deconvviz.types import Pathlike

_IN_MEMORY: WeakValueDictionary[str, Images] = WeakValueDictionary()  # it keeps nothing alive


def note_images(images: Images) -> None:
    """Note a dataset, so that `images_again` finds it as long as somebody else holds it."""
    with contextlib.suppress(TypeError):  # an object that cannot be referred to weakly is not found again
        _IN_MEMORY[images.fingerprint] = images


def images_again(fingerprint: str, path: Pathlike | None) -> Images:
    """Return the images of a result.

    Args:
        fingerprint: of the images.
        path: of the store or the folder that they were in; None for images that were in memory.

    Raises:
        DataError: they are gone.
        MismatchError: other images are at the path now.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> scenes = Scenes(20)
    >>> note_images(scenes)
    >>> images_again(scenes.fingerprint, None) is scenes
    True
    """
    images = _IN_MEMORY.get(fingerprint)
    if images is None and path is None:
        raise DataError("the images were in memory only and are gone; draw with images=")
    images = open_images(path) if images is None else images
    if images.fingerprint != fingerprint:
        raise MismatchError(f"the images at {path} are not those that the result was made of; draw with images=")
    return images

"""The figure of pairs: both images of a pair below each other, and the maps of each method over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deconvviz.figures.overlay import draw_maps
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import image_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.types import Floats, Pixels

LETTERS = 24  # of an image's name beside it


def draw_pairs(
    pictures: Pixels,
    maps: Mapping[str, NDArray[np.floating]],
    names: Sequence[tuple[str, str]],
    similarity: Floats,
    title: str = "",
    caption: str = "",
    page: Page = OWN,
) -> Figure:
    """Draw pairs: two rows each, the first image above the second, and a column for each method.

    Args:
        pictures: uint8 [N, 2, H, W, 3].
        maps: method -> [N, 2, H, W] in 0..1.
        names: of both images of each pair.
        similarity: float64 [N], the cosine of each pair, which stands beside its second image.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the methods in a row.
    """
    count = len(pictures)
    labels = []
    for (first, second), cosine in zip(names, similarity, strict=True):
        labels += [image_label(first, LETTERS), f"{image_label(second, LETTERS)}\ncosine {cosine:.3f}"]
    of_images = [[each[number, which] for each in maps.values()] for number in range(count) for which in (0, 1)]
    images = [*pictures.reshape(-1, *pictures.shape[2:])]
    return draw_maps(images, of_images, labels, [*maps], title, caption, page=page)

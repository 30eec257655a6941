"""Explanations side by side: each image, and the maps of several methods over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.figures.sheet import Sheet
from deconvviz.types import Floats, Pixels

TILE, GAP, NAMES = 1.75, 0.12, 0.15  # inches: a picture, the gap between two, and the line of the columns' names
LEFT, RIGHT = 0.4, 0.9  # inches for the rows' texts, and for the colour bar
NARROWEST = 4.5  # inches: a title needs them
DPI = 170
STRENGTH = 0.65  # of the map in an overlay; the rest is the picture in grey


def overlay(picture: Pixels, map_: NDArray[np.floating[Any]], colours: str, strength: float = STRENGTH) -> Floats:
    """Lay a map over a picture: the picture in grey, the map in colour.

    Args:
        picture: uint8 [H, W, 3].
        map_: [H, W] in 0..1.
        colours: name of a matplotlib colour map.
        strength: share of the map in the result, 0 to 1.

    Returns:
        float64 [H, W, 3] in 0..1.

    >>> overlay(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)), "gray").round(2).tolist()
    [[[0.65, 0.65, 0.65]]]
    """
    grey = picture.astype(float).mean(2, keepdims=True) / 255
    coloured = matplotlib.colormaps[colours](map_)[..., :3]
    blended: Floats = (1 - strength) * grey + strength * coloured
    return blended


def shortened(text: str, letters: int) -> str:
    """Return a text of at most that many letters; one that was cut ends in an ellipsis.

    >>> shortened("great grey owl", 11), shortened("tench", 11)
    ('great grey…', 'tench')
    """
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def draw_maps(
    pictures: Sequence[Pixels],
    maps: Sequence[Sequence[NDArray[np.floating[Any]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    caption: str,
    colours: str = "viridis",
) -> Figure:
    """Draw a sheet with a row for each image: the image, and then its map by each method.

    Args:
        pictures: N pictures, uint8 [H, W, 3].
        maps: N rows of M maps [H, W] in 0..1.
        rows: N texts, written beside the images.
        columns: M names, written above the maps.
        title: of the sheet.
        caption: of the sheet.
        colours: name of a matplotlib colour map.
    """
    step, count = TILE + GAP, len(pictures)
    width = max(LEFT + (1 + len(columns)) * step + RIGHT, NARROWEST)
    sheet = Sheet(width, count * step + NAMES, title, caption, DPI)
    for row, (picture, maps_of_picture, text) in enumerate(zip(pictures, maps, rows, strict=True)):
        y = sheet.bottom + (count - 1 - row) * step
        sheet.text(LEFT / 2, y + TILE / 2, text, rotation=90, ha="center", va="center", fontsize=7)
        sheet.picture(picture / 255.0, LEFT, y, TILE)
        for column, map_ in enumerate(maps_of_picture, 1):
            sheet.picture(overlay(picture, map_, colours), LEFT + column * step, y, TILE)
    for column, name in enumerate(("image", *columns)):
        x = LEFT + column * step + TILE / 2
        sheet.text(x, sheet.bottom + count * step, name, ha="center", va="bottom", fontsize=8)
    scale = ScalarMappable(Normalize(0, 1), colours)
    sheet.colour_bar(
        scale, "share of the map's range", LEFT + (1 + len(columns)) * step, sheet.bottom, TILE, ticks=[0, 0.5, 1]
    )
    return sheet.figure

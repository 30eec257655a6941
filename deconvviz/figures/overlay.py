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

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened
from deconvviz.types import Floats, Pixels

TILE, GAP, NAMES = 1.75, 0.12, 0.15  # inches: a picture, the gap between two, and the line of the columns' names
COMFORTABLE, LEAST = 1.1, 0.5  # inches: a picture on a page of a paper, and one that still shows where its map is high
LEFT, RIGHT = 0.4, 0.9  # inches for the rows' texts, and for the colour bar
NARROWEST = 4.5  # inches: a title needs them
DPI = 170
STRENGTH = 0.65  # of the map in an overlay; the rest is the picture in grey
LETTER = 0.058  # inches of a letter above a column
SIGNED = "coolwarm"  # blue below zero, pale at zero, red above it; its ends are light enough on dark pictures


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


def draw_maps(
    pictures: Sequence[Pixels],
    maps: Sequence[Sequence[NDArray[np.floating[Any]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    caption: str,
    colours: str = "viridis",
    signed: bool = False,
    page: Page = OWN,
) -> Figure:
    """Draw a sheet with a row for each image: the image, and then its map by each method.

    Where a page has no room for all methods in a row, the images are shown again below with the next methods.

    Args:
        pictures: N pictures, uint8 [H, W, 3].
        maps: N rows of M maps [H, W], in 0..1, or in -1..1 with `signed`.
        rows: N texts, written beside the images.
        columns: M names, written above the maps.
        title: of the sheet.
        caption: of the sheet.
        colours: name of a matplotlib colour map.
        signed: whether zero is the middle of the colours.
        page: what is asked for of the page; its columns are the methods in a row.
    """
    across = page.across(len(columns), len(columns), COMFORTABLE + GAP, LEFT + COMFORTABLE + GAP + RIGHT)
    tile = page.fitted(TILE, LEFT + (1 + across) * GAP + RIGHT, 1 + across, LEAST)
    bands = [range(first, min(first + across, len(columns))) for first in range(0, len(columns), across)]
    step, band_height = tile + GAP, len(pictures) * (tile + GAP) + NAMES + 0.05
    width = page.width or max(LEFT + (1 + across) * step + RIGHT, NARROWEST)
    sheet = Sheet(width, len(bands) * band_height, title, caption, DPI, page)
    size = 7 if tile > 1.4 else 5  # points of the texts beside the images
    scale = ScalarMappable(Normalize(-1 if signed else 0, 1), colours)
    for number, band in enumerate(bands):
        top = sheet.top - number * band_height - NAMES
        for column, name in enumerate(("image", *(columns[index] for index in band))):
            x = LEFT + column * step + tile / 2
            sheet.text(x, top, shortened(name, int(step / LETTER)), ha="center", va="bottom", fontsize=8)
        for row, (picture, maps_of_picture, text) in enumerate(zip(pictures, maps, rows, strict=True)):
            y = top - (row + 1) * step + GAP
            sheet.text(LEFT / 2, y + tile / 2, text, rotation=90, ha="center", va="center", fontsize=size)
            sheet.picture(picture / 255.0, LEFT, y, tile)
            for column, index in enumerate(band, 1):
                shares = scale.norm(maps_of_picture[index])
                sheet.picture(overlay(picture, np.asarray(shares), colours), LEFT + column * step, y, tile)
    label = "share of the largest\nabsolute value" if signed else "share of the map's range"
    left = LEFT + (1 + len(bands[0])) * step
    sheet.colour_bar(scale, label, left, sheet.top - NAMES - tile, tile, ticks=[-1, 0, 1] if signed else [0, 0.5, 1])
    return sheet.figure

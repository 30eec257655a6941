"""Explanations side by side: each image, and the maps of several methods over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from deconvviz.errors import DataError, nearest
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.types import Floats, Pixels

TILE, GAP, NAMES = 1.75, 0.12, 0.15  # inches: a picture, the gap between two, and the line of the columns' names
COMFORTABLE, LEAST = 1.1, 0.5  # inches: a picture on a page of a paper, and one that still shows where its map is high
LEFT, RIGHT = 0.4, 0.9  # inches for the rows' texts, and for the colour bar
NARROWEST = 4.5  # inches: a title needs them
DPI = 170
STRENGTH = 0.75  # of the map in an overlay, where it is highest; the rest is the picture in grey
SMOOTH = 0.01  # of an image's side: the standard deviation by which maps are smoothed for a picture
OUTLIERS = (1, 99)  # percentiles of a map, beyond which its colours do not go
CONSTANT = "constant map"  # stands in the panel of a map that shows nothing
LETTER = 0.058  # inches of a letter above a column
SIGNED = "coolwarm"  # blue below zero, pale at zero, red above it; its ends are light enough on dark pictures


class Shades(NamedTuple):
    """The colours of a map.

    Attributes:
        colours: name of a matplotlib colour map.
        signed: whether zero is the middle of the colours.
    """

    colours: str
    signed: bool = False


VIRIDIS = Shades("viridis")


def displayed(map_: NDArray[np.floating[Any]], signed: bool = False) -> Floats:
    """Return a map as pictures show it: smoothed a little, its colours spread over all but its outliers.

    The maps of gradients and of relevance are as fine as pixels, of which a small picture shows nothing, and a few of
    their pixels may be so far from all others that these have one colour. So the map is smoothed by a Gaussian of
    SMOOTH of the image's longer side, and its range is that of the 1st to the 99th percentile. Numbers and files have
    the map as it is.

    Args:
        map_: [H, W].
        signed: whether zero stays in the middle; the range is the 99th percentile of the absolute values then.

    Returns:
        float64 [H, W] in 0..1, or in -1..1; zeros where the map is constant.

    Source: our choice.

    >>> map_ = np.arange(10000.0).reshape(100, 100)
    >>> map_[50, 50] = 1e9  # an outlier
    >>> displayed(map_)[[0, 25, 75], 0].round(1)
    array([0. , 0.2, 0.8])
    """
    values = map_.astype(np.float64)
    if is_constant(values):
        return np.zeros_like(values)
    lowest, highest = np.percentile(values, OUTLIERS)  # before it is smoothed, or an outlier would spread
    if highest > lowest:
        values = np.clip(values, lowest, highest)
    smooth: Floats = gaussian_filter(values, SMOOTH * max(values.shape), mode="nearest")
    if signed:
        smooth /= max(float(np.percentile(np.abs(smooth), OUTLIERS[1])), 1e-30)
        return smooth.clip(-1, 1)
    low, high = np.percentile(smooth, OUTLIERS)
    if not high > low:  # nearly all of it is of one value
        low, high = smooth.min(), smooth.max()
    shares: Floats = np.clip((smooth - low) / max(float(high - low), 1e-30), 0, 1)
    return shares


def is_constant(map_: NDArray[np.floating[Any]]) -> bool:
    """Return whether a map is the same everywhere, and shows nothing."""
    return bool(map_.min() == map_.max())


def overlay(
    picture: Pixels,
    map_: NDArray[np.floating[Any]],
    shades: Shades = VIRIDIS,
    strength: float = STRENGTH,
) -> Floats:
    """Lay a map over a picture: where the map is low the picture shows in its own colours, where it is high the map.

    Args:
        picture: uint8 [H, W, 3].
        map_: [H, W], as `displayed` returns it: in 0..1, or in -1..1.
        shades: the colours of the map.
        strength: share of the map in the result where it is highest, 0 to 1.

    Returns:
        float64 [H, W, 3] in 0..1.

    >>> picture = np.full((1, 2, 3), 51, np.uint8)
    >>> overlay(picture, np.array([[0.0, 1.0]]), Shades("gray"), strength=0.5).round(2).tolist()
    [[[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]]]
    """
    own = picture.astype(float) / 255
    opacity = np.sqrt(np.abs(map_))[..., None]
    base = own + opacity * (own.mean(2, keepdims=True) - own)  # grey, where the colours of the map are
    coloured = matplotlib.colormaps[shades.colours]((map_ + 1) / 2 if shades.signed else map_)[..., :3]
    blended: Floats = base + strength * opacity * (coloured - base)
    return blended


def draw_map(
    sheet: Sheet,
    picture: Pixels,
    map_: NDArray[np.floating[Any]],
    shades: Shades,
    left: float,
    bottom: float,
    side: float,
) -> Axes:
    """Draw a map over its picture; of one that is constant the picture is pale and says so.

    Args:
        sheet: where it is drawn.
        picture: uint8 [H, W, 3].
        map_: [H, W].
        shades: the colours of the map.
        left: x of the picture's left side, in inches.
        bottom: y of its lower side.
        side: of the picture.
    """
    if not is_constant(map_):
        return sheet.picture(overlay(picture, displayed(map_, shades.signed), shades), left, bottom, side)
    panel = sheet.picture(0.6 + 0.4 * picture / 255.0, left, bottom, side)
    sheet.text(left + side / 2, bottom + side / 2, CONSTANT, ha="center", va="center", fontsize=SMALL)
    return panel


def _draw_box(panel: Axes, box: Sequence[float] | None) -> None:
    """Draw a rectangle (left, top, right, bottom), in pixels of the picture, that is seen on any colour."""
    if box is None:
        return
    left, top, right, bottom = box
    for colour, width in (("black", 2.2), ("white", 1.1)):
        frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=colour, lw=width)
        panel.add_patch(frame)


def require_colour_map(name: str) -> None:
    """Raise DataError where matplotlib has no colour map of a name.

    >>> require_colour_map("viridis")
    """
    if name not in matplotlib.colormaps:
        raise DataError(f"colours {name!r} given; {nearest(name, matplotlib.colormaps)}")


def draw_maps(
    pictures: Sequence[Pixels],
    maps: Sequence[Sequence[NDArray[np.floating[Any]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    caption: str,
    shades: Shades = VIRIDIS,
    page: Page = OWN,
    boxes: Sequence[Sequence[float] | None] = (),
) -> Figure:
    """Draw a sheet with a row for each image: the image, and then its map by each method.

    Where a page has no room for all methods in a row, the images are shown again below with the next methods.

    Args:
        pictures: N pictures, uint8 [H, W, 3].
        maps: N rows of M maps [H, W], in 0..1, or in -1..1 where the shades are signed.
        rows: N texts, written beside the images.
        columns: M names, written above the maps.
        title: of the sheet.
        caption: of the sheet.
        shades: the colours of the maps.
        page: what is asked for of the page; its columns are the methods in a row.
        boxes: N rectangles that are drawn into pictures and maps: left, top, right and bottom in pixels of the picture,
            or None; empty where there are none.
    """
    across = page.across(len(columns), len(columns), COMFORTABLE + GAP, LEFT + COMFORTABLE + GAP + RIGHT)
    tile = page.fitted(TILE, LEFT + (1 + across) * GAP + RIGHT, 1 + across, LEAST)
    bands = [range(first, min(first + across, len(columns))) for first in range(0, len(columns), across)]
    step, band_height = tile + GAP, len(pictures) * (tile + GAP) + NAMES + 0.05
    width = page.width or max(LEFT + (1 + across) * step + RIGHT, NARROWEST)
    sheet = Sheet(width, len(bands) * band_height, title, caption, DPI, page)
    size = 7 if tile > 1.4 else 5  # points of the texts beside the images
    scale = ScalarMappable(Normalize(-1 if shades.signed else 0, 1), shades.colours)
    for number, band in enumerate(bands):
        top = sheet.top - number * band_height - NAMES
        for column, name in enumerate(("image", *(columns[index] for index in band))):
            x = LEFT + column * step + tile / 2
            sheet.text(x, top, shortened(name, int(step / LETTER)), ha="center", va="bottom", fontsize=8)
        for row, (picture, maps_of_picture, text) in enumerate(zip(pictures, maps, rows, strict=True)):
            y = top - (row + 1) * step + GAP
            sheet.text(LEFT / 2, y + tile / 2, text, rotation=90, ha="center", va="center", fontsize=size)
            panels = [sheet.picture(picture / 255.0, LEFT, y, tile)]
            for column, index in enumerate(band, 1):
                panels.append(draw_map(sheet, picture, maps_of_picture[index], shades, LEFT + column * step, y, tile))
            for panel in panels:
                _draw_box(panel, boxes[row] if boxes else None)
    label = "share of the map's largest\nabsolute value" if shades.signed else "share of the map's range"
    left = LEFT + (1 + len(bands[0])) * step
    sheet.colour_bar(
        scale, label, left, sheet.top - NAMES - tile, tile, ticks=[-1, 0, 1] if shades.signed else [0, 0.5, 1]
    )
    return sheet.figure

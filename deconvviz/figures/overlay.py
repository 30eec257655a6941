"""Explanations side by side: the image, and each method's map over it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.figures.tiles import place

TILE, GAP, HEAD = 1.75, 0.12, 0.3  # inches


def overlay(picture: NDArray[np.uint8], map_: NDArray[np.floating[Any]], colours: str, strength: float) -> NDArray[Any]:
    """Lay a map [H, W] in 0..1 over a picture, uint8 [H, W, 3]: the picture in grey, the map in colour."""
    grey = picture.astype(float).mean(2, keepdims=True) / 255
    coloured = matplotlib.colormaps[colours](map_)[..., :3]
    blended: NDArray[Any] = (1 - strength) * grey + strength * coloured
    return blended


def draw_maps(
    pictures: Sequence[NDArray[np.uint8]],
    maps: Sequence[Sequence[NDArray[np.floating[Any]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    caption: str,
    colours: str = "viridis",
    strength: float = 0.65,
) -> Figure:
    """Draw a sheet: a row for each image, the image first, then a column for each method.

    pictures: N of uint8 [H, W, 3]; maps: N rows of M maps [H, W] in 0..1; rows: N texts, columns: M names.
    """
    across, down = 1 + len(columns), len(pictures)
    width = max(across * (TILE + GAP) + 0.55 + 0.75, 4.5)
    told = [part for line in caption.splitlines() for part in textwrap.wrap(line, int((width - 0.4) / 0.05))]
    bottom = 0.25 + 0.125 * len(told)
    height = 0.45 + HEAD + down * (TILE + GAP) + bottom
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, "\n".join(told), ha="center", va="bottom", fontsize=6.5, color="0.25")
    for n, picture in enumerate(pictures):
        y = bottom + (down - 1 - n) * (TILE + GAP)
        figure.text(0.2 / width, (y + TILE / 2) / height, rows[n], rotation=90, ha="center", va="center", fontsize=7)
        place(figure, picture / 255.0, (0.4, y, TILE, TILE))
        for m, map_ in enumerate(maps[n]):
            x = 0.4 + (m + 1) * (TILE + GAP)
            place(figure, overlay(picture, map_, colours, strength), (x, y, TILE, TILE))
    top = (bottom + down * (TILE + GAP)) / height
    for m, name in enumerate(("image", *columns)):
        figure.text((0.4 + m * (TILE + GAP) + TILE / 2) / width, top, name, ha="center", va="bottom", fontsize=8)
    _colour_bar(figure, (0.4 + across * (TILE + GAP), bottom, 0.1, TILE), colours)
    return figure


def _colour_bar(figure: Figure, where: tuple[float, float, float, float], colours: str) -> None:
    width, height = figure.get_size_inches()
    x, y, w, h = where
    axes: Axes = figure.add_axes((x / width, y / height, w / width, h / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), cax=axes, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=6)
    bar.set_label("share of the map's range", fontsize=6)

"""Pictures side by side, each with its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.figures.tiles import place


def draw_contact_sheet(pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], columns: int = 10) -> Figure:
    """Draw pictures, uint8 [H, W, 3] each, row by row, with their names above."""
    tile, gap, text = 0.8, 0.06, 0.16  # inches
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(columns * (tile + gap) + gap, rows * (tile + text + gap)), dpi=200)
    width, height = figure.get_size_inches()
    for n, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x = gap + (n % columns) * (tile + gap)
        y = height - (n // columns + 1) * (tile + text + gap) + gap
        place(figure, picture / 255.0, (x, y, tile, tile))
        figure.text((x + tile / 2) / width, (y + tile + 0.03) / height, name, ha="center", va="bottom", fontsize=6.5)
    return figure

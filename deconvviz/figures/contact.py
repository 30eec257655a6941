"""A contact sheet: pictures side by side, each below its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from deconvviz.figures.sheet import CAPTION, Sheet
from deconvviz.types import Pixels

SIDE, GAP, NAME = 0.8, 0.06, 0.16  # inches: of a picture, between two of them, and for the name above


def draw_contact_sheet(pictures: Sequence[Pixels], names: Sequence[str], columns: int = 10) -> Figure:
    """Draw pictures row by row, each with its name above.

    Args:
        pictures: uint8 [H, W, 3] each.
        names: one for each picture.
        columns: pictures in a row.
    """
    row = SIDE + NAME + GAP
    sheet = Sheet(columns * (SIDE + GAP) + GAP, math.ceil(len(pictures) / columns) * row, "", "")
    for n, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x = GAP + (n % columns) * (SIDE + GAP)
        y = sheet.top - (n // columns + 1) * row + GAP
        sheet.picture(picture / 255.0, x, y, SIDE)
        sheet.text(x + SIDE / 2, y + SIDE + 0.03, name, ha="center", va="bottom", fontsize=CAPTION)
    return sheet.figure

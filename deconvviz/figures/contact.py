"""A contact sheet: pictures side by side, each below its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, Sheet, shortened
from deconvviz.types import Pixels

SIDE, GAP, NAME = 0.8, 0.06, 0.16  # inches: of a picture, between two of them, and for the name above
LETTER = 0.05  # inches of a letter of a name


def draw_contact_sheet(pictures: Sequence[Pixels], names: Sequence[str], columns: int = 10, page: Page = OWN) -> Figure:
    """Draw pictures row by row, each with its name above.

    Args:
        pictures: uint8 [H, W, 3] each.
        names: one for each picture.
        columns: pictures in a row, where `page` does not ask for another number.
        page: what is asked for of the page.
    """
    columns = page.across(len(pictures), columns, SIDE + GAP, GAP)
    side = page.fitted(SIDE, GAP + columns * GAP, columns, 0.4)
    row = side + NAME + GAP
    sheet = Sheet(columns * (side + GAP) + GAP, math.ceil(len(pictures) / columns) * row, "", "", page=page)
    for n, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x = GAP + (n % columns) * (side + GAP)
        y = sheet.top - (n // columns + 1) * row + GAP
        sheet.picture(picture / 255.0, x, y, side)
        sheet.text(
            x + side / 2,
            y + side + 0.03,
            shortened(name, int(side / LETTER)),
            ha="center",
            va="bottom",
            fontsize=CAPTION,
        )
    return sheet.figure

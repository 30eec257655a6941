"""Sheet: a figure measured in inches, with its title above, its caption below, and room for the rest between."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 200
TITLE, CAPTION = 10, 6.5  # points
CHARACTER, LINE = 0.05, 0.13  # inches: the mean width of a letter of a caption, and the height of a line
HEAD = 0.5  # inches for the title


class Sheet:
    """A page of a figure. Lengths are inches, from the page's lower left corner.

    Attributes:
        figure: the matplotlib figure.
        width: of the page.
        height: of the page: the body, the title and the caption.
        bottom: where the body begins, above the caption.
        top: where the body ends, below the title.
    """

    def __init__(self, width: float, body: float, title: str, caption: str, dpi: int = DPI) -> None:
        """Make a page.

        Args:
            width: of the page.
            body: height of what is drawn between title and caption.
            title: text above, in bold.
            caption: text below, wrapped to the page's width; its own line breaks stay.
            dpi: pixels an inch.
        """
        lines = wrapped(caption, width)
        self.bottom = 0.2 + LINE * len(lines)
        self.width, self.height, self.top = width, self.bottom + body + HEAD, self.bottom + body
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi)
        self.text(width / 2, self.height - 0.22, title, ha="center", va="center", fontsize=TITLE, weight="bold")
        self.text(width / 2, 0.1, "\n".join(lines), ha="center", va="bottom", fontsize=CAPTION, color="0.25")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a place; `style` is matplotlib's (ha, va, fontsize, rotation, ...)."""
        self.figure.text(x / self.width, y / self.height, text, **style)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return new axes that cover this rectangle."""
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes: Axes = self.figure.add_axes(place)
        return axes

    def picture(
        self, picture: NDArray[Any], left: float, bottom: float, width: float, height: float | None = None
    ) -> Axes:
        """Show a picture [h, w, 3] or [h, w, 1] in 0..1 with a thin frame; it is square where no height is given."""
        axes = self.axes(left, bottom, width, width if height is None else height)
        axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.4, color="0.4")
        return axes

    def panel(self, left: float, bottom: float, width: float, height: float, title: str = "") -> Axes:
        """Return axes for curves or bars: a light grid, small labels, and a title."""
        axes = self.axes(left, bottom, width, height)
        axes.tick_params(labelsize=6, pad=2)
        axes.grid(color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        if title:
            axes.set_title(title, fontsize=8)
        return axes


def wrapped(text: str, width: float) -> list[str]:
    """Return the lines of a caption on a page of this width in inches; its own line breaks stay.

    >>> wrapped("one two three", 0.6)
    ['one two', 'three']
    """
    letters = max(int((width - 0.2) / CHARACTER), 1)
    return [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]

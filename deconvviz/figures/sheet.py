"""Sheet: a figure measured in inches, with its title above, its caption below, and the body between them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 200
TITLE, HEADING, CAPTION, SMALL = 10, 8, 6.5, 6  # sizes of text in points
CHARACTER, LINE = 0.05, 0.13  # inches: the mean width of a letter of a caption, and the height of a line
HEAD, FOOT = 0.5, 0.2  # inches that are added for the title, and around the lines of the caption


class Sheet:
    """One page with a figure. All lengths are inches; a place (x, y) is measured from the page's lower left corner.

    Attributes:
        figure: the matplotlib figure.
        width: the page's width.
        height: the page's height, which is that of the caption, the body and the title.
        bottom: y of the body's lower end, above the caption.
        top: y of the body's upper end, below the title.

    >>> sheet = Sheet(width=4, body=2, title="A title", caption="A caption of one line.")
    >>> round(sheet.bottom, 2), round(sheet.top, 2), round(sheet.height, 2)
    (0.33, 2.33, 2.83)
    """

    def __init__(self, width: float, body: float, title: str, caption: str, dpi: int = DPI) -> None:
        """Make a page.

        Args:
            width: of the page.
            body: height of what is drawn between title and caption.
            title: text above the body, in bold; "" takes no room.
            caption: text below the body, wrapped to the page's width; its own line breaks stay. "" takes no room.
            dpi: pixels per inch.
        """
        lines = wrapped(caption, width)
        self.bottom = FOOT + LINE * len(lines) if lines else 0.0
        self.top = self.bottom + body
        self.width, self.height = width, self.top + (HEAD if title else 0.0)
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi)
        if title:
            self.text(width / 2, self.height - 0.22, title, ha="center", va="center", fontsize=TITLE, weight="bold")
        if lines:
            self.text(width / 2, 0.1, "\n".join(lines), ha="center", va="bottom", fontsize=CAPTION, color="0.25")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a place; `style` is what matplotlib's `Text` takes (ha, va, fontsize, rotation, ...)."""
        self.figure.text(x / self.width, y / self.height, text, **style)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return new axes that cover a rectangle."""
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes: Axes = self.figure.add_axes(place)
        return axes

    def frame(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return axes for a picture: they have a thin frame and no ticks."""
        axes = self.axes(left, bottom, width, height)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.4, color="0.4")
        return axes

    def picture(
        self, picture: NDArray[Any], left: float, bottom: float, width: float, height: float | None = None
    ) -> Axes:
        """Show a picture in a thin frame, undistorted: it is centred where it is wider or higher than the frame.

        Args:
            picture: [h, w, 3] or [h, w, 1], floating in 0..1 or uint8.
            left: x of the frame's left side.
            bottom: y of the frame's lower side.
            width: of the frame.
            height: of the frame; by default the frame is square.
        """
        axes = self.frame(left, bottom, width, width if height is None else height)
        axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
        return axes

    def panel(self, left: float, bottom: float, width: float, height: float, title: str = "") -> Axes:
        """Return axes for curves or bars: they have a light grid, small tick labels and a title."""
        axes = self.axes(left, bottom, width, height)
        axes.tick_params(labelsize=SMALL, pad=2)
        axes.grid(color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        if title:
            axes.set_title(title, fontsize=HEADING)
        return axes

    def colour_bar(
        self,
        colours: ScalarMappable,
        label: str,
        left: float,
        bottom: float,
        height: float,
        width: float = 0.1,
        ticks: Sequence[float] | None = None,
    ) -> None:
        """Draw a vertical colour bar.

        Args:
            colours: what the bar explains, such as the image that `imshow` returns.
            label: the quantity and its unit, written beside the bar.
            left: x of the bar's left side; ticks and label are to the right of the bar and take half an inch.
            bottom: y of the bar's lower end.
            height: of the bar.
            width: of the bar.
            ticks: values that are marked; by default matplotlib chooses them.
        """
        bar = self.figure.colorbar(colours, cax=self.axes(left, bottom, width, height), ticks=ticks)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
        bar.set_label(label, fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)


def wrapped(text: str, width: float) -> list[str]:
    """Return the lines of a caption on a page of this width in inches; the caption's own line breaks stay.

    >>> wrapped("one two three", 0.6)
    ['one two', 'three']
    """
    letters = max(int((width - 0.2) / CHARACTER), 1)
    return [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]


def shortened(text: str, letters: int, keep_end: bool = False) -> str:
    """Return a text of at most so many letters; one that is longer ends with "…", or begins with it.

    Args:
        text: such as the name of an image or of a layer.
        letters: that there is room for, at least 1.
        keep_end: leave the beginning out, as for a layer's path, whose end says most.

    >>> shortened("black_and_gold_garden_spider.jpg", 12), shortened("features.12.expand3x3", 12, keep_end=True)
    ('black_and_g…', '…2.expand3x3')
    """
    if len(text) <= letters:
        return text
    return f"…{text[len(text) - letters + 1 :]}" if keep_end else f"{text[: letters - 1]}…"

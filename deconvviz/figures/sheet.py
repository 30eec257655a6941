"""Sheet: a figure measured in inches, with its title above, its caption below, and the body between them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogitFormatter, ScalarFormatter
from numpy.typing import NDArray

from deconvviz.figures.page import OWN, Page

DPI = 200
TITLE, HEADING, CAPTION, SMALL = 10, 8, 6.5, 6  # sizes of text in points
CHARACTER, LINE = 0.05, 0.13  # inches: the mean width of a letter of a caption, and the height of a line
TITLE_CHARACTER, TITLE_LINE = 0.085, 0.17  # inches: the same of a title
MARGIN = 0.08  # inches above and below a body without title and caption
FOLDER = 4  # letters of an image's folder that are left at least where names are long
TILE_GAP = 0.02  # inches between the pictures of a mosaic
HEAD, FOOT = 0.5, 0.2  # inches that are added for the title, and around the lines of the caption


class PlainFigure(Figure):
    """A figure whose words stand as they are: a "$" in the name of a class, a file or a layer begins no formula.

    Numbers that matplotlib writes at ticks by itself are formulas still, such as the powers of ten of a logarithmic
    axis.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure, for a file or a notebook."""
        formulas = set()
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            # Asking for the labels makes the ticks, which otherwise come into being while they are drawn.
            major, minor = axis.get_majorticklabels(), axis.get_minorticklabels()
            for formatter, labels in ((axis.get_major_formatter(), major), (axis.get_minor_formatter(), minor)):
                if isinstance(formatter, ScalarFormatter | LogFormatter | LogitFormatter):
                    formulas |= {axis.get_offset_text(), *labels}
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(text in formulas)
        super().draw(renderer)


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

    def __init__(self, width: float, body: float, title: str, caption: str, dpi: int = DPI, page: Page = OWN) -> None:
        """Make a page.

        Args:
            width: of the page.
            body: height of what is drawn between title and caption.
            title: text above the body, in bold; "" leaves a small margin.
            caption: text below the body, wrapped to the page's width; its own line breaks stay. "" leaves a small
                margin.
            dpi: pixels per inch.
            page: what is asked for: it may replace the title and the pixels per inch, and leave the caption out.
        """
        title, dpi = title if page.title is None else page.title, page.dpi or dpi
        title = "\n".join(textwrap.wrap(title, max(int((width - 0.2) / TITLE_CHARACTER), 1)))
        lines = wrapped(caption, width) if page.caption else []
        self.bottom = FOOT + LINE * len(lines) if lines else MARGIN
        self.top = self.bottom + body
        further = TITLE_LINE * title.count("\n")
        self.width, self.height = width, self.top + (HEAD + further if title else MARGIN)
        self.figure: Figure = PlainFigure(figsize=(self.width, self.height), dpi=dpi)
        if title:
            self.text(
                width / 2,
                self.height - 0.22 - further / 2,
                title,
                ha="center",
                va="center",
                fontsize=TITLE,
                weight="bold",
            )
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

    def mosaic(
        self,
        tiles: Sequence[NDArray[Any]],
        columns: int,
        left: float,
        bottom: float,
        side: float,
        gap: float = TILE_GAP,
    ) -> Axes:
        """Show pictures row by row in a square, with white gaps, the first one at the upper left.

        Args:
            tiles: [h, w, 3] or [h, w, 1] each, of one size, floating in 0..1 or uint8.
            columns: pictures in a row; the square has as many rows.
            left: x of the square's left side.
            bottom: y of the square's lower side.
            side: of the square; pictures that are wider than high, or higher, leave a part of it white.
            gap: between two pictures.
        """
        axes = self.axes(left, bottom, side, side)
        axes.set(xlim=(0, side), ylim=(0, side))
        axes.set_axis_off()
        step = (side + gap) / columns
        height, width = tiles[0].shape[:2]
        high, wide = ((step - gap) * length / max(height, width) for length in (height, width))
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            x, y = column * step + (step - gap - wide) / 2, side - row * step - (step - gap + high) / 2
            axes.imshow(np.broadcast_to(tile, (*tile.shape[:2], 3)), extent=(x, x + wide, y, y + high), aspect="auto")
            axes.add_patch(Rectangle((x, y), wide, high, fill=False, edgecolor="0.75", linewidth=0.3))  # of white ones
        axes.set(xlim=(0, side), ylim=(0, side))
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
    return f"…{text[len(text) - letters + 1 :]}" if keep_end else f"{text[: letters - 1].rstrip()}…"


def image_label(path: str, letters: int) -> str:
    """Return the folder and the name of an image, for folders are often named by their class and names repeat in them.

    Args:
        path: of the image, with "/" between its parts, in a store or on disk.
        letters: that there is room for; the folder is cut first, to FOLDER letters, then the name: all labels of a
            figure have a folder, or none has.

    >>> image_label("photos/tabby/0900.jpg", 20), image_label("golden retriever/0900.jpg", 16)
    ('tabby/0900.jpg', 'golden…/0900.jpg')
    >>> image_label("n02101556/red-breasted_merganser.jpg", 26)
    'n02…/red-breasted_mergans…'
    """
    folder, _, name = path.rpartition("/")
    if not folder or letters < 4 * FOLDER:
        return shortened(name, letters)
    last = folder.rpartition("/")[2]
    room = max(letters - len(name) - 1, min(FOLDER, len(last)))
    return f"{shortened(last, room)}/{shortened(name, letters - min(room, len(last)) - 1)}"

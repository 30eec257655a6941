"""Figures of pictures by optimisation: tiles with their values, and rows of what layers still know of an image."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from deconvviz.arrays import displayed
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.types import Array, Floats
from deconvviz.words import readable

if TYPE_CHECKING:
    from deconvviz.studies.visualisation.result import Inversion, InvertedImage, Visualisation

SIDE, LEAST = 1.6, 0.6  # inches: side of a picture, and what one can be seen in
LARGEST, NARROWEST = 3.4, 4.6  # inches: of a picture that stands alone, and of a page with several
GAP, MARGIN = 0.1, 0.15  # inches
MOST_ACROSS = 8  # variants of a channel in a row
ABOVE, LINE = 0.18, 0.11  # inches: of a picture's heading, and of each line below it
NAME = 0.3  # inches for the name of a network, which stands to the left of what its layers know
INVISIBLE = 1 / 512  # difference of pixels that no display shows, of the way from black to white
PIXELS = 96  # that a picture has at least: a small one is drawn as squares
LETTER = 0.052  # inches of a letter above a picture, and more than one of a letter below


def draw_visualisation(
    visualisation: Visualisation,
    title: str,
    caption: str,
    page: Page = OWN,
    names: Sequence[str] = (),
    shown: Sequence[int] = (),
) -> Figure:
    """Draw each picture below its channel's number and above its values.

    Args:
        visualisation: what was made.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the pictures in a row.
        names: of the network's outputs, for pictures of classes.
        shown: channels of the pictures that are shown; see `shown_channels`.
    """
    variants = int(visualisation.config["variants"])
    places = _Places.on(page, len(visualisation.channels), variants)
    side = _side(page, places.across)
    letters = int(side / LETTER)
    values = [_values(visualisation, number, letters) for number in range(places.count)]
    height = side + ABOVE + max(map(len, values)) * LINE + GAP
    content = places.across * (side + GAP) - GAP + 2 * MARGIN
    sheet = Sheet(page.width or content, places.rows * height, title, caption, page=page)
    left = (sheet.width - content) / 2 + MARGIN
    for number, picture in enumerate(seen_pictures(visualisation, shown)):
        row, column = places.of(number)
        x, y = left + column * (side + GAP), sheet.top - row * height - ABOVE - side
        heading = shortened(visualisation.heading(number, names), letters)
        _draw_tile(sheet, enlarged(picture, PIXELS), (x, y), side, heading, values[number])
    return sheet.figure


@dataclass(frozen=True)
class _Places:
    """Where N pictures stand: in rows, each channel's variants by themselves.

    Attributes:
        count: number of pictures.
        across: pictures in a row.
        group: pictures that begin in a row of their own.
    """

    count: int
    across: int
    group: int

    @classmethod
    def on(cls, page: Page, count: int, variants: int) -> _Places:
        """Return the places on a page."""
        natural = _even(variants) if variants > 1 else _nearly_square(count)
        across = page.across(count, natural, SIDE + GAP, 2 * MARGIN)
        if variants <= across:  # rows hold whole channels
            across -= across % variants
            return cls(count, across, across)
        return cls(count, across, variants)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.of(self.count - 1)[0] + 1

    def of(self, number: int) -> tuple[int, int]:
        """Return the row and the column of a picture."""
        group, within = divmod(number, self.group)
        row, column = divmod(within, self.across)
        return group * math.ceil(self.group / self.across) + row, column


def _even(variants: int) -> int:
    """Return how many of a channel's variants stand in a row, so that the rows are about equally long.

    >>> _even(4), _even(12)
    (4, 6)
    """
    return math.ceil(variants / math.ceil(variants / MOST_ACROSS))


def _nearly_square(count: int) -> int:
    """Return how many pictures stand in a row: about as many as there are rows, with the fewest places left empty.

    >>> [_nearly_square(count) for count in (1, 2, 3, 4, 6, 8, 9, 10, 100)]
    [1, 2, 3, 2, 3, 4, 3, 5, 10]
    """
    least = math.ceil(math.sqrt(count))
    return min(range(least, least + 2), key=lambda across: -count % across)


def _side(page: Page, across: int, beside: float = 0.0) -> float:
    """Return the side of a picture in inches, of so many in a row that has `beside` inches for other things."""
    fixed = 2 * MARGIN + beside + (across - 1) * GAP
    natural = LARGEST if across == 1 else max(SIDE, (NARROWEST - fixed) / across)
    return page.fitted(natural, fixed, across, LEAST)


def _draw_tile(
    sheet: Sheet, picture: Array, place: tuple[float, float], side: float, heading: str, below: Sequence[str]
) -> None:
    """Draw one picture with its lower left corner at a place, below its heading and above lines of text."""
    x, y = place
    sheet.picture(picture, x, y, side)
    sheet.text(x + side / 2, y + side + 0.04, heading, ha="center", va="bottom", fontsize=HEADING - 1)
    for line, text in enumerate(below):
        style = {"ha": "center", "va": "top", "fontsize": SMALL, "color": "0.25"}
        sheet.text(x + side / 2, y - 0.03 - line * LINE, text, **style)


def draw_inversion(
    inversion: Inversion, title: str, caption: str, page: Page = OWN, shown: Sequence[int] = ()
) -> Figure:
    """Draw a row for each network: the image, and what each layer still knows of it, with the error below.

    Args:
        inversion: what was found.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
        shown: channels of the pictures that are shown; see `shown_channels`.
    """
    images = inversion.images
    several = NAME if len(images) > 1 else 0.0
    across = 1 + max(len(image.layers) for image in images)
    side = _side(page, across, several)
    letters = int(side / LETTER)
    below = [_errors(image, letters) for image in images]
    height = side + ABOVE + max(len(lines) for of_image in below for lines in of_image) * LINE + GAP
    content = across * (side + GAP) - GAP + 2 * MARGIN + several
    sheet = Sheet(page.width or content, len(images) * height, title, caption, page=page)
    left = (sheet.width - content) / 2 + MARGIN
    for row, image in enumerate(images):
        y = sheet.top - row * height - ABOVE - side
        if row == 0 or not _same(image.original, images[0].original):  # once is enough where all see the same
            _draw_tile(sheet, enlarged(displayed(image.original, shown), PIXELS), (left, y), side, "image", ())
        first = left + side + GAP + several
        if several:
            name = shortened(image.network, int(side / 0.07))
            style = {"rotation": 90, "ha": "right", "va": "center", "fontsize": HEADING - 1}
            sheet.text(first - 0.06, y + side / 2, name, **style)
        for column, (picture, layer, lines) in enumerate(zip(image.pictures, image.layers, below[row], strict=True)):
            place = (first + column * (side + GAP), y)
            heading = shortened(layer, letters, keep_end=True)
            _draw_tile(sheet, enlarged(displayed(picture, shown), PIXELS), place, side, heading, lines)
    return sheet.figure


def _errors(image: InvertedImage, letters: int) -> list[list[str]]:
    """Return the lines that stand below the picture of each layer, which is as wide as so many letters."""
    errors = zip(image.errors.tolist(), image.pixel_errors.tolist(), strict=True)
    return [
        _fitting([f"error {error:.2g} at the layer", f"{pixels:.2g} in pixels"], letters) for error, pixels in errors
    ]


def _same(image: Array, other: Array) -> bool:
    """Return whether two images look the same."""
    return image.shape == other.shape and bool(np.abs(image - other).max() < INVISIBLE)


def _fitting(lines: Sequence[str], letters: int) -> list[str]:
    """Return lines below a picture, with those in two that are wider than it."""
    return [part for line in lines for part in textwrap.wrap(line, max(letters, 1))]


def seen_pictures(visualisation: Visualisation, shown: Sequence[int] = ()) -> list[Floats]:
    """Return the pictures as figures show them, [h, w, 3] or [h, w, 1] in 0..1; what was not looked at is white."""
    pictures: list[Array] = [displayed(picture, shown) for picture in visualisation.pictures]
    if not visualisation.opacity.size:
        return pictures
    opacity = visualisation.opacity[..., None]
    return [opaque * picture + (1 - opaque) for opaque, picture in zip(opacity, pictures, strict=True)]


def _values(visualisation: Visualisation, number: int, letters: int) -> list[str]:
    """Return the lines that stand below a picture that is as wide as so many letters."""
    value, strongest, mined = (
        readable(float(column[number]))
        for column in (visualisation.values, visualisation.strongest, visualisation.mined)
    )
    channel = visualisation.config["objective"] == "channel"
    lines = [f"mean {value}", f"strongest {strongest}"] if channel else [value]
    if not np.isnan(visualisation.mined[number]):
        lines.append(f"strongest mined {mined}")
    return _fitting(lines, letters)

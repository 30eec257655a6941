"""Figures of pictures by optimisation: tiles with their values, and rows of what layers still know of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from deconvviz.arrays import displayed
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.types import Array, Floats

if TYPE_CHECKING:
    from deconvviz.studies.visualisation.result import Inversion, Visualisation

SIDE, LEAST = 1.6, 0.6  # inches: side of a picture, and what one can be seen in
GAP, MARGIN, NARROWEST = 0.1, 0.15, 4.6  # inches
ABOVE, LINE = 0.18, 0.11  # inches: of a picture's heading, and of each line below it
NAME = 0.3  # inches for the name of a network, which stands to the left of its row
PIXELS = 96  # that a picture has at least: a small one is drawn as squares
LETTER = 0.052  # inches of a letter below a picture


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
    count = len(visualisation.channels)
    natural = max(1, min(count, round(math.sqrt(count) * 1.2)))
    across = page.across(count, natural, SIDE + GAP, 2 * MARGIN)
    side = page.fitted(SIDE, 2 * MARGIN + (across - 1) * GAP, across, LEAST)
    rows = math.ceil(count / across)
    mined = not np.isnan(visualisation.mined).all()
    height = side + ABOVE + (2 if mined else 1) * LINE + GAP
    width = page.width or max(across * (side + GAP) - GAP + 2 * MARGIN, NARROWEST)
    sheet = Sheet(width, rows * height, title, caption, page=page)
    left = (width - across * (side + GAP) + GAP) / 2
    for number, picture in enumerate(seen_pictures(visualisation, shown)):
        row, column = divmod(number, across)
        x, y = left + column * (side + GAP), sheet.top - row * height - ABOVE - side
        sheet.picture(enlarged(picture, PIXELS), x, y, side)
        heading = shortened(_heading(visualisation, number, names), int(side / LETTER))
        sheet.text(x + side / 2, y + side + 0.04, heading, ha="center", va="bottom", fontsize=HEADING - 1)
        style = {"ha": "center", "va": "top", "fontsize": SMALL, "color": "0.25"}
        for line, text in enumerate(_values(visualisation, number)):
            sheet.text(x + side / 2, y - 0.03 - line * LINE, text, **style)
    return sheet.figure


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
    side = page.fitted(SIDE, 2 * MARGIN + several + (across - 1) * GAP, across, LEAST)
    height = side + ABOVE + 2 * LINE + GAP
    width = page.width or max(across * (side + GAP) - GAP + 2 * MARGIN + several, NARROWEST)
    sheet = Sheet(width, len(images) * height, title, caption, page=page)
    left = (width - several - across * (side + GAP) + GAP) / 2 + several
    letters = int(side / LETTER)
    for row, image in enumerate(images):
        y = sheet.top - row * height - ABOVE - side
        if several:
            name = shortened(image.network, int(side / 0.07))
            style = {"rotation": 90, "ha": "right", "va": "center", "fontsize": HEADING - 1}
            sheet.text(left - 0.06, y + side / 2, name, **style)
        errors = image.errors.tolist(), image.pixel_errors.tolist()
        below = [
            (f"error {error:.2g} at the layer", f"{pixels:.2g} in pixels")
            for error, pixels in zip(*errors, strict=True)
        ]
        tiles = zip((image.original, *image.pictures), ("image", *image.layers), [(), *below], strict=True)
        for column, (picture, name, texts) in enumerate(tiles):
            x = left + column * (side + GAP)
            sheet.picture(enlarged(displayed(picture, shown), PIXELS), x, y, side)
            heading = shortened(name, letters, keep_end=True)
            sheet.text(x + side / 2, y + side + 0.04, heading, ha="center", va="bottom", fontsize=HEADING - 1)
            for line, text in enumerate(texts):
                style = {"ha": "center", "va": "top", "fontsize": SMALL, "color": "0.25"}
                sheet.text(x + side / 2, y - 0.03 - line * LINE, text, **style)
    return sheet.figure


def seen_pictures(visualisation: Visualisation, shown: Sequence[int] = ()) -> list[Floats]:
    """Return the pictures as figures show them, [h, w, 3] or [h, w, 1] in 0..1; what was not looked at is white."""
    pictures: list[Array] = [displayed(picture, shown) for picture in visualisation.pictures]
    if not visualisation.opacity.size:
        return pictures
    opacity = visualisation.opacity[..., None]
    return [opaque * picture + (1 - opaque) for opaque, picture in zip(opacity, pictures, strict=True)]


def _heading(visualisation: Visualisation, number: int, names: Sequence[str]) -> str:
    """Return what stands above a picture."""
    channel, config = int(visualisation.channels[number]), visualisation.config
    text = {"class": "class ", "direction": "direction ", "cosine": "direction ", "unit": "unit of "}.get(
        config["objective"], ""
    ) + str(channel)
    if config["objective"] == "dream":
        text = "the whole layer"
    if config["objective"] == "class" and channel < len(names):
        text = f"{channel} {names[channel]}"
    return f"{text}, {visualisation.variant(number) + 1}" if config["variants"] > 1 else text


def _values(visualisation: Visualisation, number: int) -> list[str]:
    """Return what stands below a picture."""
    value, strongest, mined = (
        float(column[number]) for column in (visualisation.values, visualisation.strongest, visualisation.mined)
    )
    whole = visualisation.config["objective"] != "channel"
    lines = [f"{value:.4g}" if whole else f"mean {value:.4g}, strongest {strongest:.4g}"]
    return lines if np.isnan(mined) else [*lines, f"strongest mined {mined:.4g}"]

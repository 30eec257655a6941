"""The figure of matches: numbers at places that match each other, and every place in the colour of its match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, image_label
from deconvviz.studies.pairs.match_result import Match, Matches
from deconvviz.types import Floats, Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE, LEAST, GAP, NAMES = 2.1, 0.8, 0.1, 0.2  # inches: a picture, the smallest, between two, and the line above them
PANELS = 4
LETTERS = 30  # of an image's name above it
# The colours of the first image's corners, upper left, upper right, lower left, lower right: to the right they turn
# from blue to yellow, which every eye tells apart, and downwards they become lighter
CORNERS = ((0.05, 0.12, 0.55), (0.75, 0.45, 0.0), (0.45, 0.75, 1.0), (1.0, 0.95, 0.45))
STRENGTH = 0.8  # of the colours over the picture, at the strongest match


def draw_matches(matches: Matches, count: int = 8, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw a row of four pictures for each pair.

    The first two are the images, with numbers at places that match each other best. The third is the first image with a
    colour for each place; the fourth is the second image, each place in the colour of the place that it matches best,
    the stronger the more this match weighs.

    Args:
        matches: of the pairs.
        count: matches that are numbered, at most.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    pairs, fixed = len(matches.names), (PANELS + 1) * GAP
    tile = page.fitted(TILE, fixed, PANELS, LEAST)
    step = tile + GAP
    sheet = Sheet(fixed + PANELS * tile, pairs * (step + NAMES), title, caption, page=page)
    colours = place_colours(matches.size)
    for pair, names in enumerate(matches.names):
        bottom = sheet.top - (pair + 1) * (step + NAMES) + GAP
        first, second = matches.pictures[pair]
        strength = np.sqrt(scaled(matches.weights[pair, 1]))  # as maps are laid over pictures
        shown = (
            first / 255.0,
            second / 255.0,
            coloured(first, colours, np.ones(len(colours)), matches.size),
            coloured(second, colours[matches.places[pair, 1]], strength, matches.size),
        )
        heads = (*names, "first image, a colour for each place", "second, in the colours of its matches")
        panels = []
        for number, (picture, head) in enumerate(zip(shown, heads, strict=True)):
            left = GAP + number * step
            panels.append(sheet.picture(picture, left, bottom, tile))
            text = image_label(head, LETTERS) if number < 2 else head
            sheet.text(left + tile / 2, bottom + tile + 0.04, text, ha="center", va="bottom", fontsize=SMALL)
        for number, match in enumerate(matches.apart(pair, count), 1):
            _mark(panels, matches, match, number)
    return sheet.figure


def place_colours(size: tuple[int, int]) -> Floats:
    """Return a colour for each place of maps, float64 [rows * columns, 3]: a mix of the four corners' colours.

    >>> place_colours((2, 2)).tolist() == [list(corner) for corner in CORNERS]
    True
    """
    corners = np.array(CORNERS).reshape(2, 2, 3)
    down, across = (np.linspace(0, 1, length) if length > 1 else np.full(1, 0.5) for length in size)
    rows = corners[0] * (1 - down)[:, None, None] + corners[1] * down[:, None, None]  # [rows, 2, 3]
    mixed: Floats = rows[:, :1] * (1 - across)[:, None] + rows[:, 1:] * across[:, None]
    return mixed.reshape(-1, 3)


def coloured(picture: Pixels, colours: Floats, strength: Floats, size: tuple[int, int]) -> Floats:
    """Lay a colour over each place of a picture, whose own colours become grey.

    Args:
        picture: uint8 [H, W, 3].
        colours: float64 [places, 3] in 0..1.
        strength: float64 [places] in 0..1, how strong each is.
        size: (rows, columns) of the places.

    Returns:
        float64 [H, W, 3] in 0..1.
    """
    height, width = picture.shape[:2]
    rows, columns = (np.arange(length) * cells // length for length, cells in zip((height, width), size, strict=True))
    places = rows[:, None] * size[1] + columns
    grey = picture.mean(2, keepdims=True) / 255
    opacity = STRENGTH * strength[places][..., None]
    bright = colours[places] * (0.7 + 0.3 * grey)  # so that the picture is seen through the colour
    mixed: Floats = grey * (1 - opacity) + bright * opacity
    return mixed


def scaled(weights: Floats) -> Floats:
    """Return values from their lowest (0) to their highest (1); ones where all are equal."""
    span = float(np.ptp(weights))
    return (weights - weights.min()) / span if span > 0 else np.ones_like(weights)


def _mark(panels: list[Axes], matches: Matches, match: Match, number: int) -> None:
    """Write a number at the places of a match, in the first two panels."""
    for axes, place in zip(panels, (match.a, match.b), strict=False):
        y, x = matches.middle(place)
        axes.text(
            x - 0.5,
            y - 0.5,
            str(number),
            ha="center",
            va="center",
            fontsize=5.5,
            color="white",
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": "black", "edgecolor": "white", "linewidth": 0.7},
        )

"""One projection: the image with what the unit sees, the projection, and its magnitude at each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.overlay import SIGNED
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, Sheet
from deconvviz.types import Box, Pixels

WIDTH, GAP, EDGE, ABOVE = 3.0, 0.12, 0.15, 0.2  # inches: of a panel, between two, beside them, for a heading
LEGEND = 0.75  # inches for the colour bar, its ticks and its label
HEADINGS = ("image", "projection, contrast stretched", "magnitude of the projection")
SHORT_HEADINGS = ("image", "projection", "magnitude")
SUMMED, SHORT_SUMMED = "relevance of each pixel", "relevance"


def draw_projection(
    picture: Pixels,
    projection: NDArray[np.floating[Any]],
    window: Box,
    title: str,
    caption: str,
    page: Page = OWN,
    channels: Sequence[int] = (),
    summed: bool = False,
) -> Figure:
    """Draw the image, the projection, and the projection's magnitude over the image, side by side.

    Args:
        picture: uint8 [H, W, 3], what the network saw.
        projection: floating [H, W, C], signed.
        window: the pixels that the unit sees; they are outlined in each panel.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
        channels: those of the projection that are shown; see `shown_channels`. The magnitude is that of all.
        summed: instead of the magnitude show the sum over the channels with its sign: relevance adds up.
    """
    fixed = 2 * EDGE + 2 * GAP + LEGEND
    width = page.fitted(WIDTH, fixed, 3, 0.6)
    height = width * picture.shape[0] / picture.shape[1]
    sheet = Sheet(fixed + 3 * width, height + ABOVE, title, caption, 150, page)
    lefts = [EDGE + n * (width + GAP) for n in range(3)]
    headings = HEADINGS if width > 1.8 else SHORT_HEADINGS
    if summed:
        headings = (*headings[:2], SUMMED if width > 1.8 else SHORT_SUMMED)
    for left, heading in zip(lefts, headings, strict=True):
        sheet.text(left + width / 2, sheet.bottom + height + 0.05, heading, ha="center", va="bottom", fontsize=HEADING)
    _outline(sheet.picture(picture, lefts[0], sheet.bottom, width, height), window)
    _outline(sheet.picture(stretched(displayed(projection, channels)), lefts[1], sheet.bottom, width, height), window)
    axes = sheet.frame(lefts[2], sheet.bottom, width, height)
    grey = picture.astype(float).mean(2) / 255
    axes.imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1)
    colours = _strength(axes, projection, summed)
    _outline(axes, window)
    what = "relevance" if summed else "magnitude"
    label = f"{what} / its 99th percentile" if height > 1.5 else what
    sheet.colour_bar(colours, label, lefts[2] + width + GAP, sheet.bottom, height)
    return sheet.figure


def _strength(axes: Axes, projection: NDArray[np.floating[Any]], summed: bool) -> ScalarMappable:
    """Show how strong a projection [H, W, C] is at each pixel, transparent at zero; returns the colours."""
    values = projection.sum(2) if summed else np.sqrt((projection**2).sum(2))
    sizes = np.abs(values)
    peak = float(np.percentile(sizes[sizes > 0], 99)) if sizes.any() else 1.0
    least, palette = (-1, SIGNED) if summed else (0, "viridis")
    strength = np.clip(values / peak, least, 1)
    return axes.imshow(strength, cmap=palette, vmin=least, vmax=1, alpha=0.9 * np.sqrt(np.abs(strength)))


def _outline(axes: Axes, window: Box) -> None:
    """Outline a window with a black line on a white one, which shows on any picture."""
    corner = (window.left - 0.5, window.top - 0.5)
    for colour, thickness in (("white", 2.2), ("black", 0.9)):
        axes.add_patch(
            Rectangle(corner, window.width, window.height, fill=False, edgecolor=colour, linewidth=thickness)
        )

"""One projection: the image with what the unit sees, the projection, and its magnitude at each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, Sheet
from deconvviz.types import Box, Pixels

WIDTH, GAP, EDGE, ABOVE = 3.0, 0.12, 0.15, 0.2  # inches: of a panel, between two, beside them, for a heading
LEGEND = 0.75  # inches for the colour bar, its ticks and its label
HEADINGS = ("image", "projection, contrast stretched", "magnitude of the projection")
SHORT_HEADINGS = ("image", "projection", "magnitude")


def draw_projection(
    picture: Pixels,
    projection: NDArray[np.floating[Any]],
    window: Box,
    title: str,
    caption: str,
    page: Page = OWN,
    channels: Sequence[int] = (),
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
    """
    fixed = 2 * EDGE + 2 * GAP + LEGEND
    width = page.fitted(WIDTH, fixed, 3, 0.6)
    height = width * picture.shape[0] / picture.shape[1]
    sheet = Sheet(fixed + 3 * width, height + ABOVE, title, caption, 150, page)
    lefts = [EDGE + n * (width + GAP) for n in range(3)]
    headings = HEADINGS if width > 1.8 else SHORT_HEADINGS
    for left, heading in zip(lefts, headings, strict=True):
        sheet.text(left + width / 2, sheet.bottom + height + 0.05, heading, ha="center", va="bottom", fontsize=HEADING)
    _outline(sheet.picture(picture, lefts[0], sheet.bottom, width, height), window)
    _outline(sheet.picture(stretched(displayed(projection, channels)), lefts[1], sheet.bottom, width, height), window)
    axes = sheet.frame(lefts[2], sheet.bottom, width, height)
    grey = picture.astype(float).mean(2) / 255
    axes.imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1)
    magnitude = np.sqrt((projection**2).sum(2))
    peak = float(np.percentile(magnitude[magnitude > 0], 99)) if magnitude.any() else 1.0
    strength = np.clip(magnitude / peak, 0, 1)
    colours = axes.imshow(strength, cmap="viridis", vmin=0, vmax=1, alpha=0.9 * np.sqrt(strength))
    _outline(axes, window)
    sheet.colour_bar(
        colours,
        "magnitude / its 99th percentile" if height > 1.5 else "magnitude",
        lefts[2] + width + GAP,
        sheet.bottom,
        height,
    )
    return sheet.figure


def _outline(axes: Axes, window: Box) -> None:
    """Outline a window with a black line on a white one, which shows on any picture."""
    corner = (window.left - 0.5, window.top - 0.5)
    for colour, thickness in (("white", 2.2), ("black", 0.9)):
        axes.add_patch(
            Rectangle(corner, window.width, window.height, fill=False, edgecolor=colour, linewidth=thickness)
        )

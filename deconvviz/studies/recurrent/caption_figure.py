"""A caption as a figure: the image, and a map for each word with what the words before add."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from deconvviz.figures.overlay import SIGNED
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, SMALL, Sheet, shortened
from deconvviz.studies.recurrent.figure import signed_scale

if TYPE_CHECKING:
    from deconvviz.studies.recurrent.caption_result import Caption

SIDE, GAP, LINES, BAR = 1.5, 0.12, 0.62, 0.85  # inches: a map, between two, the lines below one, room of the bar


def draw_caption(caption: Caption, title: str = "", text: str = "", page: Page = OWN) -> Figure:
    """Draw an image, and for each word where in the image it comes from.

    Args:
        caption: from `explain_caption`.
        title: text above; by default the caption.
        text: text below; by default what is shown.
        page: what is asked for of the page; its columns are pictures in a row.
    """
    count = len(caption.words) + 1
    columns = page.across(count, 5, SIDE + GAP, GAP + BAR)
    side = page.fitted(SIDE, GAP * (columns + 1) + BAR, columns, 0.8)
    rows, height = math.ceil(count / columns), side + LINES
    most = float(np.quantile(np.abs(caption.maps), 0.999)) or 1.0
    sheet = Sheet(
        GAP + columns * (side + GAP) + BAR,
        rows * height,
        title or f"“{caption.text}”",
        text or caption_words(caption),
        page=page,
    )
    for place in range(count):
        left = GAP + (place % columns) * (side + GAP)
        bottom = sheet.top - (place // columns) * height - side
        if not place:
            sheet.picture(caption.picture, left, bottom, side)
            sheet.text(left, bottom - 0.05, "the image", va="top", fontsize=SMALL)
            continue
        axes = sheet.frame(left, bottom, side, side)
        grey = caption.picture.mean(2)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axes.imshow(caption.maps[place - 1], cmap=SIGNED, vmin=-most, vmax=most, alpha=0.75)
        for number, line in enumerate(_lines(caption, place - 1, int(side / 0.05))):
            size = CAPTION if not number else SMALL - 0.5
            sheet.text(left, bottom - 0.05 - 0.12 * number, line, va="top", fontsize=size)
    bar = min(side, 1.4)
    left = GAP + columns * (side + GAP) + 0.05
    sheet.colour_bar(signed_scale(most), "relevance of a pixel\n(of the word's score)", left, sheet.top - bar, bar)
    return sheet.figure


def _lines(caption: Caption, place: int, letters: int) -> list[str]:
    """Return what stands below the map of a word."""
    lines = [
        f"{caption.words[place]} ({100 * caption.probabilities[place]:.0f} %)",
        f"score {caption.scores[place]:.2f}, image {caption.of_image[place]:+.2f}",
    ]
    if place:
        before = int(np.abs(caption.of_words[place, :place]).argmax())
        lines.append(f"words {caption.of_words[place].sum():+.2f}, most “{caption.words[before]}”")
    return [shortened(line, letters) for line in lines]


def caption_words(caption: Caption) -> str:
    """Return what the figure of a caption shows."""
    return (
        "Each word's score goes back through the gates of the recurrent network, where signals take all, to the words "
        f"before and the image's vector, and from it through the CNN to the pixels ({caption.method}). Red speaks "
        "for the word, blue against it. Below each map: the word and its probability; its score and what the image "
        "adds; what the words before add."
    )

"""The channels that decide: a row for each with its share as a bar, and the patches in which it weighed most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.bars import draw_interval, label_values, rows_from_top
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, SMALL, Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.relevance.deciding import DecidingChannel, DecidingChannels

FOR, AGAINST = "#0072b2", "#d55e00"  # blue and vermilion, told apart by all eyes
TILE, GAP, ROW = 0.55, 0.03, 0.64  # inches: side of a patch, between two, and height of a row
LABEL, BARS, PICTURE = 0.62, 1.9, 1.6  # inches: for a channel's number, the bars, and the image that was explained
NAMED = 1.3  # inches for the numbers where channels have names
BELOW, ABOVE, BETWEEN = 0.48, 0.22, 0.2  # inches below and above the rows, and between parts
LETTER = 0.055  # inches of a letter of a name


def draw_relevance(deciding: DecidingChannels, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a row for each channel: its number and name, its share, and its patches by relevance.

    Args:
        deciding: what is shown, at least one channel.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    rows = deciding.channels
    most = max((len(row.patches) for row in rows), default=0)
    label = NAMED if any(row.name for row in rows) else LABEL
    image = PICTURE + BETWEEN if deciding.picture is not None else 0.0
    fixed = 0.15 + image + label + BARS + BETWEEN + 0.15
    tile = page.fitted(TILE + GAP, fixed, max(most, 1), 0.25) - GAP
    row_height = max(tile + 0.09, 0.3)
    width = page.width or max(fixed + most * (tile + GAP), 6.0)
    height = max(len(rows), 1) * row_height
    body = max(height, PICTURE if image else 0.0) + BELOW + ABOVE
    sheet = Sheet(width, body, title, caption, page=page)
    top = sheet.top - ABOVE
    if deciding.picture is not None:
        sheet.picture(deciding.picture, 0.15, top - PICTURE, PICTURE)
    left = 0.15 + image + label
    _draw_bars(sheet.axes(left, top - height, BARS, height), rows, label)
    first = left + BARS + BETWEEN
    if most:
        sheet.text(first, top + 0.06, "patches by relevance, the largest share first", fontsize=HEADING, va="bottom")
    for index, row in enumerate(rows):
        bottom = top - (index + 1) * row_height + (row_height - tile) / 2
        for place, patch in enumerate(row.patches):
            sheet.picture(patch, first + place * (tile + GAP), bottom, tile)
        if not len(row.patches):
            text = "its share is above zero in no decision"
            sheet.text(first, bottom + tile / 2, text, va="center", fontsize=SMALL, color="0.4")
    return sheet.figure


def _draw_bars(axes: Axes, rows: tuple[DecidingChannel, ...], label: float) -> None:
    """Draw each channel's share in per cent, with its 95 % interval where there is one."""
    letters = int((label - 0.1) / LETTER)
    heights = rows_from_top(len(rows))
    names = [f"{row.channel}\n{shortened(row.name, letters)}" if row.name else str(row.channel) for row in rows]
    for row, height in zip(rows, heights, strict=True):
        estimate = 100 * np.array([row.share, row.share - row.half, row.share + row.half])
        draw_interval(axes, estimate, height, FOR if row.share > 0 else AGAINST)
    axes.set_yticks(heights, names, fontsize=7)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.axvline(0, color="0.5", linewidth=0.8)
    intervals = any(not np.isnan(row.half) for row in rows)
    label_values(axes, "share of the relevance (%" + (", 95 % interval)" if intervals else ")"))
    axes.set_title("channel", fontsize=HEADING, loc="left", x=-0.35)

"""Pictures as the figure of a finding: in rows, or in sets of those that belong together."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import matplotlib.lines
from matplotlib.figure import Figure

from deconvviz.figures.sheet import CAPTION, Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.finding import Evidence, TileSet

DPI = 150  # the page embeds these figures; more would only make it larger
WIDTH = 7.2  # inches
MARGIN, GAP = 0.15, 0.1  # inches: beside the tiles, and between them
LETTER, ROW = 0.062, 0.12  # inches: the width of a letter of a tile's label, and the height of its lines
# Inches, of tiles in sets: their side, and the gaps between those of a set and between sets.
SIDE, CLOSE, APART = 0.98, 0.04, 0.36
BRACKET = 0.06  # inches between the labels of a set's tiles, the line below them and the label of the set


def draw_tiles(evidence: Evidence, title: str, caption: str) -> Figure:
    """Draw pictures in rows, each with its label below; those of a set stand close together, apart from the others.

    Args:
        evidence: of the kind "tiles".
        title: the heading.
        caption: what stands below.
    """
    if evidence.sets:
        return _draw_sets(evidence, title, caption)
    pictures = evidence.arrays["pictures"]
    across = _across(len(pictures))
    side = (WIDTH - 2 * MARGIN + GAP) / across - GAP
    down, height = math.ceil(len(pictures) / across), side * pictures.shape[1] / pictures.shape[2]
    letters = int(side / LETTER)
    labels = [textwrap.fill(shortened(label, 2 * letters), letters) for label in evidence.labels]
    step = height + GAP + ROW * max((label.count("\n") + 1 for label in labels if label), default=0)
    sheet = Sheet(WIDTH, down * step, title, caption, DPI)
    for n, picture in enumerate(pictures):
        row, column = divmod(n, across)
        left, bottom = MARGIN + column * (side + GAP), sheet.top - row * step - height
        sheet.picture(picture / 255.0, left, bottom, side, height)
        if n < len(labels):
            sheet.text(left + side / 2, bottom - 0.05, labels[n], ha="center", va="top", fontsize=CAPTION)
    return sheet.figure


def _across(count: int) -> int:
    """Return the number of columns: all pictures in one row where they fit, else a number that fills every row."""
    return count if 2 < count <= 6 else 3 if count < 3 else next((n for n in (6, 5, 4, 7, 8) if count % n == 0), 6)


def _draw_sets(evidence: Evidence, title: str, caption: str) -> Figure:
    """Draw sets of pictures, as many in a row as fit; a line below each set joins its pictures, and has its label."""
    pictures, labels = evidence.arrays["pictures"], evidence.labels
    height = SIDE * pictures.shape[1] / pictures.shape[2]
    rows = _rows(evidence.sets)
    steps = [height + ROW + 2 * BRACKET + ROW * max(map(_lines, row)) + APART / 2 for row in rows]
    sheet = Sheet(WIDTH, sum(steps), title, caption, DPI)
    top, number = sheet.top, 0
    for row, step in zip(rows, steps, strict=True):
        left = MARGIN
        for each in row:
            for place in range(each.tiles):
                x, y = left + place * (SIDE + CLOSE), top - height
                sheet.picture(pictures[number] / 255.0, x, y, SIDE, height)
                label = shortened(labels[number], int(SIDE / LETTER)) if number < len(labels) else ""
                sheet.text(x + SIDE / 2, y - 0.03, label, ha="center", va="top", fontsize=CAPTION)
                number += 1
            _bracket(sheet, each, left, top - height - ROW - BRACKET)
            left += _width(each) + APART
        top -= step
    return sheet.figure


def _rows(sets: tuple[TileSet, ...]) -> list[list[TileSet]]:
    """Return the sets in rows, in their order, each row as full as it can be."""
    rows: list[list[TileSet]] = []
    room = 0.0
    for each in sets:
        if not rows or _width(each) > room:
            rows.append([])
            room = WIDTH - 2 * MARGIN + 0.01
        rows[-1].append(each)
        room -= _width(each) + APART
    return rows


def _width(each: TileSet) -> float:
    """Return the width of a set in inches."""
    return each.tiles * (SIDE + CLOSE) - CLOSE


def _wrapped(each: TileSet) -> str:
    return textwrap.fill(each.label, int((_width(each) + APART / 2) / LETTER))


def _lines(each: TileSet) -> int:
    return _wrapped(each).count("\n") + 1


def _bracket(sheet: Sheet, each: TileSet, left: float, y: float) -> None:
    """Draw the line below a set of pictures, and its label."""
    ends = [left / sheet.width, (left + _width(each)) / sheet.width]
    line = matplotlib.lines.Line2D(ends, [y / sheet.height] * 2, color="0.3", linewidth=1)
    sheet.figure.add_artist(line)
    sheet.text(left + _width(each) / 2, y - 0.04, _wrapped(each), ha="center", va="top", fontsize=CAPTION)

"""Examples as a figure: the image, and rows of training images that explain its decision; and suspicious images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, HEADING, SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged

if TYPE_CHECKING:
    from deconvviz.studies.examples.result import ExampleRow, Examples, Suspects
    from deconvviz.types import Pixels

TILE, LEAST, GAP = 0.8, 0.45, 0.08  # inches: side of a picture, the smallest side, and between two of them
HEAD, FOOT = 0.22, 0.3  # inches of a row above its pictures, for its title, and below, for class and value
IMAGE = 1.5  # inches of the image that is explained
LETTER = 0.047  # inches of a letter below a picture
PIXELS = 288  # pixels that a picture has at least, so that those of a small image are drawn as squares
DIFFERS = "#d55e00"  # vermilion: another class than the one that is explained, or than the label


def draw_examples(examples: Examples, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the image beside rows of training images, each with its class and its value.

    The class of a training image is vermilion where it is another one than the decision's.

    Args:
        examples: from `examples`.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are pictures in a row.
    """
    most = max((len(row.images) for row in examples.rows), default=1)
    rows = [row for row in examples.rows if len(row.images)]
    columns = page.across(most, most, TILE + GAP, IMAGE + 4 * GAP)
    fixed = IMAGE + 4 * GAP + GAP * columns
    tile = page.fitted(TILE, fixed, columns, LEAST)
    height = HEAD + tile + FOOT
    body = max(height * len(rows), IMAGE + 0.5)
    sheet = Sheet(fixed + columns * tile, body, title, caption, page=page)
    _draw_image(sheet, examples)
    for number, row in enumerate(rows):
        _draw_row(sheet, examples, row, sheet.top - (number + 1) * height, tile, columns)
    return sheet.figure


def _draw_image(sheet: Sheet, examples: Examples) -> None:
    left, bottom = 2 * GAP, sheet.top - HEAD - IMAGE
    sheet.picture(_large(examples.picture), left, bottom, IMAGE)
    letters = int(IMAGE / LETTER)
    lines = [
        shortened(examples.name, letters, keep_end=True),
        shortened(f"{examples.class_name(examples.decided)}, {100 * examples.probability:.1f} %", letters),
    ]
    text = "\n".join(line for line in lines if line)
    sheet.text(left + IMAGE / 2, bottom - 0.05, text, ha="center", va="top", fontsize=CAPTION)


def _draw_row(sheet: Sheet, examples: Examples, row: ExampleRow, bottom: float, tile: float, columns: int) -> None:
    left, letters = IMAGE + 4 * GAP, int(tile / LETTER)
    sheet.text(left, bottom + FOOT + tile + 0.04, f"{row.title} ({row.unit})", va="bottom", fontsize=HEADING)
    for place, picture in enumerate(row.pictures[:columns]):
        x, label = left + place * (tile + GAP), int(row.labels[place])
        sheet.picture(_large(picture), x, bottom + FOOT, tile)
        colour = "0.2" if label == examples.decided else DIFFERS
        name, value = shortened(examples.class_name(label), letters), f"{row.values[place]:.3g}"
        middle = x + tile / 2
        sheet.text(middle, bottom + FOOT - 0.03, name, ha="center", va="top", fontsize=SMALL, color=colour)
        sheet.text(middle, bottom + FOOT - 0.14, value, ha="center", va="top", fontsize=SMALL, color="0.4")


def draw_suspects(suspects: Suspects, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the most suspicious training images, each with its label, the predicted class and its self-influence.

    Args:
        suspects: from `suspects`.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are pictures in a row.
    """
    count, wide = len(suspects.pictures), TILE * 1.25
    columns = page.across(count, 8, wide + GAP, 2 * GAP)
    tile = page.fitted(wide, 2 * GAP + GAP * columns, columns, LEAST)
    height, letters = tile + 0.5, int(tile / LETTER)
    sheet = Sheet(2 * GAP + columns * (tile + GAP), math.ceil(count / columns) * height, title, caption, page=page)
    for place, picture in enumerate(suspects.pictures):
        x = 1.5 * GAP + (place % columns) * (tile + GAP)
        y = sheet.top - (place // columns) * height - tile
        sheet.picture(_large(picture), x, y, tile)
        label, predicted = int(suspects.labels[place]), int(suspects.predicted[place])
        lines = [
            (f"label: {suspects.class_name(label)}", "0.2"),
            (f"network: {suspects.class_name(predicted)}", "0.2" if predicted == label else DIFFERS),
            (f"{suspects.values[place]:.3g}", "0.4"),
        ]
        for number, (line, colour) in enumerate(lines):
            place_of_line = x + tile / 2, y - 0.03 - 0.11 * number
            sheet.text(*place_of_line, shortened(line, letters), ha="center", va="top", fontsize=SMALL, color=colour)
    return sheet.figure


def _large(picture: Pixels) -> Pixels:
    large: Pixels = enlarged(picture, PIXELS)
    return large

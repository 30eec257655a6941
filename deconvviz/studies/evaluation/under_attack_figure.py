"""Draw how far maps move under attacks: a table of numbers in colours, what is beyond noise, and maps side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from deconvviz.figures.overlay import SIGNED, VIRIDIS, draw_map
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, image_label, shortened
from deconvviz.studies.evaluation.under_attack_result import CASES, SHOWN_MOVE, Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deconvviz.studies.evaluation.under_attack_result import MapsUnderAttack

COLOURS = "viridis"
NAMES, RIGHT, BAR = 1.95, 0.95, 0.1  # inches: what the rows are, the colour bar with its words, and the bar alone
CELL, LEAST, ROW, BETWEEN = 0.72, 0.5, 0.36, 0.3  # inches: width of a column, the least, a row, and between parts
LETTER, HEADING = 0.055, 0.22  # inches: of a letter of a method's name, and of the line above a part
GAP, MOST_NAME = 0.05, 24  # inches between maps, and letters of a row's name
DPI = 170
MEASURES = {
    "ssim": "1 - SSIM",
    "pearson": "1 - correlation",
    "spearman": "1 - rank correlation",
    "l1": "mean difference of the map, share of its range",
    "top_15": "1 - overlap (IoU) of the strongest 15 %",
}
"""Measure -> what it is called."""


class Rows(NamedTuple):
    """A part of the figure that is a table.

    Attributes:
        title: above it.
        names: of the rows.
        cells: a row of estimates for each name.
        bar: what the colour bar says.
        signed: whether 0 is the middle of the colours.
    """

    title: str
    names: list[str]
    cells: list[list[Estimate]]
    bar: str
    signed: bool


def draw_maps_under_attack(
    found: MapsUnderAttack, measure: str = SHOWN_MOVE, title: str = "", caption: str = "", page: Page = OWN
) -> Figure:
    """Draw a column for each method: how far its maps move under each attack and under noise, and some of the maps.

    Args:
        found: what was measured.
        measure: one of MOVES.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    cell = page.fitted(CELL, NAMES + RIGHT, len(found.methods), LEAST)
    tables = _tables(found, measure)
    head = LETTER * max(map(len, found.methods)) + 0.08
    images = _shown_images(found)
    heights = [HEADING + len(table.names) * ROW + BETWEEN for table in tables]
    body = head + sum(heights) + (HEADING + len(images) * (2 * cell + 2 * GAP) if images else 0)
    sheet = Sheet(NAMES + len(found.methods) * cell + RIGHT, body, title, caption, DPI, page)
    for column, method in enumerate(found.methods):
        x = NAMES + (column + 0.5) * cell
        sheet.text(x, sheet.top - head + 0.04, method, rotation=90, ha="center", va="bottom", fontsize=7)
    top = sheet.top - head
    for table, height in zip(tables, heights, strict=True):
        _draw_table(sheet, table, top, cell)
        top -= height
    if images:
        _part_title(sheet, "maps of the same class, before and after", top)
        top -= HEADING
    for attack, number in images:
        _draw_image(sheet, found, attack, number, top, cell)
        top -= 2 * (cell + GAP)
    return sheet.figure


def _tables(found: MapsUnderAttack, measure: str) -> list[Rows]:
    """Return the two tables: how far maps move, and how much farther than under noise."""
    named = {attack: shortened(attack, MOST_NAME) for attack in found.attacks}
    names, heads = list[str](), list[str]()
    moved, beyond = list[list[Estimate]](), list[list[Estimate]]()
    for attack in found.attacks:
        names += [head := f"{named[attack]}\n{_words(found, attack)}", "noise of the same size"]
        moved += [[found.estimate(attack, method, case, measure) for method in found.methods] for case in CASES[:2]]
        of_new_class = [found.estimate(attack, method, "new_class", measure) for method in found.methods]
        if not all(np.isnan(estimate.mean) for estimate in of_new_class):
            names.append("map of the new class")
            moved.append(of_new_class)
        heads.append(head)
        beyond.append([found.beyond_noise(attack, method, measure) for method in found.methods])
    return [
        Rows(f"how far maps move: {MEASURES[measure]}", names, moved, "0 is the\nsame map", False),
        Rows("farther than under noise: the mean difference", heads, beyond, "above 0:\nfarther", True),
    ]


def _words(found: MapsUnderAttack, attack: str) -> str:
    """Return what an attack was for, and how many images it fooled."""
    fooled = found.fooled[attack]
    return shortened(f"{found.attacked_for(attack)}, {int(fooled.sum())} of {len(fooled)} fooled", 34)


def _part_title(sheet: Sheet, text: str, top: float) -> None:
    sheet.text(GAP, top - HEADING / 2 - 0.03, text, ha="left", va="center", fontsize=7, fontweight="bold")


def _draw_table(sheet: Sheet, table: Rows, top: float, cell: float) -> None:
    """Draw a table as a field of colours with its numbers, below `top`, in inches."""
    _part_title(sheet, table.title, top)
    means = np.array([[estimate.mean for estimate in row] for row in table.cells])
    height, width = len(table.cells) * ROW, means.shape[1] * cell
    axes = sheet.frame(NAMES, top - HEADING - height, width, height)
    largest = max(float(np.nanmax(np.abs(means), initial=0)), 1e-9)
    scale = Normalize(-largest if table.signed else 0, largest)
    colours = matplotlib.colormaps[SIGNED if table.signed else COLOURS]
    axes.imshow(np.ma.masked_invalid(means), cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
    _write_numbers(axes, table.cells, colours(scale(np.nan_to_num(means))))
    for row, name in enumerate(table.names):
        y = top - HEADING - (row + 0.5) * ROW
        sheet.text(NAMES - 0.06, y, name, ha="right", va="center", fontsize=SMALL)
    tall = max(height, 0.5)
    bar = ScalarMappable(scale, colours)
    ticks = [-largest, 0, largest] if table.signed else [0, largest]
    sheet.colour_bar(bar, table.bar, NAMES + width + 0.1, top - HEADING - tall, tall, BAR, ticks)
    sheet.figure.axes[-1].set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])


def _write_numbers(axes: Axes, cells: Sequence[Sequence[Estimate]], shades: Any) -> None:
    """Write each mean, and below it half its interval, in black or white, whichever is seen."""
    for row, estimates in enumerate(cells):
        for column, (mean, error) in enumerate(estimates):
            light = float(np.dot(shades[row, column, :3], (0.299, 0.587, 0.114))) > 0.5
            words = "" if np.isnan(mean) else f"{mean:.2f}" if np.isnan(error) else f"{mean:.2f}\n±{error:.2f}"
            colour = "black" if light else "white"
            axes.text(column, row, words, ha="center", va="center", fontsize=SMALL, color=colour, linespacing=1.0)


def _shown_images(found: MapsUnderAttack) -> list[tuple[str, int]]:
    """Return which images are drawn: all that are kept of a single attack, the first one of each of several."""
    most = None if len(found.attacks) == 1 else 1
    return [(attack, number) for attack in found.attacks for number in range(len(found.pictures[attack][:most]))]


def _draw_image(sheet: Sheet, found: MapsUnderAttack, attack: str, number: int, top: float, cell: float) -> None:
    """Draw two rows below `top`, in inches: an image with its maps, and attacked with its maps of the same class."""
    classes = (f"{found.class_name(each[attack][number])}" for each in (found.own, found.after))
    heads = (image_label(found.names[attack][number], MOST_NAME), shortened(attack, MOST_NAME))
    side = cell - GAP
    for row, (found_class, head) in enumerate(zip(classes, heads, strict=True)):
        bottom, picture = top - (row + 1) * (cell + GAP / 2) + GAP, found.pictures[attack][number, row]
        words = f"{head}\nfound: {shortened(found_class, 20)}"
        sheet.text(NAMES - side - 0.12, bottom + side / 2, words, ha="right", va="center", fontsize=5.5)
        sheet.picture(picture / 255.0, NAMES - side - 0.06, bottom, side)
        for column, method in enumerate(found.methods):
            map_ = found.maps[f"{attack}/{method}"][number, row]
            draw_map(sheet, picture, map_, VIRIDIS, NAMES + column * cell + GAP / 2, bottom, side)

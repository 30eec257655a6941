"""Correspondence of parts: what was masked, and each layer's score beside that of random masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.correspondence.result import Correspondence, PartScore

TILE, STEP, NAME, PANEL = 0.62, 0.7, 1.25, 2.35  # inches: a picture, a row, the names of parts, a layer's column
APART, RIGHT, NARROWEST = 0.1, 0.15, 6.9  # inches: before the random mask, at the right border, of the page
IN_A_ROW, LEAST = 2, 1.1  # layers in a row, which a page can be read with, and inches of the narrowest panel
HEADS, BELOW, AFTER_TILES = 0.5, 0.5, 0.25  # inches: heads of the columns, labels below the panels, gap after pictures
BAR, OFFSET = 0.34, 0.18  # of a row: height of a bar, and its distance from the row's middle
PART, RANDOM = matplotlib.colormaps["viridis"](0.25), "0.75"
LETTERS = 26  # of a part's name


def draw_correspondence(result: Correspondence, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a line for each part: images without it, one with a random mask, and a panel of bars for each layer.

    Whiskers are standard errors; beside each pair of bars stands the p of the permutation test.

    Args:
        result: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the layers in a row.
    """
    layers = list(dict.fromkeys(row.layer for row in result.rows))
    tiles = max(map(len, result.examples.values()))
    panels_left = NAME + tiles * STEP + AFTER_TILES
    across = page.across(len(layers), IN_A_ROW, PANEL, panels_left + RIGHT)
    panel = page.fitted(PANEL, panels_left + RIGHT, across, LEAST)
    width = page.width or max(panels_left + across * panel + RIGHT, NARROWEST)
    height, rows = len(result.examples) * STEP, math.ceil(len(layers) / across)
    band = BELOW + height + HEADS
    sheet = Sheet(width, rows * band, title, caption, page=page)
    for n, layer in enumerate(layers):
        row, column = divmod(n, across)
        bottom = sheet.top - (row + 1) * band + BELOW
        if not column:
            _draw_examples(sheet, result, tiles, bottom + height)
        axes = sheet.axes(panels_left + column * panel, bottom, panel - AFTER_TILES, height)
        _draw_layer(axes, [row for row in result.rows if row.layer == layer], result.config["normalisation"])
        axes.set_title(layer, fontsize=9)
    handles = sheet.figure.axes[-1].get_legend_handles_labels()
    corner = (1 - 0.05 / sheet.width, (sheet.top + 0.1) / sheet.height)
    sheet.figure.legend(*handles, loc="upper right", bbox_to_anchor=corner, ncols=2, fontsize=7, frameon=False)
    return sheet.figure


def _draw_examples(sheet: Sheet, result: Correspondence, tiles: int, top: float) -> None:
    """Draw the pictures of each part, the one with a random mask last, and the name of the part before them.

    `top` is the height of their upper edge in inches.
    """
    image_sets = {row.part: row.image_sets for row in result.rows}
    random_left = NAME + APART + (tiles - 1) * STEP
    for n, (part, pictures) in enumerate(result.examples.items()):
        bottom = top - (n + 1) * STEP + (STEP - TILE) / 2
        images, sets = image_sets[part].size, len(image_sets[part])
        text = f"{shortened(part, LETTERS)}\n{counted(images, 'image')}, {counted(sets, 'set')}"
        sheet.text(NAME - 0.08, bottom + TILE / 2, text, ha="right", va="center", fontsize=6.5)
        for k, picture in enumerate(pictures[:-1]):
            sheet.picture(picture / 255.0, NAME + k * STEP, bottom, TILE)
        sheet.picture(pictures[-1] / 255.0, random_left, bottom, TILE)
    middle = NAME + ((tiles - 1) * STEP - (STEP - TILE)) / 2
    sheet.text(middle, top + 0.06, "the part masked", ha="center", va="bottom", fontsize=8)
    sheet.text(random_left + TILE / 2, top + 0.06, "at random", ha="center", va="bottom", fontsize=8)


def _draw_layer(axes: Axes, rows: Sequence[PartScore], normalisation: str) -> None:
    """Draw the bars of one layer, a pair for each part, the first part at the top."""
    places = np.arange(len(rows))[::-1]
    style: dict[str, Any] = {"height": BAR, "ecolor": "0.2", "error_kw": {"linewidth": 0.8, "capsize": 1.5}}
    means, errors = [row.mean for row in rows], np.nan_to_num([row.standard_error for row in rows])
    levels, spreads = [row.random_mean for row in rows], np.nan_to_num([row.random_standard_error for row in rows])
    axes.barh(places + OFFSET, means, xerr=errors, color=PART, label="the part masked", **style)
    axes.barh(places - OFFSET, levels, xerr=spreads, color=RANDOM, label="random masks of equal area", **style)
    ends = np.maximum(np.add(means, errors), np.add(levels, spreads))
    longest = max(float(ends.max()), 1e-9)
    for y, end, row in zip(places, ends, rows, strict=True):
        axes.text(end + 0.03 * longest, y, f"p {row.p:.2g}", va="center", fontsize=6, color="0.2")
    axes.set(xlim=(0, 1.25 * longest), ylim=(-0.5, len(rows) - 0.5), yticks=[])
    unit = "share of dimensions" if normalisation == "mean" else "dimensions, pairs added up"
    axes.set_xlabel(f"sign Hamming distance\n({unit})", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

"""The layer grid, as the paper's figure 2: for each filter a block of projections beside the block of their patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.arrays import GREY, stretched
from deconvviz.figures.sheet import SMALL, Sheet
from deconvviz.figures.tiles import mosaic

if TYPE_CHECKING:
    from deconvviz.studies.mining.result import FilterPanel, LayerPanels

BLOCK = 1.3  # inches: side of a block of projections or patches
WEIGHT = 0.5 * BLOCK  # inches: side of the picture of a filter's weights
LABEL, GAP, BETWEEN = 0.4, 0.05, 0.14  # inches: for a filter's number, between two blocks, between two rows
HEADING = 0.12  # inches: for the words above the blocks of the first row
NARROWEST = 4.6  # inches: a page that the caption can be read on
DPI = 220


def draw_grid(layer: LayerPanels, title: str, caption: str) -> Figure:
    """Draw the filters of a layer, each with its channel number: [weights |] projections | patches.

    Args:
        layer: what is shown of the layer, 1 to 100 filters.
        title: text above.
        caption: text below.
    """
    weight_width = 0.0 if layer.weights is None else WEIGHT + GAP
    across = _filters_across(len(layer.panels), 2 if layer.weights is None else 3)
    filter_width = LABEL + weight_width + 2 * BLOCK + GAP
    rows = math.ceil(len(layer.panels) / across)
    width = max(across * filter_width + 0.2, NARROWEST)
    sheet = Sheet(width, rows * (BLOCK + BETWEEN) + HEADING, title, caption, DPI)
    left = (width - across * filter_width) / 2
    for index, panel in enumerate(layer.panels):
        row, column = divmod(index, across)
        x = left + column * filter_width + LABEL
        y = sheet.top - HEADING - (row + 1) * (BLOCK + BETWEEN) + BETWEEN
        sheet.text(x - 0.06, y + BLOCK / 2, str(panel.channel), rotation=90, ha="right", va="center", fontsize=7)
        if layer.weights is not None:
            _draw_weights(sheet, layer.weights[index], x, y)
        _draw_blocks(sheet, panel, x + weight_width, y)
        if row == 0:
            _draw_headings(sheet, x, weight_width, y + BLOCK + 0.03)
    return sheet.figure


def _filters_across(count: int, blocks: int) -> int:
    """Return how many filters stand in a row, so that the page is about as wide as high."""
    return max(1, min(count, round(math.sqrt(count / blocks * 2)) if count > 3 else 1))


def _draw_weights(sheet: Sheet, weights: NDArray[np.float32], x: float, y: float) -> None:
    sheet.picture(stretched(weights, 100), x, y + (BLOCK - WEIGHT) / 2, WEIGHT)


def _draw_blocks(sheet: Sheet, panel: FilterPanel, x: float, y: float) -> None:
    """Draw projections and patches as two square blocks."""
    if not len(panel.values):
        text = "dead: no image activates it"
        sheet.text(x + BLOCK, y + BLOCK / 2, text, ha="center", va="center", fontsize=SMALL)
        return
    columns = math.ceil(math.sqrt(len(panel.values)))
    gap = max(1, panel.patches.shape[1] // 40)
    projections = [stretched(projection) for projection in panel.projections]
    sheet.picture(mosaic(projections, columns, gap, GREY), x, y, BLOCK)
    sheet.picture(mosaic(list(panel.patches / 255.0), columns, gap, 1.0), x + BLOCK + GAP, y, BLOCK)


def _draw_headings(sheet: Sheet, x: float, weight_width: float, y: float) -> None:
    style = {"ha": "center", "va": "bottom", "fontsize": SMALL, "color": "0.25"}
    if weight_width:
        sheet.text(x + WEIGHT / 2, y, "weights", **style)
    sheet.text(x + weight_width + BLOCK / 2, y, "projections", **style)
    sheet.text(x + weight_width + BLOCK + GAP + BLOCK / 2, y, "patches", **style)

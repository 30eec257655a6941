"""The layer grid, as the paper's figure 2: for each filter a block of projections beside the block of their patches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.arrays import GREY, displayed, stretched
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged, faded, mosaic, ringed

if TYPE_CHECKING:
    from deconvviz.studies.mining.result import FilterPanel, LayerPanels

BLOCK = 1.3  # inches: side of a block of projections or patches
WEIGHT = 0.5 * BLOCK  # inches: side of the picture of a filter's weights
LABEL, GAP, BETWEEN = 0.4, 0.05, 0.14  # inches: for a filter's number, between two blocks, between two rows
STRIP = 0.06  # inches: width of the strip that tells how often a filter fires
CLASSES = 0.1  # inches: for the classes of a filter's images, below its blocks
HEADING = 0.12  # inches: for the words above the blocks of the first row
NARROWEST = 4.6  # inches: a page that the caption can be read on
TILE = 96  # pixels that a tile has at least, so that the outline in it is thin
DPI = 220
FIRING = (1.0, 0.84, 0.0)  # colour of the outline: yellow, seen on most photos and by all eyes
STRIP_COLOURS = ("0.88", "#0072b2")  # of the strip, and of the part that counts


def draw_grid(layer: LayerPanels, title: str, caption: str) -> Figure:
    """Draw the filters of a layer, each with its channel number: [weights |] projections | patches.

    Args:
        layer: what is shown of the layer, 1 to 100 filters.
        title: text above.
        caption: text below.
    """
    means = any(panel.mean is not None for panel in layer.panels)
    columns = [name for name, shown in (("weights", layer.weights is not None), ("mean", means)) if shown]
    side_width = len(columns) * (WEIGHT + GAP)
    below = CLASSES if any(any(panel.classes) for panel in layer.panels) else 0.0
    across = _filters_across(len(layer.panels), 2 + len(columns))
    filter_width, filter_height = LABEL + side_width + 2 * BLOCK + GAP, BLOCK + below + BETWEEN
    rows = math.ceil(len(layer.panels) / across)
    width = max(across * filter_width + 0.2, NARROWEST)
    sheet = Sheet(width, rows * filter_height + HEADING, title, caption, DPI)
    left = (width - across * filter_width) / 2
    for index, panel in enumerate(layer.panels):
        row, column = divmod(index, across)
        x = left + column * filter_width + LABEL
        y = sheet.top - HEADING - row * filter_height - BLOCK
        sheet.text(x - STRIP - 0.1, y + BLOCK / 2, str(panel.channel), rotation=90, ha="right", va="center", fontsize=7)
        _draw_strip(sheet, panel.frequency, x - STRIP - 0.05, y)
        weights = None if layer.weights is None else layer.weights[index]
        for number, name in enumerate(columns):
            signed = weights if name == "weights" else panel.mean
            _draw_single(
                sheet, None if signed is None else displayed(signed, layer.shown), x + number * (WEIGHT + GAP), y
            )
        _draw_blocks(sheet, panel, x + side_width, y, layer.shown)
        if below:
            style = {"ha": "left", "va": "top", "fontsize": SMALL - 1, "color": "0.25"}
            sheet.text(x + side_width, y - 0.02, class_line(panel.classes), **style)
        if row == 0:
            _draw_headings(sheet, x, columns, y + BLOCK + 0.03)
    return sheet.figure


def class_line(classes: tuple[str, ...], letters: int = 56) -> str:
    """Return which classes several of a filter's images are of, the most frequent first, and how many others there are.

    >>> class_line(("lynx", "tabby", "tabby")), class_line(("lynx", "tabby"))
    ('2 tabby, 1 other', '2 classes')
    """
    counted = Counter(name for name in classes if name)
    repeated = sorted((name for name in counted if counted[name] > 1), key=lambda n: (-counted[n], classes.index(n)))
    if not repeated:
        return f"{len(counted)} classes" if len(counted) > 1 else next(iter(counted), "")
    others = len(classes) - sum(counted[name] for name in repeated)
    end = f", {others} other{'s' if others > 1 else ''}" if others else ""
    named = ", ".join(f"{counted[name]} {name}" for name in repeated)
    return shortened(named, letters - len(end)) + end


def _filters_across(count: int, blocks: int) -> int:
    """Return how many filters stand in a row, so that the page is about as wide as high."""
    return max(1, min(count, round(math.sqrt(count / blocks * 2)) if count > 3 else 1))


def _draw_strip(sheet: Sheet, frequency: float, x: float, y: float) -> None:
    """Draw a strip that is filled from below by the share of the images on which a filter fires."""
    axes = sheet.axes(x, y, STRIP, BLOCK)
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1), facecolor=STRIP_COLOURS[0])
    axes.add_patch(Rectangle((0, 0), 1, frequency, color=STRIP_COLOURS[1], linewidth=0))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_single(sheet: Sheet, signed: NDArray[np.float32] | None, x: float, y: float) -> None:
    """Draw one signed picture beside the blocks; None leaves its place empty."""
    if signed is not None:
        sheet.picture(enlarged(stretched(signed, 100), TILE), x, y + (BLOCK - WEIGHT) / 2, WEIGHT)


def _draw_blocks(sheet: Sheet, panel: FilterPanel, x: float, y: float, shown: Sequence[int]) -> None:
    """Draw projections and patches as two square blocks, with one frame around both."""
    if not len(panel.values):
        text = "dead: no image activates it"
        sheet.text(x + BLOCK, y + BLOCK / 2, text, ha="center", va="center", fontsize=SMALL)
        return
    columns = math.ceil(math.sqrt(len(panel.values)))
    projections = [enlarged(stretched(displayed(projection, shown)), TILE) for projection in panel.projections]
    patches = [
        ringed(enlarged(faded(patch / 255.0, inside), TILE), enlarged(firing[..., None], TILE)[..., 0], FIRING)
        for patch, inside, firing in zip(panel.patches, panel.insides, panel.firing, strict=True)
    ]
    gap = max(1, projections[0].shape[1] // 40)
    frame = sheet.axes(x - 0.012, y - 0.012, 2 * BLOCK + GAP + 0.024, BLOCK + 0.024)
    frame.set(xticks=[], yticks=[])
    for spine in frame.spines.values():
        spine.set(linewidth=0.7, color="0.25")
    sheet.picture(mosaic(projections, columns, gap, GREY), x, y, BLOCK)
    sheet.picture(mosaic(patches, columns, gap, 1.0), x + BLOCK + GAP, y, BLOCK)


def _draw_headings(sheet: Sheet, x: float, columns: Sequence[str], y: float) -> None:
    style = {"ha": "center", "va": "bottom", "fontsize": SMALL, "color": "0.25"}
    for number, name in enumerate(columns):
        sheet.text(x + number * (WEIGHT + GAP) + WEIGHT / 2, y, name, **style)
    x += len(columns) * (WEIGHT + GAP)
    sheet.text(x + BLOCK / 2, y, "projections", **style)
    sheet.text(x + BLOCK + GAP + BLOCK / 2, y, "patches", **style)

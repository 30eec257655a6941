"""The layer grid, as the paper's figure 2: for each filter a block of projections beside the block of their patches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged, faded, filter_pictures, ringed

if TYPE_CHECKING:
    from deconvviz.studies.mining.result import FilterPanel, LayerPanels

BLOCK, LEAST = 1.3, 0.6  # inches: side of a block of projections or patches, and what nine tiles can be seen in
WEIGHT = 0.5  # of a block's side: that of the picture of a filter's weights
SQUARE_LETTER = 0.0473  # inches of a letter of the classes
LABEL, GAP, BETWEEN = 0.4, 0.05, 0.14  # inches: for a filter's number, between two blocks, between two rows
STRIP = 0.06  # inches: width of the strip that tells how often a filter fires
CLASSES = 0.1  # inches: for the classes of a filter's images, below its blocks
NAME, BOLD_LETTER = 0.12, 0.055  # inches: for what a filter detects, above its blocks; of a letter of it
HEADING = 0.12  # inches: for the words above the blocks of the first row
NARROWEST = 4.6  # inches: a page that the caption can be read on
MARGIN = 0.25  # inches: to the right of all filters; to their left stand the numbers, with room around them
TILE = 96  # pixels that a tile has at least, so that the outline in it is thin
DPI = 220
FIRING = (1.0, 0.84, 0.0)  # colour of the outline: yellow, seen on most photos and by all eyes
STRIP_COLOURS = ("0.88", "#0072b2")  # of the strip, and of the part that counts


def draw_grid(
    layer: LayerPanels, title: str, caption: str, page: Page = OWN, names: Mapping[int, str] = MappingProxyType({})
) -> Figure:
    """Draw the filters of a layer, each with its channel number: [weights |] projections | patches [| wanted].

    Args:
        layer: what is shown of the layer, 1 to 100 filters.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the filters in a row.
        names: channel -> what the filter detects, written above its blocks; a filter may have no name.
    """
    means = any(panel.mean is not None for panel in layer.panels)
    singles = [name for name, shown in (("weights", layer.weights is not None), ("mean", means)) if shown]
    wanted = any(panel.wanted is not None for panel in layer.panels)
    blocks = 3 if wanted else 2
    # Of a filter: in blocks, and in inches.
    sides, gaps = blocks + WEIGHT * len(singles), LABEL + GAP * (blocks - 1 + len(singles))
    natural = _filters_across(len(layer.panels), blocks + len(singles))
    across = page.across(len(layer.panels), natural, sides * BLOCK + gaps, MARGIN)
    block = page.fitted(BLOCK, MARGIN + across * gaps, across * sides, LEAST)
    below = CLASSES if any(any(panel.classes) for panel in layer.panels) else 0.0
    above = NAME if any(panel.channel in names for panel in layer.panels) else 0.0
    filter_width, filter_height = sides * block + gaps, block + below + BETWEEN + above
    rows = math.ceil(len(layer.panels) / across)
    width = page.width or max(across * filter_width + MARGIN, NARROWEST)
    sheet = Sheet(width, rows * filter_height + HEADING, title, caption, DPI, page)
    weights = (
        None if layer.weights is None else filter_pictures(displayed(layer.weights, layer.shown), layer.largest_weight)
    )
    for index, panel in enumerate(layer.panels):
        row, column = divmod(index, across)
        x = (width - across * filter_width - MARGIN) / 2 + column * filter_width + LABEL
        y = sheet.top - HEADING - row * filter_height - above - block
        drawing = _Filter(sheet, block, x, y, layer.shown)
        drawing.draw_number(panel, layer.rectified)
        for name in singles:
            drawing.draw_single(*weights[index] if weights and name == "weights" else (drawing.own(panel.mean), ""))
        drawing.draw_blocks(panel)
        drawing.draw_name(names.get(panel.channel, ""))
        drawing.draw_wanted(panel)
        if below:
            drawing.draw_classes(panel.classes)
        if row == 0:
            _draw_headings(sheet, x, singles, y + above + block + 0.03, block, wanted)
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


class _Filter:
    """Draws what is shown of one filter, from left to right."""

    def __init__(self, sheet: Sheet, block: float, x: float, y: float, shown: Sequence[int]) -> None:
        """Begin at a place; `block` is the side of a block in inches, `shown` the channels of signed pictures."""
        self.sheet, self.block, self.x, self.y, self.shown = sheet, block, x, y, shown

    def own(self, signed: NDArray[np.float32] | None) -> NDArray[Any] | None:
        """Return a signed picture with its own contrast."""
        return None if signed is None else stretched(displayed(signed, self.shown), 100)

    def draw_number(self, panel: FilterPanel, rectified: bool) -> None:
        """Draw the channel's number and, where values are rectified, a strip: the share of images on which it fires."""
        style: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 7}
        self.sheet.text(self.x - STRIP - 0.1, self.y + self.block / 2, str(panel.channel), **style)
        if not rectified:
            return
        axes = self.sheet.axes(self.x - STRIP - 0.05, self.y, STRIP, self.block)
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1), facecolor=STRIP_COLOURS[0])
        axes.add_patch(Rectangle((0, 0), 1, panel.frequency, color=STRIP_COLOURS[1], linewidth=0))
        for spine in axes.spines.values():
            spine.set_visible(False)

    def draw_single(self, picture: NDArray[Any] | None, note: str) -> None:
        """Draw one picture beside the blocks, with a note below; None leaves its place empty."""
        side = WEIGHT * self.block
        if picture is not None:
            y = self.y + (self.block - side) / 2
            self.sheet.picture(enlarged(picture, TILE), self.x, y, side)
            style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL - 1, "color": "0.25"}
            self.sheet.text(self.x + side / 2, y - 0.02, note, **style)
        self.x += side + GAP

    def draw_blocks(self, panel: FilterPanel) -> None:
        """Draw projections and patches as two square blocks, with one frame around both."""
        sheet, block, x, y = self.sheet, self.block, self.x, self.y
        if not len(panel.values):
            text = "dead: no image activates it"
            sheet.text(x + block, y + block / 2, text, ha="center", va="center", fontsize=SMALL)
            return
        columns = math.ceil(math.sqrt(len(panel.values)))
        projections = [enlarged(stretched(displayed(projection, self.shown)), TILE) for projection in panel.projections]
        patches = [
            ringed(enlarged(faded(patch / 255.0, inside), TILE), enlarged(firing[..., None], TILE)[..., 0], FIRING)
            for patch, inside, firing in zip(panel.patches, panel.insides, panel.firing, strict=True)
        ]
        frame = sheet.axes(x - 0.02, y - 0.02, 2 * block + GAP + 0.04, block + 0.04)
        frame.set(xticks=[], yticks=[])
        for spine in frame.spines.values():
            spine.set(linewidth=0.7, color="0.25")
        sheet.mosaic(projections, columns, x, y, block)
        sheet.mosaic(patches, columns, x + block + GAP, y, block)

    def draw_name(self, name: str) -> None:
        """Write what the filter detects above its blocks."""
        style: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": SMALL, "weight": "bold"}
        letters = int((2 * self.block + GAP) / BOLD_LETTER)
        self.sheet.text(self.x, self.y + self.block + 0.03, shortened(name, letters), **style)

    def draw_wanted(self, panel: FilterPanel) -> None:
        """Draw the picture that the filter would like best to the right of the patches, where there is one."""
        if panel.wanted is not None:
            picture = enlarged(displayed(panel.wanted, self.shown), TILE)
            self.sheet.picture(picture, self.x + 2 * (self.block + GAP), self.y, self.block)

    def draw_classes(self, classes: tuple[str, ...]) -> None:
        """Write the classes of the filter's images below its blocks."""
        style: dict[str, Any] = {"ha": "left", "va": "top", "fontsize": SMALL - 1, "color": "0.25"}
        letters = int((2 * self.block + GAP) / SQUARE_LETTER)
        self.sheet.text(self.x, self.y - 0.03, class_line(classes, letters), **style)


def _draw_headings(sheet: Sheet, x: float, singles: Sequence[str], y: float, block: float, wanted: bool) -> None:
    style = {"ha": "center", "va": "bottom", "fontsize": SMALL, "color": "0.25"}
    for name in singles:
        sheet.text(x + WEIGHT * block / 2, y, name, **style)
        x += WEIGHT * block + GAP
    sheet.text(x + block / 2, y, "projections", **style)
    sheet.text(x + block + GAP + block / 2, y, "patches", **style)
    if wanted:
        sheet.text(x + 2 * (block + GAP) + block / 2, y, "what it would like best", **style)

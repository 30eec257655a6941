"""The layer grid, as the paper's figure 2: per filter a block of projections beside the block of their patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.figures.tiles import GREY, mosaic, place, stretched

if TYPE_CHECKING:
    from deconvviz.studies.mining.result import FilterPanel, LayerPanels

BLOCK = 1.3  # inches, one block
MOST = 100  # filters on a page


def draw_grid(shown: LayerPanels, title: str, caption: str) -> Figure:
    """Draw a layer's filters, each labelled with its channel: [filter |] projections | patches.

    Args:
        shown: 1 to 100 filters.
        title, caption: text above and below.
    """
    extra = 0 if shown.weights is None else 1
    across = _filters_across(len(shown.panels), 2 + extra)
    down = math.ceil(len(shown.panels) / across)
    unit = 2 * BLOCK + 0.55 * extra * BLOCK + 0.45
    width, top, bottom = max(across * unit + 0.2, 4.6), 0.5, _caption_height(caption, max(across * unit + 0.2, 4.6))
    height = down * (BLOCK + 0.14) + top + bottom
    figure = Figure(figsize=(width, height), dpi=220)
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    left = (width - across * unit) / 2
    for index, panel in enumerate(shown.panels):
        x = left + (index % across) * unit + 0.4
        y = height - top - (index // across + 1) * (BLOCK + 0.14) + 0.14
        weight = None if shown.weights is None else shown.weights[index]
        _draw_filter(figure, panel, weight, x, y)
    return figure


def _filters_across(count: int, blocks: int) -> int:
    """Columns that make the page about as wide as high."""
    return max(1, min(count, round(math.sqrt(count / blocks * 2)) if count > 3 else 1))


def _caption_height(caption: str, width: float) -> float:
    lines = sum(math.ceil(len(line) * 0.047 / width) for line in caption.splitlines())
    return 0.2 + 0.125 * lines


def _draw_filter(figure: Figure, panel: FilterPanel, weight: NDArray[np.float32] | None, x: float, y: float) -> None:
    side = max(1, math.ceil(math.sqrt(len(panel.values))))
    gap = max(1, panel.patches.shape[1] // 40) if len(panel.values) else 1
    figure.text(
        *_at(figure, x - 0.06, y + BLOCK / 2), str(panel.channel), rotation=90, ha="right", va="center", fontsize=7
    )
    if weight is not None:
        place(figure, stretched(weight, 100), (x, y + 0.25 * BLOCK, 0.5 * BLOCK, 0.5 * BLOCK))
        x += 0.55 * BLOCK
    if not len(panel.values):
        figure.text(
            *_at(figure, x + BLOCK, y + BLOCK / 2), "dead: no image activates it", ha="center", va="center", fontsize=6
        )
        return
    projections, patches = [stretched(p) for p in panel.projections], list(panel.patches / 255.0)
    place(figure, mosaic(projections, side, gap, GREY), (x, y, BLOCK, BLOCK))
    place(figure, mosaic(patches, side, gap, 1.0), (x + BLOCK + 0.05, y, BLOCK, BLOCK))


def _at(figure: Figure, x: float, y: float) -> tuple[float, float]:
    """Inches to figure fractions."""
    width, height = figure.get_size_inches()
    return x / width, y / height

"""The pictures of a training that is going on: filters, the share that is dead, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deconvviz.figures.history import OWN_PANELS, draw_curves, panels_of
from deconvviz.figures.page import Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.studies.training.result import OF_LABEL
from deconvviz.types import Pixels

BLOCK, SPACE, NAMES, BARS = 2.8, 0.25, 1.1, 2.0  # inches: a layer's tiles, spaces, names of layers, their bars
ROW, LEAST = 0.17, 1.0  # inches of a layer's bar, and of all of them at least
DPI = 110  # the page embeds the pictures
WITHOUT = ("epoch", "seconds", "phase")


def draw_filters(tiles: Sequence[tuple[str, Pixels]], dead: Mapping[str, float], title: str) -> Figure:
    """Draw pictures of filters, a block for each layer, and the share of each layer's filters that is dead.

    Args:
        tiles: for each block what it shows, and uint8 [n, h, w, 3].
        dead: layer -> share of its filters that are dead, in the order of depth.
        title: text above.
    """
    height = max(BLOCK if tiles else LEAST, ROW * len(dead)) + 0.5
    sheet = Sheet(len(tiles) * (BLOCK + SPACE) + SPACE + NAMES + BARS + SPACE, height, title, "", DPI)
    for number, (name, pictures) in enumerate(tiles):
        left = SPACE + number * (BLOCK + SPACE)
        words = shortened(name, int(BLOCK / 0.06))
        sheet.text(left + BLOCK / 2, sheet.top - 0.08, words, ha="center", va="center", fontsize=7)
        columns = math.ceil(math.sqrt(len(pictures)))
        sheet.mosaic([each / 255.0 for each in pictures], columns, left, sheet.top - 0.2 - BLOCK, BLOCK)
    left = SPACE + len(tiles) * (BLOCK + SPACE) + NAMES
    room = max(ROW * len(dead), LEAST)
    axes = sheet.panel(left, sheet.top - 0.05 - room, BARS, room - 0.15)
    shares = [100 * share for share in dead.values()]
    axes.barh(range(len(dead)), shares, 0.7, color="#d55e00")
    for row, share in enumerate(shares):
        axes.text(share, row, f" {share:.3g}", va="center", fontsize=SMALL - 1)
    axes.set_yticks(range(len(dead)), [shortened(name, 18, keep_end=True) for name in dead])
    axes.set_ylim(len(dead) - 0.4, -0.6)
    axes.set_xlim(0, max([*shares, 4.0]) * 1.2)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("dead filters (% of the layer)", fontsize=SMALL)
    return sheet.figure


def draw_curves_of(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the metrics over the epochs, and the learning rate; None where there is no metric yet.

    Args:
        history: a record for each epoch.
    """
    own = {**OWN_PANELS, "findings": "findings", "lr": "learning rate"}
    panels = panels_of(history, WITHOUT, OF_LABEL, own)
    return draw_curves(panels, "", "", Page(dpi=DPI)) if panels else None

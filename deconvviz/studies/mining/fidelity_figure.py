"""Fidelity as a figure: what the strongest pixels bring back, and what remains without them, layer by layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.mining.fidelity_result import FidelityTable, LayerFidelity

PANEL, HEIGHT, GAP, LEFT, BELOW = 2.2, 1.7, 0.35, 0.65, 0.5  # inches: of a panel, between two, beside and below them
LEGEND = 1.5  # inches
IN_A_ROW, LEAST, LETTER = 4, 1.0, 0.078  # layers in a row; inches: the narrowest panel, and a letter of its title
# Colours that colour-blind readers tell apart (Okabe and Ito), with a marker for each.
STYLES = {
    "deconvnet": ("#000000", "o"),
    "guided": ("#e69f00", "s"),
    "gradient": ("#56b4e9", "^"),
    "gradient-x-input": ("#8c564b", "v"),
    "lrp-epsilon": ("#009e73", "D"),
    "lrp-gamma": ("#0072b2", "P"),
    "lrp-zplus": ("#d55e00", "X"),
    "lrp-composite": ("#cc79a7", "*"),
    "nearest": ("0.45", ""),
    "noise": ("0.7", ""),
}


def draw_fidelity(table: FidelityTable, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a column for each layer: above what is kept, below what is left, against the share of the pixels.

    Args:
        table: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the layers in a row.
    """
    across = page.across(len(table.layers), IN_A_ROW, PANEL + GAP, LEFT + LEGEND)
    panel = page.fitted(PANEL, LEFT + LEGEND + across * GAP, across, LEAST)
    band = 2 * (HEIGHT + BELOW) + 0.25
    width = LEFT + across * (panel + GAP) + LEGEND
    sheet = Sheet(width, math.ceil(len(table.layers) / across) * band, title, caption, page=page)
    handles: list[Axes] = []
    for number, layer in enumerate(table.layers):
        row, column = divmod(number, across)
        x = LEFT + column * (panel + GAP)
        for mirror in (False, True):
            y = sheet.top - (row + 1) * band + BELOW + (0 if mirror else HEIGHT + BELOW)
            name = "" if mirror else shortened(layer.layer, int(panel / LETTER), keep_end=True)
            axes = sheet.panel(x, y, panel, HEIGHT, name)
            _draw_curves(axes, layer, mirror)
            if column == 0:
                axes.set_ylabel("share left without them" if mirror else "share of the activation kept", fontsize=7)
            if mirror:
                axes.set_xlabel("strongest pixels, % of those seen", fontsize=7)
            handles.append(axes)
    handles[2 * min(across, len(table.layers)) - 2].legend(
        fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.04, 1), borderaxespad=0, handlelength=2.6
    )
    return sheet.figure


def _draw_curves(axes: Axes, layer: LayerFidelity, mirror: bool) -> None:
    """Draw one line for each rule, with its interval as whiskers; controls are dashed."""
    for place, name in enumerate(layer.kept):
        colour, marker = STYLES[name]
        estimates = [layer.at(name, share, mirror) for share in layer.shares]
        medians = [estimate.median for estimate in estimates]
        spread = [
            [max(e.median - e.low, 0) for e in estimates],
            [max(e.high - e.median, 0) for e in estimates],
        ]
        shifted = [share * 1.012 ** (place - len(layer.kept) / 2) for share in layer.shares]  # whiskers side by side
        axes.errorbar(
            shifted,
            medians,
            yerr=spread,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=1.8 if name == layer.auto else 0.9,
            elinewidth=0.5,
            linestyle="-" if marker else "--",
            label=name,
        )
    axes.set_xscale("log")
    axes.set_xticks(layer.shares, [f"{share:g}" for share in layer.shares], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.15, 1.25)

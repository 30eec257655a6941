"""Draw how the pixels of maps agree with the objects at every threshold: PxAP's curve, Dice, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet

if TYPE_CHECKING:
    from deconvviz.metrics.pixels import PixelCurves

WIDTH, LEFT, RIGHT, DPI = 13.0, 0.72, 2.1, 160  # inches; the legend stands in the right margin
PANEL, GAP, BELOW, LEAST = 2.65, 0.6, 0.5, 1.2
LINES = ("-", "--", ":", "-.")
TITLES = ("precision of the marked pixels", "Dice", "pixels marked wrongly (thick), missed (thin)")


def draw_thresholds(curves: Mapping[str, PixelCurves], title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw three panels, a line for each method: precision over recall, Dice, and errors over the threshold.

    Args:
        curves: method -> its curves over all images.
        title: of the sheet.
        caption: of the sheet.
        page: what is asked for of the page.
    """
    fixed = LEFT + RIGHT + GAP * (len(TITLES) - 1)
    width = page.fitted((WIDTH - fixed) / len(TITLES), fixed, len(TITLES), LEAST)
    sheet = Sheet(fixed + len(TITLES) * width, BELOW + PANEL + 0.25, title, caption, DPI, page)
    panels = [
        sheet.panel(LEFT + number * (width + GAP), sheet.bottom + BELOW, width, PANEL, heading)
        for number, heading in enumerate(TITLES)
    ]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(curves)))
    for number, (method, of_method) in enumerate(curves.items()):
        thresholds = np.arange(of_method.on_object.shape[1]) / of_method.on_object.shape[1]
        pixels, on_object = of_method.on_object.sum() + of_method.beside.sum(), of_method.on_object.sum()
        line = {"color": colours[number], "ls": LINES[number % len(LINES)], "lw": 1.4}
        panels[0].plot(of_method.recall, of_method.precision, label=f"{method}, PxAP {of_method.pxap:.2f}", **line)
        panels[1].plot(thresholds, of_method.dice, **line)
        panels[2].plot(thresholds, of_method.false_positives / pixels, **line)
        panels[2].plot(thresholds, (on_object - of_method.true_positives) / pixels, **(line | {"lw": 0.6}))
    panels[0].set_xlabel("recall of the objects' pixels", fontsize=7)
    for panel in panels[1:]:
        panel.set_xlabel("threshold of the map", fontsize=7)
    for panel, top in zip(panels, (1.02, 1.02, None), strict=True):
        panel.set(xlim=(0, 1), ylim=(0, top))
    panels[2].set_ylabel("share of all pixels", fontsize=7)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[2].legend(handles, labels, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    return sheet.figure

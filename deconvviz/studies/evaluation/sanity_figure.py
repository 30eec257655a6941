"""Draw sanity checks: how similar maps stay while weights are randomised, or where labels were permuted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet

if TYPE_CHECKING:
    from deconvviz.studies.evaluation.sanity_result import SanityCheck

TITLES = {"spearman": "rank correlation (Spearman)", "ssim": "SSIM", "hog": "correlation of HOG"}
WIDTH, LEFT, RIGHT, DPI = 13.0, 0.72, 1.8, 160  # inches; the legend stands in the right margin
PANEL, GAP = 2.65, 0.22
LETTER, LONGEST = 0.05, 28  # inches of a letter of a layer's name, and letters of the longest name that is drawn
LABEL, LEAST = 0.12, 1.2  # inches: of an upright name below a panel, and the narrowest panel
MARKERS = "osD^v"


def draw_sanity(checks: Mapping[str, SanityCheck], title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a panel for each similarity: a line for each method over the layers, in the order of their randomisation.

    Args:
        checks: method -> its check; all of them have the same layers.
        title: of the sheet.
        caption: of the sheet.
        page: what is asked for of the page.
    """
    first = next(iter(checks.values()))
    by_labels = first.randomisation == "labels"
    layers = ["true labels" if by_labels else "trained", *first.layers]
    names = [layer[-LONGEST:] for layer in layers]
    below = 0.3 + LETTER * max(map(len, names))
    fixed = LEFT + RIGHT + GAP * (len(TITLES) - 1)
    width = page.fitted((WIDTH - fixed) / len(TITLES), fixed, len(TITLES), LEAST)
    sheet = Sheet(fixed + len(TITLES) * width, below + PANEL + 0.25, title, caption, DPI, page)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(checks)))
    every = max(1, math.ceil(len(layers) * LABEL / width))
    lowest = min(0.0, *(check.similarity[name].mean(1).min() for check in checks.values() for name in TITLES))
    for number, (similarity, heading) in enumerate(TITLES.items()):
        panel = sheet.panel(LEFT + number * (width + GAP), sheet.bottom + below, width, PANEL, heading)
        for index, (method, check) in enumerate(checks.items()):
            means = [1.0, *check.similarity[similarity].mean(1)]
            marker = MARKERS[index % len(MARKERS)]
            panel.plot(means, color=colours[index], marker=marker, ms=3, lw=1.2, label=method)
        panel.axhline(0, color="0.7", lw=0.6)
        panel.set_ylim(lowest - 0.05, 1.05)
        panel.set_xticks(range(0, len(layers), every), names[::every], rotation=90, fontsize=6)
        if number == 0:
            panel.set_ylabel("similarity to the trained network's map", fontsize=7)
        else:
            panel.set_yticklabels([])
    sheet.text(
        LEFT + (sheet.width - LEFT - RIGHT) / 2,
        sheet.bottom + 0.1,
        "labels that the network learned" if by_labels else "layer randomised, from the last to the first",
        ha="center",
        va="center",
        fontsize=7,
    )
    panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    return sheet.figure

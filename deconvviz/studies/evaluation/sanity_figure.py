"""How alike maps stay while a network's weights are randomised, layer after layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from deconvviz.studies.evaluation.sanity import Sanity

TITLES = {"spearman": "rank correlation (Spearman)", "ssim": "SSIM", "hog": "correlation of HOG"}


def draw_sanity(found: Mapping[str, Sanity], title: str, caption: str) -> Figure:
    """Draw a panel for each measure, a line for each method over the layers in the order of their randomisation."""
    first = next(iter(found.values()))
    layers = ["trained", *first.layers]
    names = [text[-28:] for text in layers]
    low = 0.6 + 0.065 * max(map(len, names))  # inches for the layers' names
    height = 3.3 + low
    figure = Figure(figsize=(13, height), dpi=160)
    panels = figure.subplots(1, len(TITLES), sharey=True)
    figure.subplots_adjust(left=0.055, right=0.86, top=1 - 0.65 / height, bottom=low / height, wspace=0.06)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(found)))
    for panel, (measure, told) in zip(panels, TITLES.items(), strict=True):
        for n, (name, one) in enumerate(found.items()):
            values = [1.0, *one.similarity[measure].mean(1)]
            panel.plot(values, color=colours[n], marker="osD^v"[n % 5], ms=3, lw=1.2, label=name)
        panel.axhline(0, color="0.7", lw=0.6)
        panel.set_title(told, fontsize=8)
        every = max(1, len(layers) // 24)
        panel.set_xticks(range(0, len(layers), every), names[::every], rotation=90, fontsize=6)
        panel.tick_params(axis="y", labelsize=7)
    panels[0].set_ylabel("similarity to the trained network's map", fontsize=7)
    panels[1].set_xlabel("layer randomised, from the last to the first", fontsize=7)
    panels[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    figure.text(0.46, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.46, 0.06 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    return figure

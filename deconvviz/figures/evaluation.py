"""Methods by metrics as bars, each metric on its own axis, with 95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from deconvviz.studies.evaluation import Evaluation

COST = ("forward_passes", "seconds")


def draw_evaluation(found: Evaluation, better: dict[str, bool], title: str, caption: str) -> Figure:
    """Draw one panel for each metric. better: column -> whether the higher value is the better one."""
    names, across = list(found.values), 4
    down = math.ceil(len(found.columns) / across)
    tall = 0.55 + 0.2 * len(names)
    figure = Figure(figsize=(11, down * (tall + 0.35) + 1.0), dpi=170)
    height = figure.get_size_inches()[1]
    axes = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(
        left=0.12, right=0.98, top=1 - 0.65 / height, bottom=0.55 / height, hspace=0.75 / tall + 0.1, wspace=0.12
    )
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(names)))
    places = np.arange(len(names))[::-1]
    for n, panel in enumerate(axes.flat):
        if n >= len(found.columns):
            panel.set_axis_off()
            continue
        column = found.columns[n]
        values = [found.mean(name)[n] for name in names]
        panel.barh(places, values, color=colours, xerr=[found.error(name)[n] for name in names], ecolor="0.3")
        arrow = {True: " (higher is better)", False: " (lower is better)"}.get(better.get(column), "")  # type: ignore[arg-type]
        panel.set_title(column.replace("_", " ") + arrow, fontsize=7)
        panel.set_yticks(places, names if n % across == 0 else [""] * len(names), fontsize=7)
        panel.tick_params(axis="x", labelsize=6)
        if column in COST:
            panel.set_xscale("log")
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25")
    return figure

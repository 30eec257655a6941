"""Correspondence of parts: what was masked, and each layer's score beside that of random masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.tiles import place

if TYPE_CHECKING:
    from deconvviz.studies.correspondence.result import Correspondence, Row

TILE, STEP, NAME, PANEL, HEAD = 0.62, 0.7, 1.25, 2.35, 1.0  # inches
PART, RANDOM = matplotlib.colormaps["viridis"](0.25), "0.75"


def draw_correspondence(found: Correspondence, title: str, caption: str) -> Figure:
    """Draw a line for each part: images without it, one with a random mask, and a panel of bars for each layer.

    Whiskers are standard errors; beside each pair of bars stands the p of the permutation test.
    """
    parts, layers = list(found.examples), list(dict.fromkeys(row.layer for row in found.rows))
    tiles = max(len(pictures) for pictures in found.examples.values())
    start = NAME + tiles * STEP + 0.25
    width = max(start + len(layers) * PANEL + 0.15, 6.9)
    bottom = 0.62 + 0.125 * (1 + caption.count("\n") + len(caption) // int(19 * width))
    height = HEAD + len(parts) * STEP + bottom
    figure = Figure(figsize=(width, height), dpi=170)
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    _draw_examples(figure, found, bottom)
    for n, layer in enumerate(layers):
        where = ((start + n * PANEL) / width, bottom / height, (PANEL - 0.25) / width, len(parts) * STEP / height)
        axes = figure.add_axes(where)
        _draw_layer(axes, [row for row in found.rows if row.layer == layer], found.config["normalisation"])
        axes.set_title(layer, fontsize=9)
    handles = figure.axes[-1].get_legend_handles_labels()
    corner = (1 - 0.05 / width, 1 - 0.38 / height)
    figure.legend(*handles, loc="upper right", bbox_to_anchor=corner, ncols=2, fontsize=7, frameon=False)
    return figure


def _draw_examples(figure: Figure, found: Correspondence, bottom: float) -> None:
    width, height = figure.get_size_inches()
    counts = {row.part: (row.images.size, len(row.images)) for row in found.rows}
    tiles = max(len(pictures) for pictures in found.examples.values())
    for n, (part, pictures) in enumerate(found.examples.items()):
        y = bottom + (len(found.examples) - 1 - n) * STEP + (STEP - TILE) / 2
        images, sets = counts[part]
        text = f"{part}\n{images} images, {sets} set{'s' * (sets > 1)}"
        figure.text((NAME - 0.08) / width, (y + TILE / 2) / height, text, ha="right", va="center", fontsize=6.5)
        for k, picture in enumerate(pictures[:-1]):
            place(figure, picture / 255.0, (NAME + k * STEP, y, TILE, TILE))
        place(figure, pictures[-1] / 255.0, (NAME + 0.1 + (tiles - 1) * STEP, y, TILE, TILE))
    top = (bottom + len(found.examples) * STEP + 0.06) / height
    middle = NAME + ((tiles - 1) * STEP - (STEP - TILE)) / 2
    figure.text(middle / width, top, "the part masked", ha="center", va="bottom", fontsize=8)
    last = NAME + 0.1 + (tiles - 1) * STEP + TILE / 2
    figure.text(last / width, top, "at random", ha="center", va="bottom", fontsize=8)


def _draw_layer(axes: Axes, rows: list[Row], normalisation: str) -> None:
    places = np.arange(len(rows))[::-1]
    style = {"height": 0.34, "ecolor": "0.2", "error_kw": {"linewidth": 0.8, "capsize": 1.5}}
    means, errors = [row.mean for row in rows], np.nan_to_num([row.error for row in rows])
    levels, spreads = [row.random_mean for row in rows], np.nan_to_num([row.random_error for row in rows])
    axes.barh(places + 0.18, means, xerr=errors, color=PART, label="the part masked", **style)  # type: ignore[arg-type]
    axes.barh(places - 0.18, levels, xerr=spreads, color=RANDOM, label="random masks of equal area", **style)  # type: ignore[arg-type]
    ends = np.maximum(np.add(means, errors), np.add(levels, spreads))
    most = max(float(ends.max()), 1e-9)
    for y, end, row in zip(places, ends, rows, strict=True):
        axes.text(end + 0.03 * most, y, f"p {row.p:.2g}", va="center", fontsize=6, color="0.2")
    axes.set(xlim=(0, 1.25 * most), ylim=(-0.5, len(rows) - 0.5), yticks=[])
    share = "share of dimensions" if normalisation == "mean" else "dimensions, pairs added up"
    axes.set_xlabel(f"sign Hamming distance\n({share})", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

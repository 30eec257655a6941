"""The evolution of features, as the paper's figure 4: filters by epochs; below, when each layer settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, SMALL, Sheet
from deconvviz.figures.tiles import enlarged

if TYPE_CHECKING:
    from deconvviz.studies.evolution.result import Evolution, LayerEvolution
    from deconvviz.types import Floats

TILE, LEAST, GAP = 0.72, 0.25, 0.05  # inches: side of a picture, the smallest side, and between two of them
LABELS = 0.75  # inches: to the left of the pictures, for the layer's name and the filters' numbers
EPOCHS = 0.25  # inches: above the pictures, for the epochs
BETWEEN = 0.22  # inches: between two layers
BEFORE_PATCHES = 0.1  # inches: between the last epoch's projections and the patches
PIXELS = 288  # pixels that a picture has at least, so that those of a small image are drawn as squares
CURVES, TICKS = 1.6, 0.35  # inches: height of the curves, and below them for their epochs
WITHIN, ROW, LETTER = 6, 0.13, 0.06  # layers named within a panel; inches of a row of a legend below, of a letter
NARROWEST = 6.4  # inches: a page with room for three curves
CHANGED = "#d55e00"  # vermilion, which everybody can tell from grey
STYLES = ("-", "--", ":", "-.")  # of the accuracies that a training recorded


def draw_evolution(evolution: Evolution, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the projections of each filter at each epoch, the last epoch's patches, and the layers' convergence.

    A picture has a coloured frame where the strongest image differs from that of the epoch before.

    Args:
        evolution: from `evolve`.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    columns = len(evolution.epochs) + 1
    tile = page.fitted(TILE, LABELS + BEFORE_PATCHES + 0.2 + GAP * columns, columns, LEAST)
    step = tile + GAP
    pictures = LABELS + step * columns + BEFORE_PATCHES
    width = page.width or max(pictures + 0.2, NARROWEST)
    rows = sum(len(layer.channels) * step + BETWEEN for layer in evolution.layers)
    stacked = width < NARROWEST - 0.5
    legend = _legend_height(evolution, width)
    curves = (CURVES + TICKS) * (3 if stacked else 1) + (TICKS if stacked else 0) + legend
    sheet = Sheet(width, EPOCHS + rows + TICKS + curves, title, caption, page=page)
    left = (width - pictures) / 2 + LABELS
    y = sheet.top - EPOCHS
    _draw_epochs(sheet, evolution.epochs, left, y + 0.06, tile)
    for layer in evolution.layers:
        y -= len(layer.channels) * step
        _draw_layer(sheet, layer, left, y, tile)
        y -= BETWEEN
    _draw_curves(sheet, evolution, stacked, legend)
    return sheet.figure


def _names_across(evolution: Evolution, width: float) -> int:
    """Return how many layers a row of a legend below the curves names."""
    return max(int((width - 0.4) / (0.45 + LETTER * max(len(layer.layer) for layer in evolution.layers))), 1)


def _legend_height(evolution: Evolution, width: float) -> float:
    """Return the inches of a legend below the curves; 0 for few layers, whose names stand within the panels."""
    count = len(evolution.layers)
    return 0.0 if count <= WITHIN else 0.1 + ROW * -(-count // _names_across(evolution, width))


def _draw_epochs(sheet: Sheet, epochs: tuple[int, ...], left: float, y: float, tile: float) -> None:
    sheet.text(left - 0.1, y, "epoch", ha="right", va="bottom", fontsize=7)
    for n, epoch in enumerate(epochs):
        sheet.text(left + n * (tile + GAP) + tile / 2, y, str(epoch), ha="center", va="bottom", fontsize=HEADING)
    x = left + len(epochs) * (tile + GAP) + BEFORE_PATCHES + tile / 2
    sheet.text(x, y, f"patch at {epochs[-1]}", ha="center", va="bottom", fontsize=7)


def _draw_layer(sheet: Sheet, layer: LayerEvolution, left: float, bottom: float, tile: float) -> None:
    """Draw a layer's filters, the first one on top; a picture has this side in inches."""
    count, step = len(layer.channels), tile + GAP
    middle = bottom + count * step / 2
    sheet.text(left - 0.55, middle, layer.layer, rotation=90, ha="center", va="center", fontsize=9)
    for f, channel in enumerate(layer.channels):
        y = bottom + (count - 1 - f) * step
        sheet.text(left - 0.1, y + tile / 2, str(channel), ha="right", va="center", fontsize=7)
        for n, projection in enumerate(layer.projections[f]):
            axes = sheet.picture(enlarged(stretched(displayed(projection)), PIXELS), left + n * step, y, tile)
            if layer.changed[f, n]:
                for spine in axes.spines.values():
                    spine.set(linewidth=1.4, color=CHANGED)
        x = left + len(layer.projections[f]) * step + BEFORE_PATCHES
        sheet.picture(enlarged(layer.patches[f, -1], PIXELS), x, y, tile)


def _draw_curves(sheet: Sheet, evolution: Evolution, stacked: bool, legend: float) -> None:
    """Draw three panels: how much of the top k is final, how alike projections are to the last ones, and accuracy.

    They stand side by side, or below one another where they are `stacked`; a legend of this height is below them.
    """
    room = (sheet.width - 0.8) / (1 if stacked else 3)
    places = [(0.0, (2 - n) * (CURVES + 2 * TICKS - 0.18)) if stacked else (n * room, 0.0) for n in range(3)]
    titles = (f"top {evolution.k} already final", "projections already final", "accuracy")
    quantities = (f"share of the top {evolution.k}", "cosine with the last epoch's", "share of images")
    images, projections, accuracy = (
        sheet.panel(0.6 + x, sheet.bottom + legend + TICKS + y, room - 0.55, CURVES - (0.18 if stacked else 0), title)
        for (x, y), title in zip(places, titles, strict=True)
    )
    for axes, quantity in zip((images, projections, accuracy), quantities, strict=True):
        axes.set_ylabel(quantity, fontsize=SMALL, labelpad=2)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(evolution.layers)))
    for layer, colour in zip(evolution.layers, colours, strict=True):
        _draw_curve(images, evolution.epochs, layer.top_final, colour, layer.layer)
        _draw_curve(projections, evolution.epochs, layer.similarity, colour, layer.layer)
    for (name, points), style in zip(_accuracies(evolution).items(), STYLES, strict=False):
        accuracy.plot(*np.array(points).T, style, color="0.2", linewidth=1, label=name)
    for axes in (images, projections, accuracy):
        _label_epochs(axes, evolution.epochs)
    for axes in (accuracy,) if legend else (images, projections, accuracy):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=SMALL, frameon=False)
    if legend:
        below = sheet.axes(0.2, sheet.bottom, sheet.width - 0.4, legend)
        below.axis("off")
        across = _names_across(evolution, sheet.width)
        below.legend(*images.get_legend_handles_labels(), fontsize=SMALL, ncols=across, loc="center", frameon=False)


def _accuracies(evolution: Evolution) -> dict[str, list[tuple[float, float]]]:
    """Return each accuracy of the history under the name that it was recorded by -> (epoch, share) points.

    Values above 1 are taken for per cent.
    """
    names = dict.fromkeys(name for record in evolution.history for name in record if "acc" in name.lower())
    curves = {}
    for name in names:
        points = [(record["epoch"], record[name]) for record in evolution.history if name in record]
        scale = 100 if max(value for _, value in points) > 1 else 1
        curves[name.replace("_", " ")] = [(epoch, value / scale) for epoch, value in points]
    return curves


def _draw_curve(axes: Axes, epochs: tuple[int, ...], values: Floats, colour: object, label: str) -> None:
    axes.plot(epochs, values, "o-", color=colour, markersize=2.5, linewidth=1.2, label=label)


def _label_epochs(axes: Axes, epochs: tuple[int, ...]) -> None:
    """Give a panel its axes from 0 to 1 and over the epochs."""
    axes.set_xlabel("epoch", fontsize=7)
    axes.set(ylim=(-0.03, 1.05), xscale="log" if epochs[0] > 0 else "symlog")
    axes.set(xticks=epochs, xticklabels=_tick_labels(epochs))
    axes.minorticks_off()


def _tick_labels(epochs: tuple[int, ...]) -> list[str]:
    """Label the last epoch, and before it those that are far enough from the next label on a logarithmic axis."""
    labelled = [epochs[-1]]
    for epoch in reversed(epochs[:-1]):
        if epoch * 1.7 < labelled[-1]:
            labelled.append(epoch)
    return [str(epoch) if epoch in labelled else "" for epoch in epochs]

"""The evolution of features, as the paper's figure 4: filters by epochs; below, when each layer settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deconvviz.figures.tiles import place, stretched

if TYPE_CHECKING:
    from deconvviz.studies.evolution.result import Evolution, LayerEvolution

TILE, GAP, LEFT, TOP, CURVES = 0.72, 0.05, 0.75, 0.75, 2.1  # inches
CHANGED = "#d55e00"  # vermilion: told apart from grey by every eye
METRICS = {"accuracy": "training", "validation_accuracy": "validation"}


def draw_evolution(found: Evolution, title: str, caption: str) -> Figure:
    """Draw the projections of each filter at each epoch, the last epoch's patches, and the layers' convergence.

    A frame is coloured where the strongest image is another one than at the epoch before.
    """
    step = TILE + GAP
    rows = sum(len(layer.channels) for layer in found.layers)
    width = max(LEFT + step * (len(found.epochs) + 1) + 0.3, 6.4)
    bottom = 0.35 + 0.13 * (1 + caption.count("\n") + len(caption) // int(19 * width))
    height = TOP + rows * step + 0.22 * len(found.layers) + CURVES + 0.3 + bottom
    figure = Figure(figsize=(width, height), dpi=200)
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10, weight="bold")
    figure.text(0.5, 0.1 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    left = (width - step * (len(found.epochs) + 1) - LEFT - 0.1) / 2 + LEFT
    _header(figure, found.epochs, left, height - TOP + 0.06)
    y = height - TOP
    for layer in found.layers:
        y -= len(layer.channels) * step + 0.22
        _draw_layer(figure, layer, left, y + 0.22)
    _draw_curves(figure, found, bottom + 0.35)
    return figure


def _header(figure: Figure, epochs: tuple[int, ...], left: float, y: float) -> None:
    width, height = figure.get_size_inches()
    step = TILE + GAP
    figure.text((left - 0.1) / width, y / height, "epoch", ha="right", va="bottom", fontsize=7)
    for n, epoch in enumerate(epochs):
        figure.text((left + n * step + TILE / 2) / width, y / height, str(epoch), ha="center", va="bottom", fontsize=8)
    x = left + len(epochs) * step + 0.1 + TILE / 2
    figure.text(x / width, y / height, f"patch at {epochs[-1]}", ha="center", va="bottom", fontsize=7)


def _draw_layer(figure: Figure, layer: LayerEvolution, left: float, y: float) -> None:
    """Draw a layer's filters upwards from y, in inches."""
    width, height = figure.get_size_inches()
    step, count = TILE + GAP, len(layer.channels)
    middle = (y + count * step / 2) / height
    figure.text((left - 0.55) / width, middle, layer.layer, rotation=90, ha="center", va="center", fontsize=9)
    for f, channel in enumerate(layer.channels):
        bottom = y + (count - 1 - f) * step
        figure.text(
            (left - 0.1) / width, (bottom + TILE / 2) / height, str(channel), ha="right", va="center", fontsize=7
        )
        for n, projection in enumerate(layer.projections[f]):
            axes = place(figure, stretched(projection), (left + n * step, bottom, TILE, TILE))
            if layer.changed[f, n]:
                for spine in axes.spines.values():
                    spine.set(linewidth=1.4, color=CHANGED)
        x = left + len(layer.projections[f]) * step + 0.1
        place(figure, layer.patches[f, -1] / 255.0, (x, bottom, TILE, TILE))


def _draw_curves(figure: Figure, found: Evolution, bottom: float) -> None:
    width, height = figure.get_size_inches()
    room, gap = (width - 1.0) / 3, 0.5
    panels: list[Axes] = [
        figure.add_axes(((0.6 + n * room) / width, bottom / height, (room - gap) / width, (CURVES - 0.5) / height))
        for n in range(3)
    ]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(found.layers)))
    for layer, colour in zip(found.layers, colours, strict=True):
        _curve(panels[0], found.epochs, layer.top_final, colour, layer.layer)
        _curve(panels[1], found.epochs, layer.similarity, colour, layer.layer)
    for metric, style in zip(METRICS, ("--", "-"), strict=True):
        known = [(row["epoch"], row[metric]) for row in found.history if metric in row]
        if known:
            panels[2].plot(*np.array(known).T, style, color="0.2", linewidth=1, label=METRICS[metric])
    titles = (f"top {found.k} already final", "projections: cosine to the last", "accuracy")
    for axes, name in zip(panels, titles, strict=True):
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("epoch", fontsize=7)
        axes.set(ylim=(-0.03, 1.05), xscale="log" if found.epochs[0] > 0 else "symlog")
        axes.set(xticks=found.epochs, xticklabels=_tick_labels(found.epochs))
        axes.minorticks_off()
        axes.tick_params(labelsize=6)
        axes.grid(color="0.9", linewidth=0.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=6, frameon=False)


def _tick_labels(epochs: tuple[int, ...]) -> list[str]:
    """Label the epochs, but those too near to the one labelled before; the last one always."""
    shown = [epochs[-1]]
    for epoch in reversed(epochs[:-1]):
        if epoch * 1.7 < shown[-1]:
            shown.append(epoch)
    return [str(epoch) if epoch in shown else "" for epoch in epochs]


def _curve(axes: Axes, epochs: tuple[int, ...], values: NDArray[np.float64], colour: object, label: str) -> None:
    axes.plot(epochs, values, "o-", color=colour, markersize=2.5, linewidth=1.2, label=label)

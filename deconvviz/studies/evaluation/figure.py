"""Explanations measured, on one sheet: maps side by side, the curves, and a bar chart for each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from deconvviz.figures.overlay import overlay
from deconvviz.figures.tiles import place

if TYPE_CHECKING:
    from deconvviz.studies.evaluation.result import Evaluation

COST = ("forward_passes", "backward_passes", "seconds")
WIDTH, LEFT, RIGHT = 11.0, 1.35, 0.2  # inches, of the sheet and its margins
TILE, GAP, PER_BAND = 1.0, 0.06, 8
CURVE, ACROSS = 2.1, 4
TITLES = {"deletion": "pixels deleted, the map's highest first", "insertion": "pixels put back into a blurred picture"}


def draw_evaluation(found: Evaluation, better: Mapping[str, bool], title: str, caption: str) -> Figure:
    """Draw an evaluation. better: column -> whether the higher value is the better one."""
    names = list(found.values)
    bands = [names[n : n + PER_BAND] for n in range(0, len(names), PER_BAND)] if len(found.pictures) else []
    tall = len(found.pictures) * (TILE + GAP) + 0.3
    curves = [kind for kind in TITLES if any(key.endswith(f"/{kind}") for key in found.curves)]
    bar = 0.35 + 0.17 * len(names)
    rows = math.ceil(len(found.columns) / ACROSS)
    lines = sum(math.ceil(len(line) / 190) for line in caption.splitlines())
    height = 0.5 + len(bands) * tall + bool(curves) * (CURVE + 0.75) + rows * (bar + 0.5) + 0.2 + 0.13 * lines
    figure = Figure(figsize=(WIDTH, height), dpi=170)
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=11, weight="bold")
    figure.text(0.5, 0.08 / height, caption, ha="center", va="bottom", fontsize=6.5, color="0.25", wrap=True)
    colours = dict(zip(names, matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(names))), strict=True))
    top = height - 0.5
    for band in bands:
        _maps(figure, found, band, top)
        top -= tall
    if curves:
        _curves(figure, found, curves, colours, top - 0.3)
        top -= CURVE + 0.75
    _bars(figure, found, better, colours, top, bar)
    return figure


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    across, down = figure.get_size_inches()
    return figure.add_axes((x / across, y / down, width / across, height / down))


def _maps(figure: Figure, found: Evaluation, methods: Sequence[str], top: float) -> None:
    """The first images, and each method's map over them; row by row from `top` inches."""
    height = figure.get_size_inches()[1]
    for m, name in enumerate(("image", *methods)):
        x = LEFT + m * (TILE + GAP)
        figure.text((x + TILE / 2) / WIDTH, (top - 0.22) / height, name, ha="center", va="bottom", fontsize=7)
        for n, picture in enumerate(found.pictures):
            shown: NDArray[Any] = picture / 255.0
            if name != "image":
                shown = overlay(picture, found.maps[name][n], "viridis", 0.65)
            place(figure, shown, (x, top - 0.25 - (n + 1) * (TILE + GAP) + GAP, TILE, TILE))
    for n, name in enumerate(found.names[: len(found.pictures)]):
        y = top - 0.25 - (n + 0.5) * (TILE + GAP)
        text = f"{name.rpartition('/')[2][:22]}\np = {found.probability[n]:.2f}"
        figure.text((LEFT - 0.08) / WIDTH, y / height, text, ha="right", va="center", fontsize=6)


def _curves(figure: Figure, found: Evaluation, kinds: Sequence[str], colours: Mapping[str, Any], top: float) -> None:
    """The mean probability as pixels go or come, a line for each method."""
    width = (WIDTH - LEFT - RIGHT - 2.2) / 2
    styles = ("-", "--", ":", "-.")
    for k, kind in enumerate(kinds):
        panel = _axes(figure, LEFT - 0.6 + k * (width + 0.55), top - CURVE, width, CURVE)
        for m, name in enumerate(found.values):
            mean = np.nanmean(found.curves[f"{name}/{kind}"], 0)
            share = np.linspace(0, 100, len(mean))
            panel.plot(share, mean, color=colours[name], label=name, lw=1.4, ls=styles[m % len(styles)])
        panel.set(xlim=(0, 100), ylim=(0, None))
        panel.set_xlabel("share of the pixels, %", fontsize=7)
        panel.set_title(f"{kind}: {TITLES[kind]}", fontsize=7)
        panel.tick_params(labelsize=6)
        if k == 0:
            panel.set_ylabel("mean probability of the class", fontsize=7)
    panel.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, ncols=1 + len(colours) // 15)


def _bars(
    figure: Figure, found: Evaluation, better: Mapping[str, bool], colours: Mapping[str, Any], top: float, tall: float
) -> None:
    """A panel for each column: means with their 95 % intervals."""
    names = list(found.values)
    means = np.array([found.mean(name) for name in names])
    errors = np.array([found.error(name) for name in names])
    width, places = (WIDTH - LEFT - RIGHT) / ACROSS, np.arange(len(names))[::-1]
    for n, column in enumerate(found.columns):
        row, across = divmod(n, ACROSS)
        y = top - (row + 1) * (tall + 0.5) + 0.22
        panel = _axes(figure, LEFT + across * width, y, width - 0.15, tall - 0.05)
        cost = column in COST
        whiskers = None if cost else errors[:, n]
        bars = panel.barh(places, means[:, n], color=list(colours.values()), xerr=whiskers, ecolor="0.3")
        arrow = {True: " (higher is better)", False: " (lower is better)", None: ""}[better.get(column)]
        panel.set_title(column.replace("_", " ") + arrow, fontsize=7, pad=3)
        panel.set_yticks(places, names if across == 0 else [""] * len(names), fontsize=7)
        panel.tick_params(axis="x", labelsize=6)
        if cost:  # from one pass to thousands: the numbers stand at the bars
            least, most = means[:, n].min(), means[:, n].max()
            panel.set_xscale("log" if least > 0 else "linear")
            panel.bar_label(bars, [f"{value:.3g}" for value in means[:, n]], fontsize=6, padding=2)
            panel.set_xlim(least / 3, max(most, 1e-9) * (4 if least > 0 else 1.3))
            panel.xaxis.set_major_locator(NullLocator())
            panel.xaxis.set_minor_locator(NullLocator())
        else:
            panel.set_xlim(left=0)

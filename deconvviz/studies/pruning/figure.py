"""Figures of prunings: filters that went beside those that stayed, what is left, and how each layer bears it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.figures.tiles import enlarged, mosaic

if TYPE_CHECKING:
    from deconvviz.studies.pruning.result import FilterPictures, PruningStudy

LEFT, GAP, HEAD, MIDDLE = 0.45, 0.06, 0.32, 0.3  # inches: layer names, between tiles, titles, between both halves
TILE, LEAST, FOOT = 0.62, 0.35, 0.2  # inches: a filter, the least that shows something, the number below it
PIXELS = 100  # of the shorter side: smaller pictures are drawn as their pixels
BARS, BAR_HEIGHT, LABELS = 0.23, 1.6, 1.35  # inches: a layer's bar, the least height of the panels, names of layers
GONE, STAYS = "#d55e00", "#0072b2"  # vermilion and blue, which all eyes tell apart
WIDTH = 7.2
STYLES = ("-", "--", ":", "-.")
NAMES = {"whole": "whole", "pruned": "pruned", "tuned": "fine-tuned"}


def draw_pruning(study: PruningStudy, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw filters that went and filters that stayed, the share that stays of each layer, and accuracy and costs.

    Args:
        study: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    fixed = LEFT + MIDDLE + 0.1
    each = max(
        (max(int((each.kept == kept).sum()) for kept in (False, True)) for each in study.pictures.values()), default=0
    )
    tile = page.fitted(TILE, fixed + 2 * each * GAP, 2 * max(each, 1), LEAST) if each else TILE
    wide = fixed + 2 * each * (tile + GAP)
    heights = [_columns(pictures) * tile + FOOT for pictures in study.pictures.values()]
    body = sum(heights) + HEAD * bool(heights)
    bars = max(BARS * len(study.groups), BAR_HEIGHT) + 0.75
    width = max(wide, page.fitted(WIDTH, 0, 1, 4.0))
    sheet = Sheet(width, body + bars + 0.25, title, caption, page=page)
    if heights:
        _pictures(sheet, study, tile, each, heights)
    _kept(sheet, study, LABELS, sheet.bottom + 0.5, width / 2 - LABELS - 0.1, bars - 0.75)
    _costs(sheet, study, width / 2 + 1.15, sheet.bottom + 0.5, width / 2 - 1.75, bars - 0.75)
    return sheet.figure


def _columns(pictures: FilterPictures) -> int:
    """Return how many tiles of one filter stand one below another."""
    return int(pictures.tiles.shape[1])


def _pictures(sheet: Sheet, study: PruningStudy, tile: float, each: int, heights: list[float]) -> None:
    half = each * (tile + GAP)
    for left, name, colour in ((LEFT, "gone", GONE), (LEFT + half + MIDDLE, "stay", STAYS)):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": colour, "weight": "bold"}
        sheet.text(left + half / 2, sheet.top - HEAD / 2, name, **style)
    top = sheet.top - HEAD
    for (layer, pictures), height in zip(study.pictures.items(), heights, strict=True):
        letters = max(int((height - FOOT) / 0.06), 8)
        sheet.text(
            0.2,
            top - (height - FOOT) / 2,
            shortened(layer, letters),
            rotation=90,
            ha="center",
            va="center",
            fontsize=SMALL,
        )
        for kept, left in ((False, LEFT), (True, LEFT + half + MIDDLE)):
            for place, row in enumerate(np.flatnonzero(pictures.kept == kept)):
                column = [enlarged(picture, PIXELS) / 255 for picture in pictures.tiles[row]]
                x = left + place * (tile + GAP)
                sheet.picture(mosaic(column, 1, 2, 1.0), x, top - len(column) * tile, tile, len(column) * tile)
                number = str(int(pictures.channels[row]))
                sheet.text(x + tile / 2, top - height + FOOT - 0.02, number, ha="center", va="top", fontsize=SMALL)
        top -= height


def _kept(sheet: Sheet, study: PruningStudy, left: float, bottom: float, width: float, height: float) -> None:
    """Draw for each group of layers how many of its units stay."""
    axes = sheet.panel(left, bottom, width, height, "filters")
    rows = np.arange(len(study.groups))[::-1]
    stay = np.array([int(group.kept.sum()) for group in study.groups.values()])
    every = np.array([len(group.kept) for group in study.groups.values()])
    axes.barh(rows, stay, 0.7, color=STAYS, label="stay")
    axes.barh(
        rows, every - stay, 0.7, left=stay, color=GONE, hatch="////", edgecolor="white", linewidth=0, label="gone"
    )
    axes.set_yticks(rows, [shortened(name, 22) for name in study.groups], fontsize=SMALL)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("filters, or groups of tied ones", fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=SMALL, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.995), ncols=2)
    axes.set_title("")


def _costs(sheet: Sheet, study: PruningStudy, left: float, bottom: float, width: float, height: float) -> None:
    """Draw accuracy and what is left of multiplications, parameters and time, in per cent."""
    right = "accuracy" if study.config["measured_by"] == "labels" else "same decision"
    rows = [(f"{right}, {NAMES[form]}", 100 * value) for form, value in zip(study.forms, study.accuracy, strict=True)]
    rows += [("multiplications", 100 * study.multiply_adds_left), ("parameters", 100 * study.parameters_left)]
    if study.seconds.size:
        rows.append(("time of a pass", 100 / study.speed))
    axes = sheet.panel(left, bottom, width, height)
    places = np.arange(len(rows))[::-1]
    colours = [STAYS if name.startswith(right) else "0.55" for name, _ in rows]
    axes.barh(places, [value for _, value in rows], 0.65, color=colours)
    for place, (_, value) in zip(places, rows, strict=True):
        axes.text(value + 2, place, f"{value:.1f}", va="center", fontsize=SMALL)
    axes.set_yticks(places, [name for name, _ in rows], fontsize=SMALL)
    axes.set_xlim(0, max(118.0, max(value for _, value in rows) + 18))
    axes.set_xlabel("% of the images; grey: % of the whole network", fontsize=7)


def draw_sensitivity(study: PruningStudy, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw the accuracy over the share of filters that went, a curve for each group that was pruned alone.

    Args:
        study: what was measured, with sensitivity.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    measured = {name: group.sensitivity for name, group in study.groups.items() if group.sensitivity is not None}
    rows = -(-len(measured) // 3)
    width, height, legend = page.fitted(WIDTH, 0, 1, 4.0), 3.0, 0.17 * rows + 0.1
    sheet = Sheet(width, height + 0.75 + legend, title, caption, page=page)
    axes = sheet.panel(0.7, sheet.bottom + legend + 0.5, width - 0.9, height)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(len(measured), 1)))
    shares = [0.0, *(100 * share for share in study.shares)]
    for number, (name, right) in enumerate(measured.items()):
        values = 100 * np.concatenate([study.accuracy[:1], right.mean(1)])
        style: dict[str, Any] = {"color": colours[number], "linestyle": STYLES[number % len(STYLES)], "linewidth": 1.1}
        axes.plot(shares, values, marker="o", markersize=2.5, label=shortened(name, 28), **style)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("filters of the layer that are gone (%)", fontsize=7)
    right_of = "accuracy (%)" if study.config["measured_by"] == "labels" else "decisions as before (%)"
    axes.set_ylabel(right_of, fontsize=7)
    handles, names = axes.get_legend_handles_labels()
    place = (0.5, (sheet.bottom + legend / 2) / sheet.height)
    sheet.figure.legend(handles, names, loc="center", bbox_to_anchor=place, ncols=3, fontsize=SMALL, frameon=False)
    return sheet.figure

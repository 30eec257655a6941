"""A comparison as figures: what became of each layer's filters, calibration, matched filters, explanations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deconvviz.errors import DataError
from deconvviz.figures.overlay import draw_maps
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import HEADING, SMALL, Sheet, shortened
from deconvviz.metrics.intervals import NORMAL_95
from deconvviz.studies.comparison.result import RECOGNISED, STATUSES

if TYPE_CHECKING:
    from deconvviz.studies.comparison.decisions import Decisions
    from deconvviz.studies.comparison.result import Comparison, ExplainedImages, LayerComparison

# Okabe and Ito's colours, which colour-blind readers tell apart; they differ in lightness too
COLOURS: Mapping[str, str] = {"gone": "#d55e00", "new": "#009e73", "sharper": "#0072b2", "blunter": "#cc79a7"}
SIDES = (("#d55e00", "o", "--"), ("#0072b2", "s", "-"))  # of the network before, and of the one after
ROW = 0.5  # inches of a layer
LETTER = 0.06  # inches of a letter of a layer's name
BETWEEN, EDGE, ABOVE, BELOW = 0.55, 0.2, 0.3, 0.42  # inches between and around panels
CLOUD, BARS, SQUARE = 3.0, 2.2, 2.6  # inches: widths of the panels
HISTOGRAM = 0.6  # inches: the height of the panel below the reliability
GOLDEN = 0.618034  # multiples of it, taken modulo 1, spread evenly: dots of a cloud are drawn apart
MOSAIC, GAP, TEXT = 1.35, 0.12, 0.36  # inches: of one filter's patches, between both of a pair, of the words above
ACROSS = 3  # pairs in a row
LARGEST = 26  # square points of the point with most images
NAMES = ("before", "after")


def draw_comparison(comparison: Comparison, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw what became of each layer's filters, and beside it how often both networks are right when how confident.

    Args:
        comparison: what was compared.
        title: text above.
        caption: text below.
        page: what is asked for of the page.

    Raises:
        DataError: the page is too narrow.
    """
    layers = comparison.layers
    known = comparison.decisions is not None and bool(comparison.decisions.labelled.any())
    names = LETTER * max((len(shortened(layer.layer, 30)) for layer in layers), default=0) + 0.15
    cloud = page.fitted(CLOUD, names + EDGE + BETWEEN + BARS + known * (2 * BETWEEN + SQUARE), 1, 1.2)
    height = max(ROW * len(layers), 2.2 if known else 1.0)
    left = EDGE + names
    width = left + cloud + BETWEEN + BARS + EDGE + known * (2 * BETWEEN + SQUARE)
    sheet = Sheet(width, BELOW + height + ABOVE, title, caption, page=page)
    bottom = sheet.bottom + BELOW
    _draw_clouds(sheet.panel(left, bottom, cloud, height, "correlation of matched filters"), layers)
    _draw_counts(sheet.panel(left + cloud + BETWEEN, bottom, BARS, height), layers)
    if known and comparison.decisions is not None:
        x = left + cloud + BETWEEN + BARS + 1.5 * BETWEEN
        _draw_reliability(sheet, comparison.decisions, x, bottom, SQUARE, height)
    return sheet.figure


def draw_calibration(decisions: Decisions, title: str = "", caption: str = "") -> Figure:
    """Draw the reliability diagram of both networks, with the histogram of their confidences below.

    Args:
        decisions: of images of which some have a known class.
        title: text above.
        caption: text below.

    Source: Guo et al. 2017, figure 1.
    """
    side = 3.2
    sheet = Sheet(side + 0.9, side + HISTOGRAM + BELOW + ABOVE, title, caption)
    _draw_reliability(sheet, decisions, 0.65, sheet.bottom + BELOW, side, side + HISTOGRAM)
    return sheet.figure


def draw_pairs(layer: LayerComparison, title: str = "", caption: str = "") -> Figure:
    """Draw pairs of matched filters: the strongest patches before at the left, and those of the partner at the right.

    Args:
        layer: the filters of a layer, some of which have pictures.
        title: text above.
        caption: text below.

    Raises:
        DataError: no filter has pictures.
    """
    if not len(layer.shown):
        raise DataError(f"no filter of {layer.layer} has pictures; compare with filters=6 or more")
    count, columns = len(layer.shown), max(1, math.ceil(math.sqrt(layer.tiles_before.shape[1])))
    across = min(ACROSS, count)
    block = 2 * MOSAIC + GAP
    rows = math.ceil(count / across)
    width = max(across * (block + 3 * GAP) + 3 * GAP, 4.0)
    sheet = Sheet(width, rows * (MOSAIC + TEXT + GAP) + 0.2, title, caption)
    for index, channel in enumerate(layer.shown.tolist()):
        row, column = divmod(index, across)
        left = 3 * GAP + column * (block + 3 * GAP)
        top = sheet.top - 0.2 - row * (MOSAIC + TEXT + GAP)
        lines = _pair_words(layer, channel)
        sheet.text(left + block / 2, top, lines[0], ha="center", va="top", fontsize=7, weight="bold")
        sheet.text(left + block / 2, top - 0.14, lines[1], ha="center", va="top", fontsize=SMALL)
        for place, tiles in enumerate((layer.tiles_before[index], layer.tiles_after[index])):
            sheet.mosaic(list(tiles), columns, left + place * (MOSAIC + GAP), top - TEXT - MOSAIC + 0.06, MOSAIC)
    for column in range(across):
        for place, name in enumerate(NAMES):
            x = 3 * GAP + column * (block + 3 * GAP) + place * (MOSAIC + GAP) + MOSAIC / 2
            sheet.text(x, sheet.top - 0.05, name, ha="center", va="center", fontsize=SMALL, color=SIDES[place][0])
    return sheet.figure


def draw_explained(explained: ExplainedImages, rows: Sequence[str], title: str = "", caption: str = "") -> Figure:
    """Draw each image, and over it the map of both networks.

    Args:
        explained: the images and their maps.
        rows: a text for each image.
        title: text above.
        caption: text below.
    """
    maps = [list(pair) for pair in zip(*explained.maps, strict=True)]
    return draw_maps(list(explained.pictures), maps, rows, NAMES, title, caption)


def _pair_words(layer: LayerComparison, channel: int) -> tuple[str, str]:
    """Return two lines about a pair: both numbers with what became of it, and what was measured."""
    partner = int(layer.partner[channel])
    number = f"filter {channel}" if partner == channel else f"filter {channel} → {partner}"
    dead = [
        word
        for word, alive in (("dead before", layer.alive_before[channel]), ("dead after", layer.alive_after[partner]))
        if not alive
    ]
    status = ", ".join([layer.status(channel), *dead])
    half = NORMAL_95 * layer.sharpness_error[channel]
    return f"{number}: {status}", (
        f"correlation {layer.correlation[channel]:.2f}, sharpness {layer.sharpness_before[channel]:.2f} "
        f"({layer.sharpened[channel]:+.2f}{'' if np.isnan(half) else f' ± {half:.2f}'})"
    )


def _draw_clouds(axes: Axes, layers: Sequence[LayerComparison]) -> None:
    """Draw a dot for each filter that varied before at the correlation with its partner, a row for each layer."""
    lowest = RECOGNISED - 0.1
    for row, layer in enumerate(layers):
        values = np.sort(layer.correlation[layer.alive_before])
        if not len(values):
            continue
        lowest = min(lowest, float(values[0]))
        heights = row + 0.35 * (2 * np.modf(np.arange(len(values)) * GOLDEN)[0] - 1)
        axes.plot(values, heights, "o", color="#0072b2", markersize=2.2, alpha=0.6, mec="none")
        axes.plot(np.median(values), row, "|", color="black", markersize=16, mew=1.6)
        same = float(np.median(layer.same[layer.alive_before]))
        axes.plot(max(same, lowest), row, "D", color="white", mec="#d55e00", markersize=4.5, mew=1.1)
    axes.axvline(RECOGNISED, color="0.4", linestyle="--", linewidth=0.9)
    axes.set_xlim(min(lowest, 0.4) - 0.03, 1.03)
    axes.set_yticks(range(len(layers)), [shortened(layer.layer, 30, keep_end=True) for layer in layers])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlabel("Pearson correlation", fontsize=7)


def _draw_counts(axes: Axes, layers: Sequence[LayerComparison]) -> None:
    """Draw how many of a layer's filters are gone, new, sharper and blunter, in per cent of the layer."""
    height, largest = 0.8 / len(STATUSES), 1.0
    for place, (name, word) in enumerate(STATUSES.items()):
        counts = [len(getattr(layer, name)) for layer in layers]
        shares = [100 * count / len(layer.partner) for count, layer in zip(counts, layers, strict=True)]
        rows = np.arange(len(layers)) - 0.4 + height * (place + 0.5)
        axes.barh(rows, shares, height * 0.9, color=COLOURS[word], label=word)
        for row, share, count in zip(rows, shares, counts, strict=True):
            axes.text(share, row, f" {count}", va="center", ha="left", fontsize=4.5, color="0.25")
        largest = max(largest, *shares) if shares else largest
    axes.set_yticks(range(len(layers)), [""] * len(layers))
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("% of the layer's filters; their number at the bar", fontsize=7)
    axes.legend(
        fontsize=SMALL,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        columnspacing=0.9,
        handlelength=1.1,
        borderpad=0.1,
    )


def _draw_reliability(
    sheet: Sheet, decisions: Decisions, left: float, bottom: float, width: float, height: float
) -> None:
    """Draw accuracy against confidence, and below it the histogram of the confidences."""
    axes = sheet.panel(left, bottom + HISTOGRAM, width, height - HISTOGRAM)
    below = sheet.panel(left, bottom, width, HISTOGRAM - 0.08)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.9)
    for result, name, (colour, marker, style) in zip(decisions.reliability, NAMES, SIDES, strict=True):
        some = result.count > 0
        label = f"{name}: error {result.error:.3f}"
        sizes = LARGEST * result.count[some] / result.count.max() + 2
        axes.scatter(result.confidence[some], result.accuracy[some], s=sizes, c=colour, marker=marker, zorder=3)
        axes.plot(
            *(result.confidence[some], result.accuracy[some]),
            linestyle=style,
            color=colour,
            label=label,
            linewidth=1.0,
        )
        below.stairs(100 * result.count / result.count.sum(), result.edges, color=colour, linestyle=style)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticklabels=[])
    axes.set_ylabel("share classified correctly", fontsize=7)
    axes.set_title("confidence and accuracy", fontsize=HEADING)
    axes.legend(fontsize=SMALL, frameon=True, framealpha=0.8, edgecolor="none", loc="upper left")
    below.set(xlim=(0, 1))
    below.set_ylim(bottom=0)
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.set_ylabel("% of images", fontsize=SMALL)
    below.set_xlabel("confidence: probability of the class named", fontsize=7)

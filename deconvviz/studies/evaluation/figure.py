"""Draw an evaluation: maps side by side, the deletion and insertion curves, and a bar chart for each metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from deconvviz.figures.overlay import VIRIDIS, draw_map, draw_maps
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, image_label, shortened
from deconvviz.models.labels import class_label
from deconvviz.studies.evaluation.columns import COSTS, CURVES

if TYPE_CHECKING:
    from deconvviz.studies.evaluation.mistakes_result import Mistakes
    from deconvviz.studies.evaluation.result import Evaluation

COLOURS, DPI = "viridis", 170
WIDTH, LEFT, RIGHT, BAR = 11.0, 1.35, 0.2, 0.75  # inches, of the sheet, its margins, and the maps' colour bar
TILE, GAP, METHODS_IN_A_BAND, BAND_HEAD = 1.0, 0.06, 8, 0.3
CURVE, CURVE_TITLE, CURVE_LABELS, LEGEND = 2.1, 0.3, 0.45, 2.2
TITLE_LETTER, TITLE_LINE = 0.048, 0.11  # inches of a letter of a curve's title, and of a further line
CHARTS_IN_A_ROW, CHART, CHART_LABELS = 4, 1.8, 0.6  # inches: the least width of a chart, and for its title and ticks
NARROWEST = 6.0  # inches: a page with room for two curves and their legend
TITLES = {
    "deletion": "pixels deleted, the map's highest first",
    "insertion": "pixels put back into a blurred picture, the map's highest first",
}
UNITS = {
    "saliency_metric": ", nats",
    "best_saliency_metric": ", nats",
    "infidelity": ", squared probability",
    "max_sensitivity": ", share of the map",
    "random_logit": ", similarity",
}
LINES = ("-", "--", ":", "-.")

Colours = Mapping[str, Any]
"""Method -> its colour, the same in curves and bars."""


def heading(column: str) -> str:
    """Return the name of a column in words.

    >>> heading("average_drop_15"), heading("max_box_acc")
    ('average drop at 15 %', 'max box acc')
    """
    metric, _, share = column.rpartition("_")
    words = f"{metric} at {share} %" if share.isdecimal() else column
    return words.replace("_", " ")


def draw_evaluation(
    evaluation: Evaluation,
    higher_is_better: Mapping[str, bool],
    title: str,
    caption: str,
    class_names: Sequence[str] = (),
    page: Page = OWN,
) -> Figure:
    """Draw an evaluation.

    Args:
        evaluation: what was measured.
        higher_is_better: metric -> whether a higher value is better; other columns have no direction.
        title: of the sheet.
        caption: of the sheet.
        class_names: of the network's outputs; empty where they are unknown.
        page: what is asked for of the page; its columns are the methods in a row of maps.
    """
    methods = list(evaluation.values)
    shades = matplotlib.colormaps[COLOURS](np.linspace(0.05, 0.9, len(methods)))
    colours = dict(zip(methods, shades, strict=True))
    width = page.fitted(WIDTH, 0, 1, NARROWEST)
    across = page.across(len(methods), METHODS_IN_A_BAND, TILE + GAP, LEFT + TILE + RIGHT + BAR)
    tile = min(TILE, (width - LEFT - RIGHT - BAR) / (1 + across) - GAP)
    bands = [methods[first : first + across] for first in range(0, len(methods), across)]
    image_rows = math.ceil(len(evaluation.pictures) / _images_across(evaluation, len(bands[0]), tile, width))
    band_height = image_rows * (tile + GAP) + BAND_HEAD if image_rows else 0.0
    walks = [walk for walk in CURVES if any(key.endswith(f"/{walk}") for key in evaluation.curves)]
    curve_width = (width - LEFT - RIGHT - LEGEND) / 2
    titles = [wrapped_title(f"{walk}: {TITLES[walk]}", curve_width) for walk in walks]
    above = CURVE_TITLE + TITLE_LINE * max((text.count("\n") for text in titles), default=0)
    curves_height = above + CURVE + CURVE_LABELS if walks else 0.0
    in_a_row = CHARTS_IN_A_ROW if page.width is None else max(1, int((width - LEFT - RIGHT) / CHART))
    charts_height = math.ceil(len(drawn_columns(evaluation)) / in_a_row) * (_chart_height(methods) + CHART_LABELS)
    sheet = Sheet(width, len(bands) * band_height + curves_height + charts_height, title, caption, DPI, page)
    top = sheet.top
    for band in bands if len(evaluation.pictures) else ():
        _draw_maps(sheet, evaluation, band, top, tile, class_names)
        top -= band_height
    if walks:
        _draw_curves(sheet, evaluation, dict(zip(walks, titles, strict=True)), colours, top - above)
    _draw_charts(sheet, evaluation, higher_is_better, colours, top - curves_height, in_a_row)
    return sheet.figure


def draw_mistakes(mistakes: Mistakes, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the first images that are classified incorrectly, with the maps for the true and for the predicted class.

    Args:
        mistakes: those that were found, at least one.
        title: of the sheet.
        caption: of the sheet.
        page: what is asked for of the page.
    """
    names, maps = mistakes.output_names, [list(of_image) for of_image in mistakes.maps]
    rows = [
        f"true {shortened(names[mistake.true], 20)} {mistake.p_true:.2f}\n"
        f"{shortened(names[mistake.predicted], 14)} {mistake.p_predicted:.2f}, overlap {mistake.overlap:.2f}"
        for mistake in mistakes.records[: len(maps)]
    ]
    columns = ["true class", "predicted class"]
    return draw_maps(list(mistakes.pictures), maps, rows, columns, title, caption, page=page)


def _chart_height(methods: Sequence[str]) -> float:
    return 0.35 + 0.17 * len(methods)


def _images_across(evaluation: Evaluation, methods: int, tile: float, width: float) -> int:
    """Return how many images stand in a row, each with its maps by so many methods, on a page of this width."""
    fitting = int((width - RIGHT - BAR) / (LEFT + (1 + methods) * (tile + GAP)))
    return max(1, min(fitting, len(evaluation.pictures)))


def _draw_maps(
    sheet: Sheet, evaluation: Evaluation, methods: Sequence[str], top: float, tile: float, class_names: Sequence[str]
) -> None:
    """Draw the first images, and each method's maps over them, below `top`; a picture has this side. All in inches."""
    first_row, across = top - 0.25, _images_across(evaluation, len(methods), tile, sheet.width)
    own_width = LEFT + (1 + len(methods)) * (tile + GAP)
    for number, picture in enumerate(evaluation.pictures):
        row, left = number // across, LEFT + number % across * own_width
        y = first_row - (row + 1) * (tile + GAP) + GAP
        _write_label(sheet, evaluation, number, left - 0.08, y + tile / 2, class_names)
        for column, name in enumerate(("image", *methods)):
            x = left + column * (tile + GAP)
            if row == 0:
                sheet.text(x + tile / 2, top - 0.22, name, ha="center", va="bottom", fontsize=7)
            if column:
                draw_map(sheet, picture, evaluation.maps[name][number], VIRIDIS, x, y, tile)
            else:
                sheet.picture(picture / 255.0, x, y, tile)
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    left, bottom = across * own_width + 0.05, first_row - tile
    sheet.colour_bar(scale, "share of the\nmap's range", left, bottom, tile, 0.08, [0, 0.5, 1])


def _write_label(
    sheet: Sheet, evaluation: Evaluation, number: int, right: float, y: float, class_names: Sequence[str]
) -> None:
    """Write what an image is called, which class is explained, and its probability."""
    explained = int(evaluation.explained[number])
    label = shortened(class_names[explained] if class_names else class_label(explained), 20)
    name = image_label(evaluation.names[number], 22)
    text = f"{name}\n{label}\np = {evaluation.probability[number]:.2f}"
    sheet.text(right, y, text, ha="right", va="center", fontsize=6)


def wrapped_title(title: str, width: float) -> str:
    """Return a curve's title on as many lines as a panel of this width in inches needs.

    >>> wrapped_title("deletion: pixels deleted", 0.8)
    'deletion: pixels\\ndeleted'
    """
    return textwrap.fill(title, max(int(width / TITLE_LETTER), 10))


def _draw_curves(sheet: Sheet, evaluation: Evaluation, titles: Mapping[str, str], colours: Colours, top: float) -> None:
    """Draw the mean probability as pixels are deleted or inserted, a line for each method; walk -> its title."""
    width = (sheet.width - LEFT - RIGHT - LEGEND) / 2
    for number, (walk, title) in enumerate(titles.items()):
        left = LEFT - 0.6 + number * (width + 0.55)
        panel = sheet.panel(left, top - CURVE, width, CURVE)
        for method, line in zip(evaluation.values, LINES * len(colours), strict=False):
            mean = np.nanmean(evaluation.curves[f"{method}/{walk}"], 0)
            per_cent = np.linspace(0, 100, len(mean))
            panel.plot(per_cent, mean, color=colours[method], label=method, lw=1.4, ls=line)
        highest = np.nanmax([line.get_ydata() for line in panel.lines], initial=0)
        panel.set(xlim=(0, 100), ylim=(0, 1.05 * highest or 1))  # a line along the frame would not be seen
        panel.set_xlabel("share of the pixels, %", fontsize=7)
        panel.set_title(title, fontsize=7)
        if number == 0:
            panel.set_ylabel("mean probability of the class", fontsize=7)
    panel.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, ncols=1 + len(colours) // 15)


def drawn_columns(evaluation: Evaluation) -> list[int]:
    """Return the numbers of the columns that some image has a value of, and that are not zero for all methods."""
    values = np.stack(list(evaluation.values.values()))
    finite = np.isfinite(values).any((0, 1))
    return [int(number) for number in np.flatnonzero(finite & (np.nan_to_num(values) != 0).any((0, 1)))]


def _draw_charts(
    sheet: Sheet,
    evaluation: Evaluation,
    higher_is_better: Mapping[str, bool],
    colours: Colours,
    top: float,
    in_a_row: int,
) -> None:
    """Draw a chart for each column: the means as bars, and their 95 % intervals as whiskers."""
    methods = list(evaluation.values)
    height = _chart_height(methods)
    means = np.array([evaluation.mean(method) for method in methods])
    errors = np.array([evaluation.error(method) for method in methods])
    width, places = (sheet.width - LEFT - RIGHT) / in_a_row, np.arange(len(methods))[::-1]
    for place, number in enumerate(drawn_columns(evaluation)):
        column = evaluation.columns[number]
        row, across = divmod(place, in_a_row)
        bottom = top - (row + 1) * (height + CHART_LABELS) + 0.22
        chart = sheet.axes(LEFT + across * width, bottom, width - 0.25, height - 0.05)
        is_cost = column in COSTS
        whiskers = None if is_cost else errors[:, number]
        bars = chart.barh(places, means[:, number], color=list(colours.values()), xerr=whiskers, ecolor="0.15")
        _surround_whiskers(bars)
        better = {True: "\n(higher is better", False: "\n(lower is better", None: ""}[higher_is_better.get(column)]
        better += f"{UNITS[column]})" if better and column in UNITS else ")" if better else ""
        chart.set_title(heading(column) + better, fontsize=7, pad=3)
        chart.set_yticks(places, methods if across == 0 else [""] * len(methods), fontsize=7)
        chart.tick_params(axis="x", labelsize=6)
        if is_cost:  # from one pass to thousands: the numbers stand at the bars
            least, most = means[:, number].min(), means[:, number].max()
            chart.set_xscale("log" if least > 0 else "linear")
            chart.bar_label(bars, [f"{value:.3g}" for value in means[:, number]], fontsize=6, padding=2)
            chart.set_xlim(least / 3, max(most, 1e-9) * (4 if least > 0 else 1.3))
            chart.xaxis.set_major_locator(NullLocator())
            chart.xaxis.set_minor_locator(NullLocator())
        else:
            chart.xaxis.set_major_locator(MaxNLocator(4))
            least, most = min(means[:, number].min(), 0), max(means[:, number].max(), 0)
            chart.set_xlim(None if least else 0, None if most else 0 if least else 1)
            for y, mean in zip(places, means[:, number], strict=True):
                if mean == 0:  # a bar of no length looks like one that is missing
                    chart.annotate("0", (0, y), (2, 0), textcoords="offset points", va="center", fontsize=6)


def _surround_whiskers(bars: BarContainer) -> None:
    """Surround the whiskers of bars with white, so that they are seen on bars of any colour."""
    if bars.errorbar is not None:
        for whiskers in bars.errorbar.lines[2]:
            whiskers.set_path_effects([withStroke(linewidth=3, foreground="white")])

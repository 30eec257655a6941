"""Trained variants as a figure: their errors, how far they are from the full network, and their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from deconvviz.figures.bars import draw_interval, label_values, rows_from_top
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet

if TYPE_CHECKING:
    from deconvviz.studies.ablation.result import Variant, VariantTable

TRAINING, VALIDATION = "#9bb4d1", "#21436b"  # the lightness alone tells them apart
WIDTH, NARROWEST, GAP = 8.0, 4.5, 0.25  # inches: the page, the least room of three panels in a row, between two
LETTER = 0.066  # inches of a letter of a variant's name
SHARES = (1.25, 1.0, 1.0)  # of the three panels in the rest of the width
ROW, BELOW, ABOVE = 0.36, 0.5, 0.2  # inches: a variant, the axes' labels, the legend


def draw_variants(table: VariantTable, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a row for each variant in three panels: errors, difference from the full network, and parameters.

    A narrow page has the panels one below the other.

    Args:
        table: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    height, names = max(ROW * len(table.rows), 0.9), 0.3 + LETTER * max(len(row.name) for row in table.rows)
    width = page.fitted(WIDTH, 0, 1, names + 1.5)
    stacked = width < names + NARROWEST
    sheet = Sheet(width, (BELOW + height + ABOVE) * (3 if stacked else 1), title, caption, page=page)
    unit = (width - names - 0.2 if stacked else width - names - 2 * GAP - 0.2) / (
        max(SHARES) if stacked else sum(SHARES)
    )
    left, bottom, panels = names, sheet.top - ABOVE - height, []
    for share in SHARES:
        panels.append(sheet.axes(left, bottom, unit * (max(SHARES) if stacked else share), height))
        left, bottom = (left, bottom - BELOW - height - ABOVE) if stacked else (left + share * unit + GAP, bottom)
    rows = list(zip(table.rows, rows_from_top(len(table.rows)), strict=True))
    _draw_errors(panels[0], rows)
    _draw_differences(panels[1], rows)
    _draw_parameters(panels[2], rows)
    for number, panel in enumerate(panels):
        panel.set_yticks(
            [place for _, place in rows], [row.name if stacked or not number else "" for row, _ in rows], fontsize=8
        )
        panel.set_ylim(-0.6, len(rows) - 0.4)
    return sheet.figure


def _draw_errors(axes: Axes, rows: list[tuple[Variant, float]]) -> None:
    places = np.array([place for _, place in rows])
    errors = {
        "training": (0.19, TRAINING, [100 * row.training_error for row, _ in rows]),
        "validation": (-0.19, VALIDATION, [100 * row.validation_error for row, _ in rows]),
    }
    for label, (shift, colour, values) in errors.items():
        bars = axes.barh(places + shift, values, 0.36, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=6, padding=2)
    axes.set_xlim(0, 1.14 * max(1.0, *(error for _, _, values in errors.values() for error in values)))
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, borderaxespad=0.1)
    label_values(axes, "top-1 error (%)")


def _draw_differences(axes: Axes, rows: list[tuple[Variant, float]]) -> None:
    for row, place in rows:
        if row.difference is not None and row.low is not None and row.high is not None:
            draw_interval(axes, 100 * np.array([row.difference, row.low, row.high]), place, VALIDATION)
    axes.axvline(0, color="0.5", linewidth=0.8)
    label_values(axes, "validation error above the full network's\n(percentage points, 95 % interval)")


def _draw_parameters(axes: Axes, rows: list[tuple[Variant, float]]) -> None:
    counts = [row.parameters for row, _ in rows]
    bars = axes.barh([place for _, place in rows], counts, 0.6, color="0.6")
    axes.bar_label(bars, [_abbreviated(count) for count in counts], fontsize=7, padding=2)
    axes.set_xscale("log")
    axes.set_xlim(min(counts) / 2, max(counts) * 3)
    few = max(counts) > 20 * min(counts)  # more ticks where the axis is short
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _abbreviated(int(value))))
    label_values(axes, "parameters (log scale)")


def _abbreviated(count: int) -> str:
    """Return a number with three digits and a unit: 62.4 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

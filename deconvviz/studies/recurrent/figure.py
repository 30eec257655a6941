"""The views of a recurrent network as figures: responses and groups, gates, and how well units track properties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from deconvviz.figures.overlay import SIGNED
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, shortened
from deconvviz.studies.recurrent.naming import activity_words, layer_words, shown_token
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.recurrent.result import LayerViews, RecurrentViews
    from deconvviz.types import Floats, Ints


OPEN, CHANCE = "#0072b2", "#d55e00"  # blue, and vermilion for what chance gives
TOKENS, UNITS, RANKED = 36, 40, 8  # most tokens, units and ranked units that are drawn
CELL, LARGEST, NARROW = 0.16, 0.28, 0.09  # inches: height of a matrix's rows, at most, width of many columns
PANEL, GAP = 1.75, 0.72  # inches: a panel's side, and between two
MARKS = (("o", 16, "#0072b2"), ("^", 34, "#d55e00"), ("s", 52, "#009e73"))  # shape, size and colour of the gates


def draw_recurrent(
    views: RecurrentViews, layer: LayerViews, title: str = "", caption: str = "", page: Page = OWN
) -> Figure:
    """Draw what the units of a layer do: expected responses, gates, and which units track the properties.

    Args:
        views: from `recurrent`.
        layer: one of its layers.
        title: text above; by default the network and the layer.
        caption: text below; by default what is shown.
        page: what is asked for of the page.
    """
    tokens, units = drawn_rows(layer)
    panels = (["gates"] if layer.gates else []) + list(layer.tracked)
    # The matrix and the panels beside it are equally high: whichever is lower is stretched.
    columns = 1 if len(panels) < 3 else 2
    rows = max(math.ceil(len(panels) / columns), 1)
    tall = max(len(tokens) * _cell(tokens) + 0.6, rows * (PANEL + GAP))
    high = tall / rows - GAP if len(tokens) else PANEL
    matrix = max(min(len(units) * 0.7 * _cell(tokens), max(len(units) * NARROW, 2.5)), 0.6) if len(tokens) else 0.0
    left = 0.95 if len(tokens) else 0.0
    middle = left + matrix + (1.15 if len(tokens) else 0.0)
    width = page.fitted(PANEL, middle + GAP * columns + 0.1, max(columns, 1), 1.0)
    sheet = Sheet(
        max(middle + columns * (width + GAP) + 0.1, 4.5),
        tall,
        title or f"{views.network}: {views.kind}, {layer_words(layer.name)}",
        caption or caption_of(views, layer),
        page=page,
    )
    if len(tokens):
        _draw_responses(sheet, views, layer, (tokens, units), left, (matrix, tall - 0.6))
    for number, name in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = middle + column * (width + GAP) + GAP - 0.1, sheet.top - row * (high + GAP) - high - 0.2
        axes = sheet.panel(x, y, width, high, name)
        if name == "gates":
            _draw_gates(axes, layer)
        else:
            _draw_tracking(axes, layer, name)
    return sheet.figure


def caption_of(views: RecurrentViews, layer: LayerViews) -> str:
    """Return what the figure of a layer shows."""
    tokens, units = drawn_rows(layer)
    texts = []
    if len(tokens):
        all_tokens = int((layer.counts > 0).sum())
        counts = f"{len(tokens)} of {counted(all_tokens, 'token')}, {len(units)} of {counted(layer.units, 'unit')}"
        texts.append(
            "Expected response: the mean change of a unit's hidden state when it reads a token, over all places where "
            f"the token occurs ({counts}). Lines part groups of tokens and units that belong together (spectral "
            "co-clustering)."
        )
    if layer.gates:
        texts.append(
            "Gates: a mark is a unit's gate, at the shares of steps at which it is shut (below 0.1) and open (above "
            "0.9)."
        )
    if layer.tracked:
        texts.append(
            f"Bars: correlation of the {activity_words(views.kind)} with a property, of the {RANKED} best units; "
            "beyond the dashed line are 5 % of the largest correlations of any unit with the property rotated within "
            "each sequence."
        )
    return " ".join(texts)


def drawn_rows(layer: LayerViews) -> tuple[Ints, Ints]:
    """Return the tokens and units of a layer that are drawn, group by group: the most frequent, and the most moved."""
    present = np.flatnonzero(layer.counts)
    tokens = present[np.argsort(-layer.counts[present], kind="stable")[:TOKENS]]
    if not len(tokens):
        return tokens, np.zeros(0, np.int64)
    moved = np.abs(layer.mean[tokens]).max(0)
    units = np.argsort(-moved, kind="stable")[:UNITS]
    return _by_group(tokens, layer.token_groups), _by_group(units, layer.unit_groups)


def _by_group(members: Ints, groups: Ints) -> Ints:
    """Sort tokens or units by their groups; those without a group stand last."""
    group_numbers = np.where(groups[members] < 0, groups.max(initial=0) + 1, groups[members])
    return np.asarray(members[np.lexsort((members, group_numbers))], np.int64)


def _draw_responses(
    sheet: Sheet,
    views: RecurrentViews,
    layer: LayerViews,
    drawn: tuple[Ints, Ints],
    left: float,
    size: tuple[float, float],
) -> None:
    (tokens, units), (width, height) = drawn, size
    axes = sheet.axes(left, sheet.top - height - 0.05, width, height)
    values = layer.mean[np.ix_(tokens, units)]
    most = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap=SIGNED, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    words = [shortened(shown_token(views.sequences.vocabulary[token]), 12) for token in tokens]
    axes.set_yticks(range(len(tokens)), words, fontsize=SMALL, family="monospace")
    axes.set_xticks(range(len(units)), units.tolist(), fontsize=5, rotation=90)
    axes.tick_params(length=1.5, pad=1.5)
    axes.set_xlabel("unit", fontsize=SMALL, labelpad=1)
    axes.set_ylabel("token", fontsize=SMALL)
    for edge in _edges(layer.token_groups[tokens]):
        axes.axhline(edge, color="black", linewidth=0.8)
    for edge in _edges(layer.unit_groups[units]):
        axes.axvline(edge, color="black", linewidth=0.8)
    bar = min(height, 1.6)
    sheet.colour_bar(image, "expected response", left + width + 0.1, sheet.top - bar - 0.05, bar)


def _cell(tokens: Ints) -> float:
    """Return the height of a row of the matrix in inches: few tokens have larger ones."""
    return float(np.clip(2.5 / max(len(tokens), 1), CELL, LARGEST))


def _edges(groups: Ints) -> Floats:
    return np.asarray(np.flatnonzero(np.diff(groups)) + 0.5, np.float64)


def _draw_gates(axes: Axes, layer: LayerViews) -> None:
    for (name, shares), (mark, size, colour) in zip(layer.gates.items(), MARKS, strict=False):
        shut, opened = 100 * shares.T
        axes.scatter(shut, opened, size, marker=mark, facecolors="none", edgecolors=colour, linewidth=0.9, label=name)
    axes.plot([100, 0], [0, 100], color="0.6", linewidth=0.6, linestyle=":")
    axes.set(xlim=(-4, 104), ylim=(-4, 104))
    axes.set_xlabel("shut (% of steps)", fontsize=SMALL, labelpad=1)
    axes.set_ylabel("open (% of steps)", fontsize=SMALL, labelpad=1)
    axes.legend(fontsize=5, loc="upper right", framealpha=0.8, handletextpad=0.2, borderpad=0.3)


def _draw_tracking(axes: Axes, layer: LayerViews, name: str) -> None:
    tracking = layer.tracked[name]
    order = tracking.order[:RANKED]
    values = np.abs(tracking.correlation[order])
    axes.barh(range(len(order)), values, color=OPEN, height=0.7)
    axes.axvline(tracking.chance, color=CHANCE, linewidth=1, linestyle="--")
    signs = ["−" if tracking.correlation[unit] < 0 else "+" for unit in order]
    axes.set_yticks(range(len(order)), [f"{unit} ({sign})" for unit, sign in zip(order, signs, strict=True)])
    axes.set(xlim=(0, 1), ylim=(len(order) - 0.4, -0.6))
    axes.set_xlabel("correlation, absolute", fontsize=SMALL, labelpad=1)
    axes.set_ylabel("unit (sign)", fontsize=SMALL, labelpad=3)


def signed_scale(most: float) -> ScalarMappable:
    """Return the colours of values from -most to most."""
    return ScalarMappable(Normalize(-most, most), SIGNED)

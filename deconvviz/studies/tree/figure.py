"""A tree over classes as a figure, and a decision as a path through it, with a map at each node."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from deconvviz.figures.overlay import VIRIDIS, draw_map
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import CAPTION, SMALL, Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.tree.result import ClassTree, TreePath, TreeStep

TIPS, CUT = 60, 40  # classes that are all drawn; of more, the groups that are
ROW, NATURAL, LEAST = 0.17, 3.4, 1.0  # inches: of a leaf; width of the tree, and its smallest
LETTER, SMALLER, LONGEST = (
    0.056,
    0.046,
    52,
)  # inches of a letter of a leaf's name, and on a path; most letters
BELOW, BAR = 0.5, 0.95  # inches: for the axis below, and for the colour bar
WRONG = "#d55e00"  # vermilion: the branch that is not taken
PANEL, NARROW, GAP, LINES = 1.9, 1.1, 0.15, 0.5  # inches: of a path's map, of the smallest, between two, and of texts


def draw_tree(tree: ClassTree, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a tree with its root on the left and the names of the classes on the right.

    Of a tree of more than 60 classes the top is drawn: 40 groups, each with the classes whose weights agree most with
    the group's mean. Where the tree was measured, a node's colour is the share of images that take the branch of
    their class there.

    Args:
        tree: from `tree`.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    tips = tips_of(tree, tree.count if tree.count <= TIPS else CUT)
    names = [shortened(tree.group_name(tip), LONGEST) for tip in tips]
    letters = max(map(len, names)) * LETTER + 0.1
    bar = BAR if tree.accuracy is not None else 0.0
    fixed = 0.2 + letters + bar
    width = page.fitted(NATURAL, fixed, 1, LEAST)
    height = ROW * len(tips)
    sheet = Sheet(fixed + width, height + BELOW, title, caption, page=page)
    axes = sheet.axes(0.15, sheet.bottom + BELOW, width, height)
    places = {tip: float(row) for row, tip in enumerate(reversed(tips))}
    _draw_branches(axes, tree, places)
    axes.set(ylim=(-0.5, len(tips) - 0.5), xlim=(1.03 * tree.heights[-1], 0), yticks=[])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.set_xlabel("distance of weights (Ward)", fontsize=7)
    for row, name in enumerate(reversed(names)):
        y = sheet.bottom + BELOW + (row + 0.5) * ROW
        sheet.text(0.15 + width + 0.05, y, name, va="center", fontsize=CAPTION)
    if tree.accuracy is not None:
        scale = ScalarMappable(Normalize(50, 100), "viridis")
        left, length = 0.15 + width + letters + 0.1, min(height, 2.0)
        label = "images that take the branch\nof their class (%)"
        sheet.colour_bar(scale, label, left, sheet.top - length, length, ticks=[50, 75, 100])
    return sheet.figure


def tips_of(tree: ClassTree, count: int) -> list[int]:
    """Return the nodes at which a drawing of `count` tips ends, from the top to the bottom of the page."""
    first = tree.root - count + 2  # inner nodes from here on are drawn
    tips, waiting = list[int](), [tree.root]
    while waiting:
        node = waiting.pop()
        if node < max(first, tree.count):
            tips.append(node)
        else:
            left, right = tree.children(node)
            waiting += [right, left]
    return tips


def _draw_branches(axes: Axes, tree: ClassTree, places: dict[int, float]) -> None:
    """Draw the lines and the dots of all nodes above the tips; `places` gets the height on the page of each of them."""
    accuracy, colours = tree.accuracy, matplotlib.colormaps["viridis"]
    for row, (left, right) in enumerate(tree.merges.tolist()):
        if left not in places or right not in places:
            continue
        height, node = float(tree.heights[row]), tree.count + row
        low, high = sorted((places[left], places[right]))
        axes.plot([height, height], [low, high], color="0.35", linewidth=0.9, zorder=1)
        for child in (left, right):
            own = 0.0 if child < tree.count else float(tree.heights[child - tree.count])
            axes.plot([height, own], [places[child]] * 2, color="0.35", linewidth=0.9, zorder=1)
        places[node] = (low + high) / 2
        if accuracy is not None and accuracy.below[row]:
            share = 100 * accuracy.right[row] / accuracy.below[row]
            axes.scatter(height, places[node], 22, color=[colours(np.clip((share - 50) / 50, 0, 1))], zorder=2)
    for tip, place in [item for item in places.items() if tree.count <= item[0]]:
        if not any(child in places for child in tree.children(tip)):  # a group: it goes on below
            axes.plot([float(tree.heights[tip - tree.count]), 0], [place] * 2, color="0.8", linewidth=3, zorder=0)


def draw_tree_path(path: TreePath, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw the image, and a panel for each node of its path: the map, the branch that is taken, and the other one.

    Args:
        path: from `tree_path`.
        title: text above.
        caption: text below.
        page: what is asked for of the page; its columns are the panels in a row.
    """
    count = len(path.steps) + 1
    columns = page.across(count, 5, NARROW + GAP, GAP)
    side = page.fitted(PANEL, GAP * (columns + 1), columns, 0.9)
    rows, height = math.ceil(count / columns), side + LINES + 0.1
    sheet = Sheet(GAP + columns * (side + GAP), rows * height, title, caption, page=page)
    for place in range(count):
        left = GAP + (place % columns) * (side + GAP)
        bottom = sheet.top - (place // columns) * height - side - 0.14
        if place == 0:
            _draw_start(sheet, path, left, bottom, side)
        else:
            _draw_step(sheet, path, path.steps[place - 1], place, left, bottom, side)
    return sheet.figure


def _draw_start(sheet: Sheet, path: TreePath, left: float, bottom: float, side: float) -> None:
    letters, tree = int(side / SMALLER), path.tree
    sheet.picture(path.picture / 255.0, left, bottom, side)
    lines = [
        (shortened(path.name, letters, keep_end=True), "0.2"),
        (shortened(f"network: {tree.class_name(path.decided)}, {100 * path.probability:.0f} %", letters), "0.2"),
        (shortened(f"tree: {tree.class_name(path.leaf)}, {100 * path.soft:.0f} %", letters), "0.2"),
    ]
    _write(sheet, lines, left, bottom)


def _draw_step(
    sheet: Sheet, path: TreePath, step: TreeStep, number: int, left: float, bottom: float, side: float
) -> None:
    letters, tree = int(side / SMALLER), path.tree
    draw_map(sheet, path.picture, step.map, VIRIDIS, left, bottom, side)
    classes = len(tree.members[step.node])
    heading = f"{number}. of {classes} classes, {100 * step.probability:.0f} %"
    sheet.text(left, bottom + side + 0.02, heading, va="bottom", fontsize=SMALL)
    taken, other = (shortened(tree.group_name(child), letters) for child in (step.taken, step.other))
    _write(sheet, [(taken, "0.2"), (shortened(f"not {other}", letters), WRONG)], left, bottom)


def _write(sheet: Sheet, lines: list[tuple[str, str]], left: float, bottom: float) -> None:
    for number, (line, colour) in enumerate(lines):
        sheet.text(left, bottom - 0.04 - 0.115 * number, line, va="top", fontsize=SMALL, color=colour)

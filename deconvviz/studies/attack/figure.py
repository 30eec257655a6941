"""Figures of attacks: images with their changes, and accuracy over epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from deconvviz.figures.overlay import SIGNED
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, image_label, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.studies.attack.registry import LEVELS

if TYPE_CHECKING:
    from deconvviz.studies.attack.result import AttackStudy
    from deconvviz.types import Floats, Pixels

TILE, LEAST, GAP = 1.7, 0.8, 0.1  # inches: a picture, the least that shows something, and what is between two
LEFT, RIGHT, HEAD, FOOT = 0.32, 0.85, 0.2, 0.32  # inches: names, colour bar, column titles, texts below a picture
PIXELS = 224  # of the shorter side: smaller pictures are drawn as their pixels
PANEL, HEIGHT, LOWEST, LABELS, LEGEND = 3.0, 2.3, 1.6, 0.6, 0.2  # inches of a panel of curves, and around it
POINT = (0.84, 0.37, 0.0)  # vermilion, which is told apart by all eyes
PALE = 0.45  # of the picture that stays behind the points
STYLES = ("-", "--", ":", "-.")


def draw_attack(study: AttackStudy, epsilon: int = -1, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw a row for each of some images: as it is, attacked, the change, and which pixels are changed.

    The last column stands only where some pixels of an image are not changed.

    Args:
        study: what was measured.
        epsilon: which of the study's epsilons, by its index.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    changes = study.noise[epsilon][study.shown].astype(np.float64).mean(1)  # the mean of the colours
    points = study.points(epsilon)[study.shown]
    sparse = bool((points.mean((1, 2)) < 0.9).any()) and bool(points.any())
    columns = ("image", "attacked", "change", "changed pixels")[: 4 if sparse else 3]
    largest = LEVELS * float(np.abs(changes).max(initial=0)) or 1.0  # where nothing changed, a scale of one level
    tile = page.fitted(TILE, LEFT + RIGHT + (len(columns) - 1) * GAP, len(columns), LEAST)
    rows, step = len(study.shown), tile + FOOT
    sheet = Sheet(
        LEFT + len(columns) * tile + (len(columns) - 1) * GAP + RIGHT, HEAD + rows * step, title, caption, page=page
    )
    lefts = [LEFT + number * (tile + GAP) for number in range(len(columns))]
    for left, name in zip(lefts, columns, strict=True):
        sheet.text(left + tile / 2, sheet.top - HEAD + 0.06, name, ha="center", va="bottom", fontsize=8)
    letters = int(tile / 0.052)
    for row in range(rows):
        bottom = sheet.top - HEAD - row * step - tile
        place = int(study.places[study.shown[row]])
        signed = matplotlib.colormaps[SIGNED]((LEVELS * changes[row] / largest + 1) / 2)[..., :3]
        tiles = [study.pictures[row] / 255.0, study.attacked[epsilon, row] / 255.0, signed]
        if sparse:
            tiles.append(_marked(study.pictures[row], points[row]))
        for left, picture in zip(lefts, tiles, strict=False):
            sheet.picture(enlarged(picture, PIXELS), left, bottom, tile)
        name = image_label(study.names[place], letters)
        sheet.text(0.16, bottom + tile / 2, name, rotation=90, ha="center", va="center", fontsize=SMALL)
        below: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL}
        for left, words in zip(lefts, _words(study, epsilon, place, letters), strict=False):
            sheet.text(left + tile / 2, bottom - 0.03, words, **below)
    colours = ",\nmean of the colours" * (study.noise[epsilon].shape[1] > 1)
    bar = ScalarMappable(Normalize(-largest, largest), SIGNED)
    sheet.colour_bar(bar, f"change in 255ths{colours}", lefts[-1] + tile + 0.1, sheet.top - HEAD - tile, tile)
    return sheet.figure


def _marked(picture: Pixels, points: Any) -> Floats:
    """Return a picture that is pale and grey, with the changed pixels in vermilion, float64 [h, w, 3]."""
    grey = 1 - PALE + PALE * picture.astype(np.float64).mean(2, keepdims=True) / 255
    return np.asarray(np.where(points[..., None], np.array(POINT), grey))


def _words(study: AttackStudy, epsilon: int, place: int, letters: int) -> tuple[str, str, str, str]:
    """Return what stands below the pictures of an image."""
    before, after = (study.class_name(each[place]) for each in (study.before, study.after[epsilon]))
    own, of_own = study.own[place], study.class_name(study.own[place])
    found = study.probability_before[place], study.probability_after[epsilon, place]
    named = "p" if study.before[place] == own else f"p of {of_own}"
    changed = int(study.pixels[epsilon, place])
    shown, p_after = of_own, found[1]
    if study.target is not None:
        shown, p_after = study.class_name(study.target), study.target_probability[epsilon, place]
    return (
        f"{shortened(before, letters)}\n{shortened(named, letters - 5)} {found[0]:.2f}",
        f"{shortened(after, letters)}\np of {shortened(shown, letters - 10)} {p_after:.2f}",
        f"at most {LEVELS * study.largest[epsilon, place]:.3g}/255",
        f"{changed} of {study.pixel_count}",
    )


def draw_robustness(studies: Mapping[str, AttackStudy], title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw accuracy, and the share of images that are fooled, over epsilon, with their 95 % intervals.

    Args:
        studies: what the legend says -> what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    fixed = 2 * LABELS + 0.2
    width = page.fitted(PANEL, fixed, 2, LOWEST)
    legend = LEGEND * len(studies) if len(studies) > 1 else 0.0
    sheet = Sheet(fixed + 2 * width, LABELS + HEIGHT + LEGEND + legend, title, caption, page=page)
    places = [LABELS, 2 * LABELS + width + 0.05]
    measured = ", ".join(dict.fromkeys(study.measured for study in studies.values()))
    labels = (f"{measured} (%)", "fooled, of images classified\ncorrectly before (%)")
    panels = [sheet.panel(left, sheet.bottom + LABELS - 0.1, width, HEIGHT) for left in places]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, max(len(studies), 1)))
    for number, (name, study) in enumerate(studies.items()):
        style: dict[str, Any] = {"color": colours[number], "linestyle": STYLES[number % len(STYLES)], "label": name}
        steps = LEVELS * np.array(study.epsilons)
        curves = (study.accuracy, study.accuracy_interval), (study.success, study.success_interval)
        for axes, (shares, interval) in zip(panels, curves, strict=True):
            axes.fill_between(steps, *(100 * interval.T), color=colours[number], alpha=0.18, linewidth=0)
            axes.plot(steps, 100 * shares, marker="o", markersize=3, linewidth=1.2, **style)
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylim(-3, 103)
        axes.set_xlabel("epsilon (255ths of the way from black to white)", fontsize=7)
        axes.set_ylabel(label, fontsize=7)
    if len(studies) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        place = (0.5, (sheet.bottom + LABELS + HEIGHT + LEGEND / 2 - 0.05) / sheet.height)
        sheet.figure.legend(handles, names, loc="lower center", bbox_to_anchor=place, fontsize=SMALL, frameon=False)
    return sheet.figure

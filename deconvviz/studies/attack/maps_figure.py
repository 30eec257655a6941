"""The figure of attacked explanations: each image, attacked, the change, edges, and maps before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from deconvviz.figures.overlay import SIGNED, displayed, is_constant, overlay
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import SMALL, Sheet, image_label, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.studies.attack.fooled import FooledMaps
from deconvviz.studies.attack.registry import LEVELS

if TYPE_CHECKING:
    from deconvviz.studies.attack.result import AttackStudy
    from deconvviz.types import Array

TILE, LEAST, GAP = 1.4, 0.6, 0.08  # inches: a picture, the least that shows something, and what is between two
LEFT, RIGHT, HEAD, FOOT = 0.32, 0.85, 0.34, 0.32  # inches: names, colour bars, column titles, texts below a picture
PIXELS = 224  # of the shorter side: smaller pictures are drawn as their pixels
STRONG = 0.5  # an edge's weight that is drawn white


def draw_fooled(study: AttackStudy, epsilon: int = -1, title: str = "", caption: str = "", page: Page = OWN) -> Figure:
    """Draw a row for each of some images, with the maps of each interpreter before and after.

    The last map of each interpreter is that after an attack that does not care for maps. Edges are drawn where the
    attack heeds them.

    Args:
        study: what was measured, with maps.
        epsilon: which of the study's epsilons, by its index.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    maps = study.maps
    assert maps is not None
    plain = "plain PGD" if study.goal == "both" else "noise"
    names = ["image", "attacked", "change", *(["edges"] if study.config["edges"] != "none" else [])]
    of_maps = [f"{name}\n{which}" for name in study.fools for which in ("before", "after", plain)]
    columns = [*names, *of_maps]
    changes = study.noise[epsilon][study.shown].astype(np.float64).mean(1)  # the mean of the colours
    largest = LEVELS * max(float(np.abs(changes).max(initial=0)), 1e-9)
    tile = page.fitted(TILE, LEFT + RIGHT + (len(columns) - 1) * GAP, len(columns), LEAST)
    width = LEFT + len(columns) * tile + (len(columns) - 1) * GAP + RIGHT
    sheet = Sheet(width, HEAD + len(study.shown) * (tile + FOOT), title, caption, page=page)
    letters = max(int(tile / 0.052), 6)
    lefts = [LEFT + number * (tile + GAP) for number in range(len(columns))]
    for left, name in zip(lefts, columns, strict=True):
        words = "\n".join(shortened(line, letters) for line in name.split("\n"))
        sheet.text(left + tile / 2, sheet.top - HEAD + 0.05, words, ha="center", va="bottom", fontsize=7)
    for row in range(len(study.shown)):
        bottom = sheet.top - HEAD - row * (tile + FOOT) - tile
        place = int(study.places[study.shown[row]])
        name = image_label(study.names[place], letters)
        sheet.text(0.16, bottom + tile / 2, name, rotation=90, ha="center", va="center", fontsize=SMALL)
        signed = matplotlib.colormaps[SIGNED]((LEVELS * changes[row] / largest + 1) / 2)[..., :3]
        tiles = [*_pictures(study, epsilon, row, signed), *_maps(study, maps, epsilon, row)]
        words_below = _words(study, maps, epsilon, row, letters)
        for left, picture, below in zip(lefts, tiles, words_below, strict=True):
            sheet.picture(enlarged(picture, PIXELS), left, bottom, tile)
            sheet.text(left + tile / 2, bottom - 0.03, below, ha="center", va="top", fontsize=SMALL)
    _bars(sheet, largest, lefts[-1] + tile + 0.1, tile)
    return sheet.figure


def _bars(sheet: Sheet, largest: float, left: float, tile: float) -> None:
    """Draw the colour bars of the change and of the maps, beside the first row and below each other."""
    height, top = 0.8 * tile, sheet.top - HEAD
    change = ScalarMappable(Normalize(-largest, largest), SIGNED)
    sheet.colour_bar(change, "change in 255ths", left, top - height, height)
    if sheet.top - sheet.bottom > HEAD + 2 * tile:
        maps = ScalarMappable(Normalize(0, 1), "viridis")
        sheet.colour_bar(maps, "map, own range", left, top - 2 * height - 0.35, height)


def _pictures(study: AttackStudy, epsilon: int, row: int, signed: Array) -> list[Array]:
    """Return the tiles of an image before the maps."""
    tiles: list[Array] = [study.pictures[row] / 255.0, study.attacked[epsilon, row] / 255.0, signed]
    if study.config["edges"] != "none":
        assert study.maps is not None
        weights = study.maps.edges[row].astype(np.float64)
        drawn_weights = (weights > 0.1).astype(np.float64) if study.config["edges"] == "threshold" else weights / STRONG
        tiles.append(np.repeat(np.clip(drawn_weights, 0, 1)[..., None], 3, 2))
    return tiles


def _maps(study: AttackStudy, maps: FooledMaps, epsilon: int, row: int) -> list[Array]:
    """Return the maps of an image over it: of each interpreter before, after, and after the other attack."""
    kept_row, tiles = int(study.shown[row]), list[Any]()
    for number in range(len(study.fools)):
        for map_ in (
            maps.before[number, kept_row],
            maps.after[epsilon, number, kept_row],
            maps.plain[epsilon, number, kept_row],
        ):
            tiles.append(overlay(study.pictures[row], displayed(map_.astype(np.float64))))
    return tiles


def _words(study: AttackStudy, maps: FooledMaps, epsilon: int, row: int, letters: int) -> list[str]:
    """Return what stands below the tiles of an image."""
    kept_row = int(study.shown[row])
    place = int(study.places[kept_row])
    classes = (study.before[place], study.after[epsilon, place])
    before, after = (shortened(study.class_name(each), letters) for each in classes)
    missed = study.target is not None and study.after[epsilon, place] != study.target
    words = [
        f"{before}\n{'p' if study.before[place] == study.own[place] else 'p of own'} "
        f"{study.probability_before[place]:.2f}",
        f"{after}\n{'p of target' if missed else 'p'} {study.target_probability[epsilon, place]:.2f}",
        f"at most {LEVELS * study.largest[epsilon, place]:.3g}/255",
    ]
    if study.config["edges"] != "none":
        words.append(f"{1 - maps.flat_energy[epsilon, place]:.0%} of the\nchange on edges")
    for number in range(len(study.fools)):
        map_before = maps.before[number, kept_row]
        words.append("constant map" if is_constant(map_before) else "")
        for similar, map_ in (
            (maps.similarity, maps.after[epsilon, number, kept_row]),
            (maps.plain_similarity, maps.plain[epsilon, number, kept_row]),
        ):
            alike = similar[epsilon, number, :, place]
            words.append("constant map" if is_constant(map_) else f"IoU {alike[2]:.2f}\nSSIM {alike[3]:.2f}")
    return words

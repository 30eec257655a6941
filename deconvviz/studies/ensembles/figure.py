"""An ensemble as a figure: errors of each network and of the first ones together; and maps with their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.bars import draw_interval, label_values, rows_from_top
from deconvviz.figures.overlay import draw_maps
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened

if TYPE_CHECKING:
    from deconvviz.studies.ensembles.result import Ensemble, EnsembleMaps
    from deconvviz.types import Floats

ROW, LETTER = 0.22, 0.062  # inches of a row, and of a letter of its name
BELOW, ABOVE, BETWEEN = 0.55, 0.25, 0.2  # inches for the axes' labels, for their titles, and between panels
WIDTH, PANEL = 9.0, 1.3  # inches: the page, and a panel that still can be read
ALONE, TOGETHER = "#21436b", "#d55e00"  # dark blue and orange; they differ in lightness too
MOST = 34  # letters of a name


def draw_ensemble(ensemble: Ensemble, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a row for each network and for the first 2, 3, ...: its errors, and by how much all together are better.

    Args:
        ensemble: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    names = [shortened(name, MOST) for name in ensemble.names]
    firsts = (1, ensemble.top) if ensemble.top else (1,)
    values: list[tuple[str, Floats]] = []
    for first in firsts:
        what = "the first class is wrong" if first == 1 else f"not among the first {first}"
        values.append((f"error: {what}\n(% of the images)", _alone(100 * ensemble.error(first))))
    if ensemble.count > 1:
        gain = 100 * ensemble.gain()
        gain[-1, 1:] = np.nan  # all together are what they are compared with
        values.append(("error less that of all together\n(percentage points, 95 % interval)", gain))
    rows = rows_from_top(len(names))
    colours = [ALONE if count == 1 else TOGETHER for count in ensemble.counts]
    panels, figure = _panels(names, len(values), title, caption, page)
    for place, (axes, (label, estimates)) in enumerate(zip(panels, values, strict=True)):
        alone = bool(np.isnan(estimates[:, 1]).all())  # values without intervals
        for row, estimate, colour in zip(rows, estimates, colours, strict=True):
            draw_interval(axes, estimate, row, colour)
            if alone:
                axes.text(estimate[0], row, f" {estimate[0]:.1f}", va="center", ha="left", fontsize=6.5)
        if alone:
            axes.set_xlim(0, max(1.18 * float(estimates[:, 0].max()), 1))
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set_yticks(rows, names if place == 0 else [""] * len(names), fontsize=7)
        axes.set_ylim(-0.7, len(names) - 0.3)
        label_values(axes, label)
    return figure


def draw_ensemble_maps(maps: EnsembleMaps, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a row for each image: the image, its map by each network, and their mean.

    Args:
        maps: of the networks.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    rows = [shortened(label, 30) for label in maps.labels]
    return draw_maps(maps.pictures, [list(each) for each in maps.maps], rows, maps.columns, title, caption, page=page)


def _alone(values: Floats) -> Floats:
    """Return values [n] as estimates without an interval, [n, 3]."""
    return np.column_stack([values, np.full((len(values), 2), np.nan)])


def _panels(names: list[str], count: int, title: str, caption: str, page: Page) -> tuple[list[Axes], Figure]:
    """Place panels of one height beside each other, with room for the rows' names at the left."""
    room, height = 0.35 + LETTER * max(map(len, names)), max(ROW * len(names), 0.8)
    width = page.width or WIDTH
    page.fitted(0, room + count * BETWEEN, count, PANEL if page.width is not None else 0)
    sheet = Sheet(width, BELOW + height + ABOVE, title, caption, page=page)
    each = (width - room - count * BETWEEN) / count
    bottom = sheet.top - ABOVE - height
    panels = [sheet.axes(room + place * (each + BETWEEN), bottom, each, height) for place in range(count)]
    return panels, sheet.figure

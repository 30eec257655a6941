"""An ensemble on images with several labels as a figure: average precisions of networks, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.bars import draw_interval, label_values, rows_from_top
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, shortened
from deconvviz.studies.ensembles.figure import ABOVE, ALONE, BELOW, BETWEEN, LETTER, MOST, PANEL, ROW, TOGETHER, WIDTH
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.ensembles.labels_result import LabelEnsemble
    from deconvviz.types import Floats

LABEL_ROW = 0.17  # inches of the row of a label
APART = 0.15  # inches between the networks' panels and the labels'
MOST_LABELS = 60  # those that are drawn: of most images
CHANCE = "0.35"  # grey


def draw_label_ensemble(ensemble: LabelEnsemble, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw a row for each network and for the first 2, 3, ..., and below them a row for each label.

    At the left are average precisions, at the right by how much those of all together are higher, with intervals. A
    single network has no right side. Of more than MOST_LABELS labels those that most images have are drawn.

    Args:
        ensemble: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    networks = [shortened(name, MOST) for name in ensemble.names]
    places = drawn_labels(ensemble)
    labels = [f"{shortened(ensemble.labels[place], MOST)} ({ensemble.positives[place]})" for place in places]
    (upper, lower), figure = _panels(networks, labels, 1 if ensemble.count == 1 else 2, title, caption, page)
    _draw_networks(upper, ensemble, networks)
    _draw_labels(lower, ensemble, places, labels)
    return figure


def drawn_labels(ensemble: LabelEnsemble) -> list[int]:
    """Return the labels that are drawn, in their order: those that an image has, at most those of most images."""
    positives = ensemble.positives
    most = np.argsort(-positives, kind="stable")[:MOST_LABELS]
    return sorted(place for place in most.tolist() if positives[place])


def _draw_networks(panels: Sequence[Axes], ensemble: LabelEnsemble, names: Sequence[str]) -> None:
    """Draw the mean over labels of each row of the ensemble, and what all together gain."""
    rows, means = rows_from_top(len(names)), 100 * ensemble.mean_average_precision
    colours = [ALONE if count == 1 else TOGETHER for count in ensemble.counts]
    for row, mean, colour in zip(rows, means, colours, strict=True):
        draw_interval(panels[0], (mean, np.nan, np.nan), row, colour)
        panels[0].text(mean, row, f" {mean:.1f}", va="center", ha="left", fontsize=6.5)
    _finish(panels[0], rows, names, "mean average precision over labels (%)")
    panels[0].set_xlim(0, 112)
    if len(panels) > 1:
        gains = 100 * ensemble.gains[:, 0]
        gains[-1, 1:] = np.nan  # all together are what they are compared with
        for row, gain, colour in zip(rows, gains, colours, strict=True):
            draw_interval(panels[1], gain, row, colour)
        _finish(panels[1], rows, [""] * len(rows), "all together less each row\n(percentage points, 95 % interval)")


def _draw_labels(panels: Sequence[Axes], ensemble: LabelEnsemble, places: list[int], names: Sequence[str]) -> None:
    """Draw the average precision of each label, by each network and by all; and what all gain over the best alone."""
    rows = rows_from_top(len(places))
    precision = 100 * ensemble.average_precision[:, places]
    chance = 100 * ensemble.positives[places] / max(ensemble.images, 1)
    last = TOGETHER if ensemble.count > 1 else ALONE
    for row, value in zip(rows, precision[-1], strict=True):
        draw_interval(panels[0], (value, np.nan, np.nan), row, last)
        panels[0].text(111, row, f"{value:.1f}", va="center", ha="right", fontsize=6.5)
    if ensemble.count > 1:
        for alone in precision[: ensemble.count]:
            panels[0].plot(alone, rows, "o", color=ALONE, markersize=3, alpha=0.7, markeredgewidth=0)
    panels[0].plot(chance, rows, "|", color=CHANCE, markersize=7, markeredgewidth=1)
    _finish(panels[0], rows, names, "average precision of a label (%)")
    panels[0].set_xlim(0, 112)
    if len(panels) > 1:
        for row, gain in zip(rows, _gains_over_the_best(ensemble, places), strict=True):
            draw_interval(panels[1], gain, row, TOGETHER)
        what = f"all less {shortened(ensemble.names[ensemble.best], MOST)}"
        _finish(panels[1], rows, [""] * len(rows), f"{what}\n(percentage points, 95 % interval)")


def _gains_over_the_best(ensemble: LabelEnsemble, places: list[int]) -> Floats:
    return np.asarray(100 * ensemble.gains[ensemble.best, 1:][places])


def _finish(axes: Axes, rows: Sequence[float], names: Sequence[str], label: str) -> None:
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_yticks(rows, names, fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    label_values(axes, label)


def _panels(
    networks: Sequence[str], labels: Sequence[str], count: int, title: str, caption: str, page: Page
) -> tuple[list[list[Axes]], Figure]:
    """Place panels beside each other, those of the networks above those of the labels."""
    room = 0.35 + LETTER * max(map(len, [*networks, *labels]))
    heights = max(ROW * len(networks), 0.5), max(LABEL_ROW * len(labels), 0.5)
    width = page.width or WIDTH
    page.fitted(0, room + count * BETWEEN, count, PANEL if page.width is not None else 0)
    sheet = Sheet(width, sum(heights) + 2 * BELOW + ABOVE + APART, title, caption, page=page)
    each = (width - room - count * BETWEEN) / count
    tops = sheet.top - ABOVE, sheet.top - ABOVE - heights[0] - BELOW - APART
    panels = [
        [sheet.axes(room + place * (each + BETWEEN), top - height, each, height) for place in range(count)]
        for top, height in zip(tops, heights, strict=True)
    ]
    return panels, sheet.figure


def caption_of_labels(result: LabelEnsemble, data: str) -> str:
    """Return what the figure shows: the images, how networks decide together, and what the intervals cover."""
    text = (
        f"{counted(result.images, 'image')} of {data}; in brackets, how many have the label; the grey tick is what "
        "chance reaches. "
    )
    left_out = int((result.positives == 0).sum())
    if left_out:
        text += f"{counted(left_out, 'label')} of no image {'is' if left_out == 1 else 'are'} left out. "
    if len(result.labels) - left_out > MOST_LABELS:
        text += f"The {MOST_LABELS} labels of most images are drawn; the means are over all. "
    if result.count == 1:
        return f"{text}One network is an ensemble of itself."
    return (
        f"{text}Together (orange), networks rank images by the mean of their probabilities: the first 2, 3, ... in the "
        "order given, and all of them in the last row; blue dots are each network alone. The 95 % intervals are of a "
        "paired bootstrap over the images, each row by itself; above zero all together are better. That "
        f"{result.names[result.best]} is the best alone was found on the same images."
    )

"""Probes as a figure: accuracy against the depth of the layer, and against the number of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet
from deconvviz.studies.probing.result import STARTS, WHOLE
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.studies.probing.result import ProbeResult, Transfer
    from deconvviz.types import Floats, Ints

TITLES = {"svm": "linear SVM", "softmax": "softmax"}
STYLES = ("-", "--", ":", "-.")  # of the networks
HEIGHT, COUNTS, LEGEND = 3.0, 3.2, 1.75  # inches: both panels, the width of the second one, and the legend's
HANGING, SIDEWAYS = (
    0.036,
    0.043,
)  # inches that a letter of a layer's name takes downwards and to the left, at 40 degrees


WHISKERS: dict[str, Any] = {"markersize": 3, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.8}
WHOLE_LOOKS = (("#d55e00", "s"), ("#000000", "^"))  # colours and markers of networks that were trained as a whole


class Line(NamedTuple):
    """One line of the figure: a network and a probe.

    Attributes:
        network: its name.
        probe: its name.
        style: the line's style, which tells the networks apart.
        colour: the line's colour, which tells the probes apart.
    """

    network: str
    probe: str
    style: str
    colour: Any

    @property
    def label(self) -> str:
        """What the legend says."""
        return f"{self.network}, {TITLES.get(self.probe, self.probe)}"


def draw_probing(transfer: Transfer, title: str, caption: str, page: Page = OWN) -> Figure:
    """Draw accuracy against depth with the most training images, and at the deepest layer against their number.

    Networks all of whose layers were trained on the same images stand beside the deepest layer, and have a curve too.
    Whiskers are standard deviations over the splits, the dotted line is chance. The second panel is there only where
    there are several numbers of training images. The legend is to the right of the panels.

    Args:
        transfer: what was measured.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    result = transfer.first
    several = len(result.settings.per_class) > 1
    longest = max(len(name) for name in _places(transfer))
    left, below = max(0.65, SIDEWAYS * longest), 0.45 + HANGING * longest
    natural = max(2.8, 0.2 + 0.55 * len(_places(transfer)))
    share = natural / (natural + COUNTS) if several else 1.0  # of the first panel in the room of both
    fixed = left + LEGEND + (0.8 if several else 0)
    room = page.fitted(natural / share, fixed, 1, 1.4 * (1 + several))
    width, counts = share * room, (1 - share) * room
    sheet = Sheet(fixed + room, below + HEIGHT + 0.2, title, caption, page=page)
    axes = sheet.axes(left, sheet.bottom + below, width, HEIGHT)
    _draw_depth(axes, transfer)
    if several:
        axes = sheet.axes(left + width + 0.8, sheet.bottom + below, counts, HEIGHT)
        _draw_counts(axes, transfer)
    axes.legend(
        fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, handlelength=3.2
    )
    return sheet.figure


def _draw_depth(axes: Axes, transfer: Transfer) -> None:
    settings, layers = transfer.first.settings, list(transfer.first.layers)
    places = np.arange(len(layers))
    for line in _lines(transfer):
        result, probe = transfer.by_network[line.network], settings.probes.index(line.probe)
        _draw_line(axes, line, places, result.mean[:, probe, -1], result.deviation[:, probe, -1])
    names = _places(transfer)
    for look, start in zip(WHOLE_LOOKS, transfer.by_start, strict=False):
        mean, deviation = transfer.whole_curve(start)
        _draw_whole(axes, look, start, np.array([len(layers)]), mean[-1:], deviation[-1:])
    axes.set_xticks(np.arange(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_xlabel("layer, in the order of depth", fontsize=8)
    axes.set_title(f"{counted(settings.per_class[-1], 'training image')} of each class", fontsize=8)
    axes.set_xlim(-0.4, len(names) - 0.6)
    _finish(axes, transfer.first)


def _draw_counts(axes: Axes, transfer: Transfer) -> None:
    counts, deepest = transfer.first.settings.per_class, list(transfer.first.layers)[-1]
    for line in _lines(transfer):
        _draw_line(axes, line, np.array(counts), *transfer.curve(line.network, deepest, line.probe))
    for look, start in zip(WHOLE_LOOKS, transfer.by_start, strict=False):
        _draw_whole(axes, look, start, np.array(counts), *transfer.whole_curve(start))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("training images of each class", fontsize=8)
    axes.set_title(f"probes at {deepest}" if transfer.by_start else f"at {deepest}", fontsize=8)
    _finish(axes, transfer.first)


def _places(transfer: Transfer) -> list[str]:
    """Return the names of the places on the axis of depth."""
    return [*transfer.first.layers, *([WHOLE] if transfer.by_start else [])]


def _draw_whole(axes: Axes, look: tuple[str, str], start: str, x: Ints, mean: Floats, deviation: Floats) -> None:
    """Draw the accuracies, in percent, of networks that were trained as a whole."""
    colour, marker = look
    label = STARTS.get(start, start)
    axes.errorbar(x, 100 * mean, 100 * deviation, color=colour, marker=marker, label=label, **WHISKERS)


def _lines(transfer: Transfer) -> list[Line]:
    probes = transfer.first.settings.probes
    colours = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.7, len(probes)))
    return [
        Line(network, probe, STYLES[number % len(STYLES)], colour)
        for number, network in enumerate(transfer.by_network)
        for probe, colour in zip(probes, colours, strict=True)
    ]


def _draw_line(axes: Axes, line: Line, x: Ints, mean: Floats, deviation: Floats) -> None:
    """Draw accuracies in percent, with their deviations as whiskers."""
    axes.errorbar(
        x,
        100 * mean,
        100 * deviation,
        marker="o",
        linestyle=line.style,
        color=line.colour,
        label=line.label,
        **WHISKERS,
    )


def _finish(axes: Axes, result: ProbeResult) -> None:
    axes.axhline(100 * result.chance, linestyle=":", color="0.35", linewidth=1, label="chance")
    axes.set_ylabel("mean accuracy of a class (%)", fontsize=8)
    axes.set_ylim(0, min(axes.get_ylim()[1], 102))
    axes.tick_params(labelsize=7)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)

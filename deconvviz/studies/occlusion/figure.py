"""Figure 7 of the paper: an image under a square, and what the network makes of it place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.sheet import Sheet, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.models.labels import class_label
from deconvviz.types import Array

if TYPE_CHECKING:
    from deconvviz.studies.occlusion.result import Occlusion

SIDE, GAP, BELOW = 1.9, 0.34, 0.42  # inches: of a panel, between two panels, for the labels below a row
TITLES, LEFT, COLOUR_BAR, LEGEND = 0.45, 0.35, 0.7, 2.1  # inches: above, left of, between and right of the panels
WIDTH = LEFT + 5 * (SIDE + GAP) + 2 * COLOUR_BAR + LEGEND
# Left edges of the five panels in inches; the second and the fourth have a colour bar beside them.
PANELS = [LEFT + n * (SIDE + GAP) + bars * COLOUR_BAR for n, bars in enumerate((0, 0, 1, 1, 2))]
PIXELS = 760  # pixels that a picture has at least, so that those of a small image are drawn as squares
CLASSES = 7  # with colours of their own; the others share one
LETTERS, LAYER_LETTERS = 26, 30  # of the name of an image or a class, and of a layer
PANEL_TITLES = (
    "(a) image with the square",
    "(b) sum of the strongest map of\n{layer}, by the square's place",
    "(c) projection of that map{others}",
    "(d) probability of the class",
    "(e) most probable class",
)


def draw_occlusions(
    occlusions: Sequence[Occlusion],
    other_projections: Sequence[Sequence[Array]],
    names: Sequence[str],
    title: str,
    caption: str,
    shown: Sequence[int] = (),
) -> Figure:
    """Draw a row of panels for each image.

    Args:
        occlusions: one for each image.
        other_projections: for each image up to three projections of its map from other images, [h, w, C].
        names: of the network's outputs; empty where they are unknown.
        title: text above.
        caption: text below.
        shown: the channels of the projections that are shown; see `shown_channels`.
    """
    sheet = Sheet(WIDTH, TITLES + len(occlusions) * (SIDE + BELOW), title, caption)
    for number, (occlusion, others) in enumerate(zip(occlusions, other_projections, strict=True)):
        bottom = sheet.top - TITLES - number * (SIDE + BELOW) - SIDE
        row = OcclusionRow(sheet, occlusion, names, bottom, shown)
        row.draw(others)
    _draw_titles(sheet, occlusions[0].config["layer"], any(map(len, other_projections)))
    return sheet.figure


def _draw_titles(sheet: Sheet, layer: str, with_others: bool) -> None:
    others = ", and three\nof other images" if with_others else ""
    for left, text in zip(PANELS, PANEL_TITLES, strict=True):
        panel_title = text.format(layer=shortened(layer, LAYER_LETTERS, keep_end=True), others=others)
        sheet.text(left + SIDE / 2, sheet.top - TITLES + 0.06, panel_title, ha="center", va="bottom", fontsize=7)


class OcclusionRow:
    """The five panels of one image."""

    def __init__(
        self, sheet: Sheet, occlusion: Occlusion, names: Sequence[str], bottom: float, shown: Sequence[int] = ()
    ) -> None:
        """Place the row; `bottom` is the lower edge of its panels in inches."""
        self.shown = shown
        self.sheet, self.occlusion, self.bottom = sheet, occlusion, bottom
        self.names = names if len(names) == occlusion.outputs else ()

    def draw(self, others: Sequence[Array]) -> None:
        """Draw the label and the panels (a) to (e); `others` are projections of the map from other images."""
        occlusion, (first, second, third, fourth, fifth) = self.occlusion, PANELS
        target = self._class_name(occlusion.target)
        probability = f"p {occlusion.whole.probability:.2f}"
        label = f"{shortened(occlusion.name, LETTERS)}\n{shortened(target, LETTERS)}, {probability}"
        middle = self.bottom + SIDE / 2
        self.sheet.text(0.16, middle, label, rotation=90, ha="center", va="center", fontsize=6)
        self.sheet.picture(enlarged(occlusion.occluded_picture, PIXELS), first, self.bottom, SIDE)
        self._draw_values(occlusion.activation, "sum of the map", second)
        self._draw_projections([occlusion.projection, *others], third)
        highest = max(1e-9, float(occlusion.probability.max()))
        self._draw_values(occlusion.probability, "probability", fourth, (0.0, highest))
        self._draw_classes(fifth)

    def _class_name(self, number: int) -> str:
        return self.names[number] if self.names else class_label(number)

    def _draw_projections(self, projections: Sequence[Array], left: float) -> None:
        label = f"map {self.occlusion.channel}, {self.occlusion.config['rule']}"
        self.sheet.text(left + SIDE / 2, self.bottom - 0.03, label, ha="center", va="top", fontsize=6)
        if len(projections) == 1:
            self.sheet.picture(
                enlarged(stretched(displayed(projections[0], self.shown)), PIXELS), left, self.bottom, SIDE
            )
            return
        gap = 0.04
        side = (SIDE - gap) / 2
        for number, projection in enumerate(projections):
            row, column = divmod(number, 2)
            x, y = left + column * (side + gap), self.bottom + (1 - row) * (side + gap)
            axes = self.sheet.picture(enlarged(stretched(displayed(projection, self.shown)), PIXELS), x, y, side)
            for spine in axes.spines.values():  # the frame of the image's own is thick, as in the paper
                spine.set(linewidth=1.6 if number == 0 else 0.4, color="k" if number == 0 else "0.4")

    def _draw_values(self, values: Array, label: str, left: float, limits: tuple[float, float] | None = None) -> None:
        """Draw values of the windows as a map with a colour bar; without limits its colours span the values."""
        low, high = limits or (None, None)
        axes = self._map_axes(left)
        grid = self.occlusion.grid(values)
        image = axes.imshow(grid, cmap="viridis", extent=self._extent(), vmin=low, vmax=high, aspect="auto")
        self.sheet.colour_bar(image, label, left + SIDE + 0.06, self.bottom, SIDE, 0.09)

    def _draw_classes(self, left: float) -> None:
        """Draw the most probable class under each window; the most frequent classes have colours of their own."""
        classes, counts = np.unique(self.occlusion.top_class, return_counts=True)
        by_frequency = classes[np.argsort(-counts, kind="stable")]
        coloured = by_frequency[:CLASSES]
        ranks = np.array([min(int(np.flatnonzero(by_frequency == c)[0]), CLASSES) for c in self.occlusion.top_class])
        viridis = matplotlib.colormaps["viridis"](np.linspace(0.95, 0, len(coloured)))
        colours = [*viridis, (0.6, 0.6, 0.6, 1)]
        axes = self._map_axes(left)
        style: dict[str, Any] = {"vmin": -0.5, "vmax": len(colours) - 0.5, "aspect": "auto", "interpolation": "nearest"}
        axes.imshow(self.occlusion.grid(ranks), cmap=ListedColormap(colours), extent=self._extent(), **style)
        labels = [shortened(self._class_name(int(number)), LETTERS) for number in coloured]
        if len(by_frequency) > CLASSES:
            labels.append(f"{len(by_frequency) - CLASSES} others")
        patches = [Patch(color=colour, label=label) for colour, label in zip(colours, labels, strict=False)]
        axes.legend(handles=patches, fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)

    def _map_axes(self, left: float) -> Axes:
        axes = self.sheet.axes(left, self.bottom, SIDE, SIDE)
        axes.tick_params(labelsize=5, length=2, pad=1)
        axes.locator_params(nbins=4)
        axes.set_xlabel("column (px)", fontsize=5.5, labelpad=1)
        axes.set_ylabel("row (px)", fontsize=5.5, labelpad=1)
        return axes

    def _extent(self) -> tuple[float, float, float, float]:
        """Return (left, right, bottom, top) of a map in pixels: the windows' centres with half a stride around each."""
        windows, ends = self.occlusion.windows, []
        for starts, side, step in zip(windows.grid, windows.square, windows.stride, strict=True):
            ends.append((starts[0] + side / 2 - step / 2, starts[-1] + side / 2 + step / 2))
        (top, bottom), (left, right) = ends
        return left, right, bottom, top

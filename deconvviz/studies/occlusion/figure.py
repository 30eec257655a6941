"""Figure 7 of the paper: an image under a square, and what the network makes of it place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deconvviz.arrays import displayed, stretched
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet, image_label, shortened
from deconvviz.figures.tiles import enlarged
from deconvviz.models.labels import class_label
from deconvviz.types import Array

if TYPE_CHECKING:
    from deconvviz.studies.occlusion.result import Occlusion

SIDE, GAP, BELOW = 1.9, 0.34, 0.42  # inches: of a panel, between two panels, for the labels below a row
TITLES, LEFT, LEGEND = 0.45, 0.35, 2.1  # inches: above, left of and right of the panels
COLOUR_BARS = 0.42, 0.7  # inches: for those of (b) and of (d), behind which another panel has axes to its left
LEAST, STRENGTH = 0.9, 0.7  # inches of the smallest panel, and the share of a map's colours over the image
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


class Layout(NamedTuple):
    """Where the five panels of an image stand, in inches.

    Attributes:
        side: of a panel.
        lefts: left edges of the panels; the second and the fourth have a colour bar beside them.
        lines: for each panel the line that it stands in, 0 or 1: a narrow page has three in the first and two below.
        width: of the page.
    """

    side: float
    lefts: tuple[float, ...]
    lines: tuple[int, ...]
    width: float

    @property
    def height(self) -> float:
        """Height of the panels of one image, with their titles and labels."""
        return (max(self.lines) + 1) * (TITLES + self.side + BELOW)

    @classmethod
    def of(cls, page: Page) -> Layout:
        """Return the layout for a page: five panels in a row, or three and two where it is narrow."""
        first, second = COLOUR_BARS
        row = LEFT + 4 * GAP + first + second + LEGEND
        if page.width is None or page.width >= row + 5 * 1.1 * LEAST:
            side = page.fitted(SIDE, row, 5, LEAST)
            bars = (0.0, 0.0, first, first, first + second)
            lefts = tuple(LEFT + n * (side + GAP) + room for n, room in enumerate(bars))
            return cls(side, lefts, (0, 0, 0, 0, 0), row + 5 * side)
        side = page.fitted(SIDE, LEFT + 2 * GAP + second + LEGEND, 2, LEAST)
        step = side + GAP
        upper, lower = (LEFT, LEFT + step, LEFT + 2 * step + first), (LEFT, LEFT + step + second)
        return cls(side, upper + lower, (0, 0, 0, 1, 1), page.width)


def draw_occlusions(
    occlusions: Sequence[Occlusion],
    other_projections: Sequence[Sequence[Array]],
    names: Sequence[str],
    title: str,
    caption: str,
    page: Page = OWN,
    shown: Sequence[int] = (),
) -> Figure:
    """Draw five panels for each image.

    Args:
        occlusions: one for each image.
        other_projections: for each image up to three projections of its map from other images, [h, w, C].
        names: of the network's outputs; empty where they are unknown.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
        shown: the channels of the projections that are shown; see `shown_channels`.
    """
    layout = Layout.of(page)
    sheet = Sheet(layout.width, len(occlusions) * layout.height, title, caption, page=page)
    with_others = any(map(len, other_projections))
    for number, (occlusion, others) in enumerate(zip(occlusions, other_projections, strict=True)):
        top = sheet.top - number * layout.height
        panels = OcclusionPanels(sheet, layout, occlusion, names, top, shown)
        panels.draw(others, with_others)
    return sheet.figure


class OcclusionPanels:
    """The five panels of one image."""

    def __init__(
        self,
        sheet: Sheet,
        layout: Layout,
        occlusion: Occlusion,
        names: Sequence[str],
        top: float,
        shown: Sequence[int] = (),
    ) -> None:
        """Place the panels; `top` is the upper edge of their titles in inches."""
        self.sheet, self.side, self.occlusion, self.shown = sheet, layout.side, occlusion, shown
        self.places = [
            (left, top - (line + 1) * (TITLES + layout.side + BELOW) + BELOW)
            for left, line in zip(layout.lefts, layout.lines, strict=True)
        ]
        self.names = names if len(names) == occlusion.outputs else ()

    def draw(self, others: Sequence[Array], with_others: bool) -> None:
        """Draw the label, the titles and the panels (a) to (e).

        Args:
            others: projections of the map from other images.
            with_others: whether some image of the figure has such projections.
        """
        occlusion, (first, second, third, fourth, fifth) = self.occlusion, self.places
        self._draw_titles(", and three\nof other images" if with_others else "")
        target = self._class_name(occlusion.target)
        probability = f"p {occlusion.whole.probability:.2f}"
        label = f"{image_label(occlusion.name, LETTERS)}\n{shortened(target, LETTERS)}, {probability}"
        style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 6}
        self.sheet.text(0.16, first[1] + self.side / 2, label, **style)
        self.sheet.picture(enlarged(occlusion.occluded_picture, PIXELS), *first, self.side)
        self._draw_values(occlusion.activation, "sum of the map", second)
        self._draw_projections([occlusion.projection, *others], third)
        highest = max(1e-9, float(occlusion.probability.max()))
        self._draw_values(occlusion.probability, "probability", fourth, (0.0, highest))
        self._draw_classes(fifth)

    def _draw_titles(self, others: str) -> None:
        layer = shortened(self.occlusion.config["layer"], LAYER_LETTERS, keep_end=True)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 7 if self.side > 1.6 else 6}
        for (left, bottom), text in zip(self.places, PANEL_TITLES, strict=True):
            panel_title = text.format(layer=layer, others=others)
            self.sheet.text(left + self.side / 2, bottom + self.side + 0.06, panel_title, **style)

    def _class_name(self, number: int) -> str:
        return self.names[number] if self.names else class_label(number)

    def _draw_projections(self, projections: Sequence[Array], place: tuple[float, float]) -> None:
        label = f"map {self.occlusion.channel}, {self.occlusion.config['rule']}"
        left, bottom = place
        self.sheet.text(left + self.side / 2, bottom - 0.03, label, ha="center", va="top", fontsize=6)
        if len(projections) == 1:
            picture = enlarged(stretched(displayed(projections[0], self.shown)), PIXELS)
            self.sheet.picture(picture, left, bottom, self.side)
            return
        gap = 0.04
        side = (self.side - gap) / 2
        for number, projection in enumerate(projections):
            row, column = divmod(number, 2)
            x, y = left + column * (side + gap), bottom + (1 - row) * (side + gap)
            axes = self.sheet.picture(enlarged(stretched(displayed(projection, self.shown)), PIXELS), x, y, side)
            for spine in axes.spines.values():  # the frame of the image's own is thick, as in the paper
                spine.set(linewidth=1.6 if number == 0 else 0.4, color="k" if number == 0 else "0.4")

    def _draw_values(
        self, values: Array, label: str, place: tuple[float, float], limits: tuple[float, float] | None = None
    ) -> None:
        """Draw values of the windows as a map with a colour bar; without limits its colours span the values."""
        low, high = limits or (None, None)
        axes = self._map_axes(place)
        style: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high, "alpha": STRENGTH}
        image = axes.imshow(self.occlusion.grid(values), extent=self._extent(), **style)
        self._over_the_image(axes)
        self.sheet.colour_bar(image, label, place[0] + self.side + 0.06, place[1], self.side, 0.09)

    def _draw_classes(self, place: tuple[float, float]) -> None:
        """Draw the most probable class under each window; the most frequent classes have colours of their own."""
        classes, counts = np.unique(self.occlusion.top_class, return_counts=True)
        by_frequency = classes[np.argsort(-counts, kind="stable")]
        coloured = by_frequency[:CLASSES]
        ranks = np.array([min(int(np.flatnonzero(by_frequency == c)[0]), CLASSES) for c in self.occlusion.top_class])
        viridis = matplotlib.colormaps["viridis"](np.linspace(0.95, 0, len(coloured)))
        colours = [*viridis, (0.6, 0.6, 0.6, 1)]
        axes = self._map_axes(place)
        style: dict[str, Any] = {"vmin": -0.5, "vmax": len(colours) - 0.5, "interpolation": "nearest"}
        style |= {"cmap": ListedColormap(colours), "alpha": STRENGTH}
        axes.imshow(self.occlusion.grid(ranks), extent=self._extent(), **style)
        self._over_the_image(axes)
        labels = [shortened(self._class_name(int(number)), LETTERS) for number in coloured]
        if len(by_frequency) > CLASSES:
            labels.append(f"{len(by_frequency) - CLASSES} others")
        patches = [
            Patch(color=colour, label=label, alpha=STRENGTH) for colour, label in zip(colours, labels, strict=False)
        ]
        axes.legend(handles=patches, fontsize=6, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)

    def _map_axes(self, place: tuple[float, float]) -> Axes:
        """Return axes in pixels of the image, which is shown in grey."""
        axes = self.sheet.axes(*place, self.side, self.side)
        axes.imshow(self.occlusion.picture.astype(float).mean(2), cmap="gray", vmin=0, vmax=255, extent=self._whole())
        axes.tick_params(labelsize=5, length=2, pad=1)
        axes.locator_params(nbins=4)
        axes.set_xlabel("column (px)", fontsize=5.5, labelpad=1)
        axes.set_ylabel("row (px)", fontsize=5.5, labelpad=1)
        return axes

    def _over_the_image(self, axes: Axes) -> None:
        """Let axes end where the image ends, after a map was drawn on them."""
        left, right, bottom, top = self._whole()
        axes.set(xlim=(left, right), ylim=(bottom, top))

    def _whole(self) -> tuple[float, float, float, float]:
        """Return (left, right, bottom, top) of the image in pixels."""
        height, width = self.occlusion.picture.shape[:2]
        return 0, width, height, 0

    def _extent(self) -> tuple[float, float, float, float]:
        """Return (left, right, bottom, top) of a map in pixels: the windows' centres with half a stride around each."""
        windows, ends = self.occlusion.windows, []
        for starts, side, step in zip(windows.grid, windows.square, windows.stride, strict=True):
            ends.append((starts[0] + side / 2 - step / 2, starts[-1] + side / 2 + step / 2))
        (top, bottom), (left, right) = ends
        return left, right, bottom, top

"""Figures of the maps of one image, and of the kernels of layers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from deconvviz.arrays import displayed
from deconvviz.figures.page import OWN, Page
from deconvviz.figures.sheet import Sheet
from deconvviz.figures.tiles import enlarged, filter_pictures
from deconvviz.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.maps.result import FeatureMaps, Kernels, LayerKernels, LayerMaps
    from deconvviz.types import Array, Floats

PLAIN, SIGNED = "viridis", "coolwarm"  # of values from zero on, and of values on both sides of it
DEAD, BROKEN = "0.8", "white"  # colours of dead maps, and of values that are not finite
TILES, GAP, LABEL, LEAST = 8.0, 0.05, 0.11, 0.25  # inches: of a row of tiles, between two, of a label, of a tile
LEFT, RIGHT = 0.25, 0.85  # inches beside the tiles; to their right is the colour bar
HEADING, BELOW, PICTURE = 0.3, 0.12, 1.3  # inches: above and below the tiles of a layer, and of the image
LETTER, LINE = 0.065, 0.12  # inches: of a letter of a heading, and of a further line of it
ROOM = 0.4  # inches of a tile whose label has room for its limit
SEVERAL = 24  # maps of a layer where several layers stand in one figure
MOST = 96  # kernels of a layer that are drawn as pictures, where nobody asks for others
MATRIX = 3.4  # inches of the longer side of a matrix
TICK = 0.28, 0.16  # inches of a matrix from one tick to the next at least, across and down
AXES = 0.55, 0.42  # inches left of and below a matrix, for its labels


def draw_feature_maps(
    maps: FeatureMaps,
    sort: str = "maximum",
    scale: str = "own",
    count: int | None = None,
    title: str = "",
    caption: str = "",
    page: Page = OWN,
) -> Figure:
    """Draw the image, and below it the maps of each layer as tiles.

    Args:
        maps: of one image.
        sort: one of `choices.MAP_ORDERS`.
        scale: one of `choices.MAP_SCALES`.
        count: maps of a layer, the first ones in this order; None for all, or for 24 where there are several layers.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    grid = grid_of(maps, count, page)
    columns, side = grid.columns, grid.side
    width = LEFT + max(columns * (side + GAP), 3.2) + RIGHT if page.width is None else page.width
    channels_by_layer = [layer.order(sort)[: grid.most] for layer in maps.layers]
    headings = [
        _wrapped(_heading(layer, len(channels)), width)
        for layer, channels in zip(maps.layers, channels_by_layer, strict=True)
    ]
    blocks = [
        _block_height(layer, len(channels), columns, side) + LINE * heading.count("\n")
        for layer, channels, heading in zip(maps.layers, channels_by_layer, headings, strict=True)
    ]
    sheet = Sheet(width, PICTURE + 0.1 + sum(blocks), title, caption, page=page)
    _draw_image(sheet, maps, page)
    top = sheet.top - PICTURE - 0.1
    for layer, channels, heading, height in zip(maps.layers, channels_by_layer, headings, blocks, strict=True):
        sheet.text(LEFT, top - 0.08, heading, va="top", fontsize=7.5, weight="bold")
        _draw_layer(sheet, layer, channels, scale, columns, side, top - LINE * heading.count("\n"))
        top -= height
    return sheet.figure


class Grid(NamedTuple):
    """How the tiles of maps stand.

    Attributes:
        most: maps of a layer that are drawn, where it has so many.
        columns: tiles in a row.
        side: of a tile in inches.
    """

    most: int
    columns: int
    side: float

    @property
    def labelled(self) -> bool:
        """Whether a tile's label has room for more than the number of its channel."""
        return self.side >= ROOM


def grid_of(maps: FeatureMaps, count: int | None, page: Page) -> Grid:
    """Return how the tiles of maps stand; the arguments are those of `draw_feature_maps`."""
    count = count or (SEVERAL if len(maps.layers) > 1 else max(len(maps.layers[0].values), 1))
    largest = max(min(count, len(layer.values)) for layer in maps.layers)
    columns = page.across(largest, 12 if largest <= 96 else 16 if largest <= 256 else 24, 0.62, LEFT + RIGHT)
    side = page.fitted(TILES / max(columns, 12) - GAP, LEFT + RIGHT + columns * GAP, columns, LEAST)
    return Grid(count, columns, side)


def _wrapped(heading: str, width: float) -> str:
    """Return a heading in as many lines as a page of this width in inches needs."""
    return "\n".join(textwrap.wrap(heading, max(int((width - 2 * LEFT) / LETTER), 8)))


def _tile_height(layer: LayerMaps, side: float) -> float:
    """Return the height of a tile in inches; a map that is much higher than wide is pressed."""
    _, rows, columns = layer.values.shape
    return float(side * min(rows / columns, 2))


def _block_height(layer: LayerMaps, count: int, columns: int, side: float) -> float:
    rows = math.ceil(min(count, len(layer.values)) / columns)
    return HEADING + rows * (_tile_height(layer, side) + LABEL + GAP) + BELOW


def _draw_image(sheet: Sheet, maps: FeatureMaps, page: Page) -> None:
    height, width = maps.picture.shape[:2]
    width_shown = min(PICTURE * width / height, 2.2)
    page.fitted(1.0, LEFT + width_shown + 0.3, 1, 8 * LETTER)  # refuses a page without room for the text beside
    sheet.picture(maps.picture, LEFT, sheet.top - PICTURE, width_shown, PICTURE)
    room = int((sheet.width - LEFT - width_shown - 0.3) / LETTER)
    lines = [maps.name or "one image", f"{width} x {height} px", maps.network]
    text = "\n".join(textwrap.fill(line, room) for line in lines)
    sheet.text(LEFT + width_shown + 0.15, sheet.top - 0.08, text, ha="left", va="top", fontsize=8)


def _heading(layer: LayerMaps, count: int) -> str:
    """Return what stands above the tiles of a layer, of which `count` are drawn."""
    total, rows, columns = layer.values.shape
    maps = counted(total, "map") if count == total else f"{count} of {counted(total, 'map')}"
    dead = f", {int(layer.dead.sum())} dead" * bool(layer.dead.any())
    return f"{layer.layer}: {maps}, {rows} x {columns}, {100 * layer.zeros:.3g} % zeros{dead}"


def _draw_layer(
    sheet: Sheet, layer: LayerMaps, channels: Array, scale: str, columns: int, side: float, top: float
) -> None:
    """Draw the tiles and the colour bar of a layer; `top` is the upper edge of its heading's last line in inches."""
    height, tops = _tile_height(layer, side), top - HEADING
    rows = math.ceil(len(channels) / columns)
    size = columns * (side + GAP), rows * (height + LABEL + GAP)
    axes = sheet.axes(LEFT, tops - size[1], *size)
    axes.set_axis_off()
    peaks, limits, dead, colours = layer.peaks, layer.limits(scale), layer.dead, tiles(layer, scale)
    for place, channel in enumerate(channels.tolist()):
        row, column = divmod(place, columns)
        x, y = column * (side + GAP), size[1] - (row + 1) * (height + LABEL + GAP)
        if dead[channel]:
            _draw_dead(axes, x, y, side, height)
        else:
            extent = (x, x + side, y, y + height)
            axes.imshow(enlarged(colours[channel], 48), extent=extent, interpolation="nearest", aspect="auto")
        note = "dead" if dead[channel] else f"≤ {_short(peaks[channel])}" if scale == "own" else ""
        if scale == "own" and limits[channel] > peaks[channel] and not dead[channel]:
            note = "faint"
        label = f"{channel}  {note}" if side >= ROOM else str(channel)
        axes.text(x + side / 2, y + height + 0.015, label, ha="center", va="bottom", fontsize=4.5 if side > 0.3 else 4)
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    _draw_bar(sheet, layer, scale, tops - LABEL, min(size[1] - LABEL - GAP, 1.0), LEFT + size[0] + 0.08)


def _short(value: float) -> str:
    """Return a value from zero on in few letters: whole from 100 on, else with two digits."""
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:.2g}"


def _draw_dead(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=DEAD, edgecolor="0.4", linewidth=0.4))
    axes.plot((x, x + width), (y, y + height), color="0.4", linewidth=0.5)


def tiles(layer: LayerMaps, scale: str) -> Array:
    """Return the colours of a layer's maps, uint8 [channels, rows, columns, 4]: a pixel for each value.

    Args:
        layer: the maps.
        scale: one of `choices.MAP_SCALES`.
    """
    values: Floats = layer.scaled(scale)
    colours = matplotlib.colormaps[SIGNED if layer.signed else PLAIN].with_extremes(bad=BROKEN)
    shares = (values + 1) / 2 if layer.signed else values
    return np.asarray(colours(np.ma.masked_invalid(shares), bytes=True))


def _draw_bar(sheet: Sheet, layer: LayerMaps, scale: str, top: float, height: float, left: float) -> None:
    """Draw the colour bar of a layer: in its units, or in shares of each map's own limit."""
    limit = float(layer.limits("common")[0]) if scale == "common" else 1.0
    colours: Any = ScalarMappable(Normalize(-limit if layer.signed else 0, limit), SIGNED if layer.signed else PLAIN)
    label = "activation" if scale == "common" else "share of the\nmap's limit"
    ticks = [-limit, 0, limit] if layer.signed else [0, limit]
    sheet.colour_bar(colours, label, left, top - height, height, 0.08, [float(f"{tick:.3g}") for tick in ticks])


# --- kernels ----------------------------------------------------------------------------------------------------------


def draw_kernels(
    kernels: Kernels,
    title: str = "",
    caption: str = "",
    page: Page = OWN,
    filters: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Figure:
    """Draw the kernels of each layer: as pictures where they can be looked at, else the matrix of their norms.

    Below the matrix of a layer that has weights of zero stands that of its connections.

    Args:
        kernels: of some layers.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
        filters: name of a layer -> the filters whose pictures are drawn, in this order; of other layers the first 96.
            A matrix has all filters.
    """
    width = page.width or LEFT + TILES / 2 + 3 * RIGHT
    pictures_by_layer = [pictured(layer, filters) for layer in kernels.layers]
    columns = page.across(max(map(len, pictures_by_layer)) or 1, 12, 0.45, LEFT + RIGHT)
    side = page.fitted((width - LEFT - RIGHT) / columns - GAP, LEFT + RIGHT + columns * GAP, columns, LEAST)
    headings = [
        _wrapped(_kernels_heading(*each), width) for each in zip(kernels.layers, pictures_by_layer, strict=True)
    ]
    heights = [
        _kernels_height(layer, len(numbers), columns, side, width) + LINE * heading.count("\n")
        for layer, numbers, heading in zip(kernels.layers, pictures_by_layer, headings, strict=True)
    ]
    sheet = Sheet(width, sum(heights), title, caption, page=page)
    top = sheet.top
    for layer, numbers, heading, height in zip(kernels.layers, pictures_by_layer, headings, heights, strict=True):
        sheet.text(LEFT, top - 0.08, heading, va="top", fontsize=7.5, weight="bold")
        below = top - HEADING - LINE * heading.count("\n")
        if layer.pictures is None:
            _draw_matrix(sheet, layer, layer.norms, "norm of\nthe kernel", None, below)
            if layer.connected is not None:
                below -= _matrix_height(layer, width)
                _draw_matrix(sheet, layer, layer.connected, "share of its\nweights ≠ 0", 1.0, below)
        else:
            _draw_pictures(sheet, layer.pictures, numbers, columns, side, below)
        top -= height
    return sheet.figure


def pictured(layer: LayerKernels, filters: Mapping[str, Sequence[int]] = MappingProxyType({})) -> Sequence[int]:
    """Return the filters of a layer whose pictures `draw_kernels` draws; none where it draws the matrix."""
    return [] if layer.pictures is None else filters.get(layer.layer, range(len(layer.pictures))[:MOST])


def _kernels_heading(layer: LayerKernels, numbers: Sequence[int]) -> str:
    partly = layer.pictures is not None and len(numbers) < len(layer.pictures)
    return layer.words() + f"; {counted(len(numbers), 'filter')} drawn" * partly


def _kernels_height(layer: LayerKernels, count: int, columns: int, side: float, width: float) -> float:
    if layer.pictures is None:
        return HEADING + _matrix_height(layer, width) * (1 if layer.connected is None else 2)
    ratio = layer.pictures.shape[1] / layer.pictures.shape[2]
    return HEADING + math.ceil(count / columns) * float(side * ratio + LABEL + GAP) + BELOW


def _matrix_height(layer: LayerKernels, width: float) -> float:
    """Return the inches that a matrix takes with its labels."""
    return _matrix_size(layer, width)[1] + AXES[1] + 2 * BELOW


def _matrix_size(layer: LayerKernels, width: float) -> tuple[float, float]:
    """Return width and height of a layer's matrix in inches: square cells, where no side becomes too short."""
    filters, inputs = layer.norms.shape
    room = min(width - LEFT - AXES[0] - RIGHT, TILES)
    longer = min(MATRIX, room)
    if inputs >= filters:
        return longer, max(longer * filters / inputs, 0.5)
    return max(longer * inputs / filters, 0.5), longer


def _draw_matrix(sheet: Sheet, layer: LayerKernels, values: Floats, label: str, most: float | None, top: float) -> None:
    width, height = _matrix_size(layer, sheet.width)
    axes = sheet.axes(LEFT + AXES[0], top - height, width, height)
    filters, inputs = layer.norms.shape
    extent = (-0.5, inputs - 0.5, filters - 0.5, -0.5)
    few = max(filters, inputs) <= MATRIX * 200  # otherwise a pixel of the page holds several kernels
    style: Any = {"cmap": PLAIN, "vmin": 0, "vmax": most, "interpolation": "nearest" if few else "antialiased"}
    image = axes.imshow(values, extent=extent, aspect="auto", **style)
    axes.tick_params(labelsize=5.5, length=2, pad=1)
    for axis, length, tick in ((axes.xaxis, width, TICK[0]), (axes.yaxis, height, TICK[1])):
        axis.set_major_locator(MaxNLocator(min(max(int(length / tick), 1), 8), integer=True))
    axes.set_xlabel("input channel" + (" of the filter's group" if layer.groups > 1 else ""), fontsize=6, labelpad=1)
    axes.set_ylabel("filter", fontsize=6, labelpad=1)
    left = LEFT + AXES[0] + width + 0.08
    sheet.colour_bar(image, label, left, top - height, min(height, 1.5), 0.08)


def _draw_pictures(
    sheet: Sheet, pictures: Floats, numbers: Sequence[int], columns: int, side: float, top: float
) -> None:
    height = side * pictures.shape[1] / pictures.shape[2]
    rows = math.ceil(len(numbers) / columns)
    size = columns * (side + GAP), rows * (height + LABEL + GAP)
    axes = sheet.axes(LEFT, top - size[1], *size)
    axes.set_axis_off()
    drawn = filter_pictures(pictures[list(numbers)], float(np.abs(pictures).max(initial=0)))
    for place, (number, (picture, _)) in enumerate(zip(numbers, drawn, strict=True)):
        row, column = divmod(place, columns)
        x, y = column * (side + GAP), size[1] - (row + 1) * (height + LABEL + GAP)
        tile = np.broadcast_to(enlarged(displayed(picture), 48), (*enlarged(displayed(picture), 48).shape[:2], 3))
        axes.imshow(tile, extent=(x, x + side, y, y + height), interpolation="nearest", aspect="auto")
        axes.text(x + side / 2, y + height + 0.015, str(number), ha="center", va="bottom", fontsize=4.5)
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))

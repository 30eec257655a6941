"""The parts of a layer figure: per filter its strongest patches and their projections, cut to what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.cam.tokens import layout_of
from deconvviz.data.datasets import Images
from deconvviz.data.pictures import resized, scaled
from deconvviz.errors import CamError
from deconvviz.graph.network import Network
from deconvviz.models.labels import shown_classes
from deconvviz.studies.mining.cache import Crop, ProjectionCache
from deconvviz.studies.mining.result import FilterPanel, LayerPanels, Mined, Winner
from deconvviz.types import Array, Box

SURROUNDINGS = 0.25  # of a patch's side, shown on each side of it


def layer_panels(
    mined: Mined,
    store: Images,
    network: Network,
    layer: str,
    channels: Sequence[int],
    *,
    crop: str | int = "need",
    rule: str = "auto",
    mean: bool = False,
    progress: bool = True,
    shown: Sequence[int] = (),
    **averages: Any,
) -> LayerPanels:
    """Return what the figure of a layer shows: patches and projections as arrays, for a layout of your own.

    Projections that the mined result keeps are taken from it. What is computed is not written: `deconvviz grid` keeps
    it in the file, and so does `panels_from` with a `ProjectionCache` that is saved afterwards.

    Args:
        mined: from `mine` or `load_mined`.
        store: the images that were mined.
        network: the network that was mined.
        layer: name of a mined layer.
        channels: the filters to show.
        crop: "need" is one square for the layer, the smallest that keeps 90 % of a unit's activation when all outside
            of it is filled with the mean colour (the median over 32 filters), centred on each projection's energy;
            "each" cuts every patch by what its own unit needs, a rectangle; "energy" is the smallest square that holds
            98 % of a projection's energy (the median over 64 filters); "receptive-field" is all that a unit can see;
            or a side in pixels. With "need" and "each", the surroundings of a patch are shown too.
        rule: of the projections, one of `choices.RULES`; "auto" takes the deconvnet where it has switches and its
            fidelity is within the interval of the best rule, else the best rule.
        mean: whether the mean of a filter's projections is shown too, with their units on one place: what they have in
            common stays, and what belongs to single images fades.
        progress: whether a progress bar is shown.
        shown: channels of the images that are shown, as for `Preprocess`; the projections have all of them.
        averages: `shifts`, `noise` and `samples` of `SignalOptions`: the projections are means over changed images.

    Raises:
        MismatchError: network or store are not those that were mined.
        DataError: the layer was not mined.

    Source: Zeiler and Fergus 2013, figure 2. The size of the crop is our choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], k=4, preprocess=preprocess, progress=False)
    >>> panels = layer_panels(mined, scenes, network, "1", channels=[3, 5], progress=False)
    >>> panels.panels[0].channel, panels.panels[0].patches.shape, panels.panels[0].projections.shape
    (3, (4, 7, 7, 3), (4, 7, 7, 3))
    """
    cache = ProjectionCache(mined, store, network, rule, progress, shown, **averages)
    return panels_from(cache, layer, channels, crop, mean)


def panels_from(
    cache: ProjectionCache, layer: str, channels: Sequence[int], crop: str | int = "need", mean: bool = False
) -> LayerPanels:
    """Return what the figure of a layer shows; what had to be computed for it is added to the cache.

    Args:
        cache: the projections of a mined result.
        layer: name of a mined layer.
        channels: the filters to show.
        crop: as for `layer_panels`.
        mean: as for `layer_panels`.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], k=4, preprocess=preprocess, progress=False)
    >>> cache = ProjectionCache(mined, scenes, network, rule="gradient", progress=False)
    >>> panels = panels_from(cache, "1", channels=[3], crop=9)
    >>> panels.crop, panels.rule, panels.weights.shape
    ((9, 9), 'gradient', (1, 5, 5, 3))
    """
    choice, chosen_crop = cache.choice(layer), cache.crop(layer, crop)
    winners = cache.mined[layer].winners(channels)
    cache.projections(layer, winners)  # all at once, under one progress bar
    cache.maps(layer, winners)
    places = _places(cache, layer, winners, chosen_crop, each=crop == "each")
    height, width = cache.image_size
    return LayerPanels(
        layer=layer,
        panels=tuple(_panel(cache, layer, channel, places, mean) for channel in channels),
        crop=(min(chosen_crop.size[0], height), min(chosen_crop.size[1], width)),
        image=(height, width),
        crop_rule=chosen_crop.rule,
        rule=cache.label(layer),
        why="" if choice is None else choice.words(),
        weights=cache.first_filters(layer, channels),
        largest_weight=cache.largest_weight(layer),
        shown=cache.feed.preprocess.shown,
        switches=cache.switches(layer),
        rectified=cache.rectified(layer),
    )


class _Place(NamedTuple):
    """Where a patch lies, and what is shown of its image.

    Attributes:
        patch: the patch proper, in the image.
        view: what is shown, in the image: the patch, with its surroundings where they are shown.
        size: height and width in pixels of the picture that it becomes.
    """

    patch: Box
    view: Box
    size: tuple[int, int]


def _places(
    cache: ProjectionCache, layer: str, winners: Sequence[Winner], crop: Crop, each: bool
) -> dict[Winner, _Place]:
    image = cache.image_size
    if each:
        patches = cache.boxes(layer, winners)
    else:
        projections = cache.projections(layer, winners)
        patches = {winner: projections[winner].window(crop.size, image) for winner in winners}
    places = {}
    for winner, patch in patches.items():
        view = square_around(patch, _shown_side(max(patch.height, patch.width)), image) if crop.surrounded else patch
        places[winner] = _Place(patch, view, (view.height, view.width))
    if each:  # the patches have sizes of their own, and become pictures of one size
        side = _shown_side(crop.size[0])
        size = (min(side, image[0]), min(side, image[1]))
        places = {winner: place._replace(size=size) for winner, place in places.items()}
    return places


def _shown_side(side: int) -> int:
    """Return the side of what is shown of a patch with this side: SURROUNDINGS of it on each side."""
    return side + 2 * round(side * SURROUNDINGS)


def square_around(box: Box, side: int, image: tuple[int, int]) -> Box:
    """Return the square around the centre of a box, moved into the image and cut to it.

    >>> square_around(Box(0, 4, 4, 8), side=8, image=(32, 10))
    Box(top=0, left=2, bottom=8, right=10)
    """
    edges = []
    for first, end, length in ((box.top, box.bottom, image[0]), (box.left, box.right, image[1])):
        room = min(side, length)
        start = min(max((first + end - room) // 2, 0), length - room)
        edges.append((start, start + room))
    (top, bottom), (left, right) = edges
    return Box(top, left, bottom, right)


def _panel(
    cache: ProjectionCache, layer: str, channel: int, places: Mapping[Winner, _Place], mean: bool
) -> FilterPanel:
    mined_layer, store = cache.mined[layer], cache.feed.images
    winners = mined_layer.winners([channel])
    projections, maps = cache.projections(layer, winners), cache.maps(layer, winners)
    images = [int(mined_layer.images[winner]) for winner in winners]
    labels, names = np.asarray(store.labels)[images].tolist(), shown_classes(store.classes)
    classes = [names[label] if label >= 0 else "" for label in labels]
    places_of_winners = [places[winner] for winner in winners]
    size = places_of_winners[0].size if winners else (1, 1)
    return FilterPanel(
        channel=channel,
        patches=_stacked([resized(cache.patch(layer, w, places[w].view), places[w].size) for w in winners], size),
        projections=_stacked([scaled(projections[w].cut(places[w].view), places[w].size) for w in winners], size),
        values=mined_layer.values[channel, [winner.rank for winner in winners]],
        images=tuple(cache.feed.name(image) for image in images),
        insides=tuple(_inside(place) for place in places_of_winners),
        firing=_stacked([_firing(maps[w], places[w], cache.image_size) for w in winners], size).astype(bool)[..., 0],
        classes=tuple(classes),
        frequency=float(mined_layer.activity.frequency[channel]),
        mean=_mean(cache, layer, winners, size) if mean and winners else None,
    )


def _mean(cache: ProjectionCache, layer: str, winners: Sequence[Winner], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the mean of projections on windows of one size that are centred on their units, float32 [h, w, C]."""
    projections, field = cache.projections(layer, winners), cache.network.layer(layer).receptive_field
    positions = cache.mined[layer].positions
    parts = []
    for winner in winners:
        starts = [
            offset + int(at) * stride + (extent - side) // 2
            for offset, at, stride, extent, side in zip(
                field.offset, positions[winner], field.stride, field.size, size, strict=True
            )
        ]
        window = Box(starts[0], starts[1], starts[0] + size[0], starts[1] + size[1])
        parts.append(projections[winner].cut(window))
    return np.asarray(np.mean(parts, axis=0), np.float32)


def _inside(place: _Place) -> Box:
    """Return the patch proper within the picture of what is shown."""
    patch, view, (height, width) = place
    rows, columns = height / view.height, width / view.width
    return Box(
        round((patch.top - view.top) * rows),
        round((patch.left - view.left) * columns),
        round((patch.bottom - view.top) * rows),
        round((patch.right - view.left) * columns),
    )


def on_a_grid(unit_map: NDArray[np.float16], image: tuple[int, int]) -> NDArray[np.float16] | None:
    """Return a map by rows and columns; the tokens of a vision transformer, one column, become the grid of patches.

    Tokens that stand before those of the patches (the class token, registers) are left out. None where the tokens are
    no grid of the image's shape.

    >>> on_a_grid(np.arange(5, dtype=np.float16)[:, None], image=(32, 32)).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    rows, columns = unit_map.shape
    if columns > 1 or rows == 1:
        return unit_map
    try:
        layout = layout_of("", (rows, 1), 2, image, None)
    except CamError:
        return None
    return None if layout.grid is None else unit_map[layout.extra :].reshape(layout.grid)


def _firing(unit_map: NDArray[np.float16], place: _Place, image: tuple[int, int]) -> NDArray[np.float32]:
    """Return where a map, resized to its image, is above half of the entry's value, 0 or 1, [h, w, 1]."""
    grid = on_a_grid(unit_map, image)
    if grid is None or grid.size == 1:  # a map without places, or of one place, has nothing to outline
        return np.zeros((*place.size, 1), np.float32)
    large = scaled(grid.astype(np.float32)[..., None], image)
    return (scaled(place.view.of(large), place.size) > 0.5).astype(np.float32)


def _stacked(parts: Sequence[Array], size: tuple[int, int]) -> Array:
    return np.stack(parts) if parts else np.zeros((0, *size, 3), np.float32)

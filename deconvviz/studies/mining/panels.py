"""The parts of a layer figure: per filter its strongest patches and their projections, cut to what they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.graph.network import Network
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.result import FilterPanel, LayerPanels, Mined
from deconvviz.types import Array


def layer_panels(
    mined: Mined,
    store: Images,
    network: Network,
    layer: str,
    channels: Sequence[int],
    *,
    crop: str | int = "energy",
    rule: str = "deconvnet",
    progress: bool = True,
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
        crop: "energy" is one square for the layer, the smallest that holds 98 % of a projection's energy (the median
            over 64 filters), centred on each projection's energy; "receptive-field" is all that a unit can see; or
            a side in pixels.
        rule: of the projections, "deconvnet", "guided" or "gradient".
        progress: whether a progress bar is shown.

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
    (3, (4, 5, 5, 3), (4, 5, 5, 3))
    """
    cache = ProjectionCache(mined, store, network, rule, progress)
    return panels_from(cache, layer, channels, crop)


def panels_from(cache: ProjectionCache, layer: str, channels: Sequence[int], crop: str | int = "energy") -> LayerPanels:
    """Return what the figure of a layer shows; what had to be computed for it is added to the cache.

    Args:
        cache: the projections of a mined result.
        layer: name of a mined layer.
        channels: the filters to show.
        crop: as for `layer_panels`.

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
    size, crop_rule = cache.crop(layer, crop)
    cache.projections(layer, cache.mined[layer].winners(channels))  # all at once, under one progress bar
    height, width = cache.image_size
    return LayerPanels(
        layer=layer,
        panels=tuple(_panel(cache, layer, channel, size) for channel in channels),
        crop=(min(size[0], height), min(size[1], width)),
        image=(height, width),
        crop_rule=crop_rule,
        rule=cache.rule,
        weights=cache.first_filters(layer, channels),
    )


def _panel(cache: ProjectionCache, layer: str, channel: int, size: tuple[int, int]) -> FilterPanel:
    mined_layer = cache.mined[layer]
    winners = mined_layer.winners([channel])
    projections = cache.projections(layer, winners)
    windows = {winner: projections[winner].window(size, cache.image_size) for winner in winners}
    return FilterPanel(
        channel=channel,
        patches=_stacked([cache.patch(layer, winner, windows[winner]) for winner in winners], size),
        projections=_stacked([projections[winner].cut(windows[winner]) for winner in winners], size),
        values=mined_layer.values[channel, [winner.rank for winner in winners]],
        images=tuple(cache.feed.name(int(mined_layer.images[winner])) for winner in winners),
    )


def _stacked(parts: Sequence[Array], size: tuple[int, int]) -> Array:
    return np.stack(parts) if parts else np.zeros((0, *size, 3), np.float32)

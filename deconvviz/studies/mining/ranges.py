"""The whole range of a layer's filters, from a mined result: images at quantiles, and whether the strongest mislead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.graph.network import Network
from deconvviz.models.labels import shown_classes
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.panels import square_around
from deconvviz.studies.mining.range_result import FilterRange, LayerRange
from deconvviz.studies.mining.range_units import RangeUnits, range_units
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Box, Ints

SIDE = 1 / 4  # of the image's shorter side: of a patch where no side is given


def layer_range(
    mined: Mined,
    store: Images,
    network: Network,
    layer: str,
    channels: str | Sequence[int] = "active",
    side: int | None = None,
    *,
    progress: bool = True,
) -> LayerRange:
    """Return images from the whole range of some filters, and whether their strongest images mislead.

    The images are nine of those that mining sampled (all where these are fewer), evenly by the filter's maximum, from
    the weakest to the strongest. Two images are alike for a filter as far as the other channels say the same at its
    strongest unit: likeness is the cosine between the values of all other channels there, each less its mean over all
    images. The images of the upper range are those between the quantiles 0.6 and 0.95 on which the filter's maximum is
    at least half of its largest: weaker ones say little about what it responds to strongly, and a selective filter may
    have weaker ones only. Where they are less than half as like the strongest ones as these are among each other, the
    filter is marked: its strongest images do not show all that it responds to strongly.

    Args:
        mined: from `dv.mine` or `dv.load_mined`.
        store: the images that were mined.
        network: the network that was mined.
        layer: name of a mined layer.
        channels: the filters, or a word as for `MinedLayer.choose_channels`.
        side: of a patch in pixels; by default a quarter of the image's shorter side.
        progress: whether a bar is shown.

    Raises:
        MismatchError: network or store are not those that were mined.
        DataError: the layer was not mined, or by a version that did not record ranges.

    Source: showing the spectrum of activations and not its end alone: Bau et al. 2020 (quantile bins), OpenAI
    Microscope and Borowski et al. 2021 on what top images leave out; the measure, its limit and the least maximum are
    our choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], preprocess=preprocess, progress=False)
    >>> layer_range(mined, scenes, network, "1", [3, 5], progress=False).filters[0].patches.shape
    (9, 8, 8, 3)
    """
    cache = ProjectionCache(mined, store, network, progress=progress)
    numbers = mined[layer].choose_channels(channels)
    return range_from(cache, layer, numbers, side, RunOptions(progress=progress))


def range_from(
    cache: ProjectionCache, layer: str, channels: Sequence[int], side: int | None, run: RunOptions
) -> LayerRange:
    """Return the ranges of some filters; see `layer_range`.

    Args:
        cache: that knows mined result, images and network.
        layer: name of a mined layer.
        channels: the filters.
        side: of a patch in pixels; None for a quarter of the image's shorter side.
        run: how the forward passes run.

    Raises:
        DataError: the layer was not mined, or by a version that did not record ranges.
    """
    units = range_units(cache.network, cache.mined, cache.feed, {layer: channels}, run)[layer]
    spread = cache.mined[layer].spread
    assert spread is not None
    windows = range_windows(cache.network, layer, units.positions, side or max(round(min(cache.image_size) * SIDE), 1))
    return LayerRange(
        layer=layer,
        filters=tuple(
            _filter_range(cache, channel, units, windows, row, spread.counts[channel])
            for row, channel in enumerate(channels)
        ),
        sampled=len(spread.sampled),
        images=cache.mined[layer].activity.images,
    )


def range_windows(network: Network, layer: str, positions: Ints, side: int) -> Ints:
    """Return the squares around the centres of units' receptive fields, cut to the image.

    Args:
        network: a captured network.
        layer: name of the layer.
        positions: int64 [..., 2], (y, x) of units on the layer's map; -1 for none.
        side: of a square in pixels.

    Returns:
        int64 [..., 4], (top, left, bottom, right); -1 for none.
    """
    height, width = network.input_shape[-2:]
    (rows, columns), stride, offset = network.layer(layer).receptive_field
    windows = np.full((*positions.shape[:-1], 4), -1, np.int64)
    flat = windows.reshape(-1, 4)
    for number, (y, x) in enumerate(positions.reshape(-1, 2).tolist()):
        if y >= 0:
            top, left = y * stride[0] + offset[0], x * stride[1] + offset[1]
            flat[number] = square_around(Box(top, left, top + rows, left + columns), side, (height, width))
    return windows


def _filter_range(
    cache: ProjectionCache, channel: int, units: RangeUnits, windows: Ints, row: int, counts: Ints
) -> FilterRange:
    """Return the range of the filter in a row of `units`."""
    present = units.images[row] >= 0
    images = units.images[row][present].tolist()
    patches = [
        Box(*window).of(cache.feed.display(image))
        for image, window in zip(images, windows[row][present].tolist(), strict=True)
    ]
    return FilterRange(
        channel=channel,
        quantiles=units.quantiles[row][present],
        values=units.values[row][present],
        patches=np.stack(patches) if patches else np.zeros((0, 1, 1, 3), np.uint8),
        images=tuple(cache.feed.images.names[image] for image in images),
        classes=_classes(cache.feed.images, images),
        counts=counts,
        likeness_of_top=float(units.likeness_of_top[row]),
        likeness_of_upper=float(units.likeness_of_upper[row]),
    )


def _classes(store: Images, images: Sequence[int]) -> tuple[str, ...]:
    labels, names = np.asarray(store.labels)[list(images)].tolist(), shown_classes(store.classes)
    return tuple(names[label] if label >= 0 else "" for label in labels)

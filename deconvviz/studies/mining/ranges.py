"""The whole range of a layer's filters, from a mined result: images at quantiles, and whether the strongest mislead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.models.labels import shown_classes
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.panels import square_around
from deconvviz.studies.mining.range_result import STRONG, UPPER, FilterRange, LayerRange
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Box, Floats, Pixels

QUANTILES = 9
SIDE = 1 / 4  # of the image's shorter side: of a patch where no side is given


class _Unit(NamedTuple):
    """A filter's strongest unit on an image.

    Attributes:
        position: (y, x) on the map.
        others: float64 [C], the values of all channels there, less their means; the filter's own is zero.
    """

    position: tuple[int, int]
    others: Floats


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

    The images are nine of those that mining sampled, evenly by the filter's maximum, from the weakest to the strongest.
    Two images are alike for a filter as far as the other channels say the same at its strongest unit: likeness is the
    cosine between the values of all other channels there, each less its mean over all images. The images of the upper
    range are those between the quantiles 0.6 and 0.95 on which the filter's maximum is at least half of its largest:
    weaker ones say little about what it responds to strongly, and a selective filter may have weaker ones only. Where
    they are less than half as like the strongest ones as these are among each other, the filter is marked: its
    strongest images do not show all that it responds to strongly.

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
    """
    spread = cache.mined[layer].spread
    if spread is None:
        raise DataError(f"{cache.mined.path or 'the result'} was mined without ranges, by an older version; mine again")
    at_quantiles = {channel: spread.at_quantiles(channel, QUANTILES) for channel in channels}
    top = {channel: _above_zero(cache.mined, layer, channel) for channel in channels}
    pairs = {(channel, image) for channel in channels for image in [*at_quantiles[channel][0].tolist(), *top[channel]]}
    units = _units(cache, layer, pairs, run)
    side = side or max(round(min(cache.image_size) * SIDE), 1)
    return LayerRange(
        layer=layer,
        filters=tuple(
            _filter_range(cache, layer, channel, {i: units[c, i] for c, i in units if c == channel}, top[channel], side)
            for channel in channels
        ),
        sampled=len(spread.sampled),
        images=cache.mined[layer].activity.images,
    )


def _filter_range(
    cache: ProjectionCache, layer: str, channel: int, units: dict[int, _Unit], top: list[int], side: int
) -> FilterRange:
    """Return the range of one filter from its strongest unit on each image, and its strongest images."""
    spread = cache.mined[layer].spread
    assert spread is not None
    chosen, values = spread.at_quantiles(channel, QUANTILES)
    images, least = chosen.tolist(), STRONG * float(cache.mined[layer].values[channel, 0])
    quantiles = np.linspace(0, 1, len(images)) if len(images) > 1 else np.ones(len(images))
    upper = [
        units[image].others
        for image, value, quantile in zip(images, values, quantiles, strict=True)
        if UPPER[0] < quantile < UPPER[1] and value >= least and image not in top
    ]
    strongest = [units[image].others for image in top]
    return FilterRange(
        channel=channel,
        quantiles=quantiles,
        values=values,
        patches=_patches(cache, layer, [(image, units[image].position) for image in images], side),
        images=tuple(cache.feed.images.names[image] for image in images),
        classes=_classes(cache.feed.images, images),
        counts=spread.counts[channel],
        likeness_of_top=likeness_among(strongest),
        likeness_of_upper=likeness(upper, strongest),
    )


def likeness_among(vectors: Sequence[Floats]) -> float:
    """Return the mean likeness of each vector to the others: its cosine with their mean; NaN for fewer than two.

    >>> likeness_among([np.array([1.0, 0]), np.array([2.0, 0])]), likeness_among(list(np.eye(3)))
    (1.0, 0.0)
    """
    if len(vectors) < 2:
        return float("nan")
    total = np.sum(vectors, axis=0)
    return float(np.mean([_cosine(vector, total - vector) for vector in vectors]))


def likeness(vectors: Sequence[Floats], to: Sequence[Floats]) -> float:
    """Return the mean cosine of vectors with the mean of others; NaN where there are none."""
    if not len(vectors) or not len(to):
        return float("nan")
    return float(np.mean([_cosine(vector, np.mean(to, axis=0)) for vector in vectors]))


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


def _above_zero(mined: Mined, layer: str, channel: int) -> list[int]:
    """Return the strongest images of a channel on which it is above zero."""
    table = mined[layer]
    return [int(image) for image, value in zip(table.images[channel], table.values[channel], strict=True) if value > 0]


def _units(
    cache: ProjectionCache, layer: str, pairs: set[tuple[int, int]], run: RunOptions
) -> dict[tuple[int, int], _Unit]:
    """Return the strongest unit of each (channel, image)."""
    images = sorted({image for _, image in pairs})
    channels_of: dict[int, list[int]] = {}
    for channel, image in sorted(pairs):
        channels_of.setdefault(image, []).append(channel)
    network, means = cache.network.forward_only(keep=[layer]), cache.mined[layer].activity.mean
    feed = Feed(cache.feed.images, cache.feed.preprocess, images, workers=run.workers)
    units = {}
    with torch.no_grad(), run.bar("image", len(feed), f"range of {layer}") as bar:
        for places, x in feed.tensors(run.images_at_once(network.device), network.device, network.dtype):
            batch = network.maps(layer, network.activations(x, [layer])[layer]).double().cpu().numpy()
            for place, maps in zip(places.tolist(), batch, strict=True):
                for channel in channels_of[images[place]]:
                    y, x_ = divmod(int(maps[channel].argmax()), maps.shape[2])
                    others = maps[:, y, x_] - means
                    others[channel] = 0
                    units[channel, images[place]] = _Unit((y, x_), others)
            bar.update(len(places))
    return units


def _patches(cache: ProjectionCache, layer: str, units: Sequence[tuple[int, tuple[int, int]]], side: int) -> Pixels:
    """Return the squares around the centres of units' receptive fields, uint8 [n, h, w, 3]."""
    height, width = cache.image_size
    (rows, columns), stride, offset = cache.network.layer(layer).receptive_field
    patches = []
    for image, (y, x) in units:
        top, left = y * stride[0] + offset[0], x * stride[1] + offset[1]
        centre = Box(top, left, top + rows, left + columns)
        window = square_around(centre, side, (height, width))
        patches.append(window.of(cache.feed.display(image)))
    return np.stack(patches) if patches else np.zeros((0, side, side, 3), np.uint8)


def _classes(store: Images, images: Sequence[int]) -> tuple[str, ...]:
    labels, names = np.asarray(store.labels)[list(images)].tolist(), shown_classes(store.classes)
    return tuple(names[label] if label >= 0 else "" for label in labels)

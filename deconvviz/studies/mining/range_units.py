"""Where the range of filters is seen: their strongest units on images of the whole range, and how alike these are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.range_result import STRONG, UPPER
from deconvviz.studies.mining.result import Mined, MinedLayer
from deconvviz.types import Floats, Ints

QUANTILES = 9
AnyArray = TypeVar("AnyArray", Floats, Ints)
MEMORY = 2**30  # bytes of the values at units that are compared; layers that need more have passes of their own


@dataclass(frozen=True)
class RangeUnits:
    """The range of F filters of a layer: n images of each, and how alike the images of its upper range are.

    Attributes:
        quantiles: float64 [F, QUANTILES], in 0..1, ascending: where an image stands among those that were sampled;
            NaN where fewer were sampled.
        images: int64 [F, n], indices into the store: those of the quantiles, then the weakest ones, the weakest first;
            -1 where there are fewer.
        values: float64 [F, n], the filter's maximum on each of them; NaN there.
        positions: int64 [F, n, 2], (y, x) on the map of the filter's strongest unit, of the middle where all units are
            equal; -1 there.
        likeness_of_top: float64 [F], see `FilterRange`.
        likeness_of_upper: float64 [F], see `FilterRange`.
    """

    quantiles: Floats
    images: Ints
    values: Floats
    positions: Ints
    likeness_of_top: Floats
    likeness_of_upper: Floats


def range_units(
    network: Network,
    mined: Mined,
    feed: Feed,
    channels: Mapping[str, Sequence[int]],
    run: RunOptions,
    *,
    weakest: int = 0,
    top: int | None = None,
) -> dict[str, RangeUnits]:
    """Find the range of filters of several layers, in one pass over the images that it takes.

    Args:
        network: that was mined.
        mined: of all these layers, with their ranges.
        feed: the images that were mined, prepared as they were then; a place is an index into the store.
        channels: layer -> its filters.
        run: how the forward passes run.
        weakest: images that are taken beside those of the quantiles, the weakest ones.
        top: how many of the strongest images are compared; None for all that were mined.

    Returns:
        Layer -> what was found.

    Raises:
        DataError: a layer was mined by a version that did not record ranges.
    """
    begun = {layer: _Begun.of(mined, layer, numbers, weakest, top) for layer, numbers in channels.items()}
    for group in _groups(begun):
        _pass(network, feed, group, run)
    return {layer: each.result() for layer, each in begun.items()}


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


class _Entries:
    """Which entries of a table of images hold each image."""

    def __init__(self, table: Ints) -> None:
        """Take int64 [F, n], -1 where there is no image."""
        self._order = np.argsort(table, axis=None, kind="stable")
        self._images = table.ravel()[self._order]

    def of(self, image: int) -> Ints:
        """Return the numbers of the entries that hold an image, counted row by row."""
        first, end = np.searchsorted(self._images, [image, image + 1])
        return np.asarray(self._order[first:end], np.int64)


@dataclass(frozen=True)
class _Begun:
    """The range of a layer's filters while the images pass; F filters of C channels.

    Attributes:
        layer: name of the layer.
        channels: int64 [F].
        means: float64 [C], of the layer's channels.
        quantiles: float64 [F, QUANTILES], as in `RangeUnits`.
        images: int64 [F, n], as in `RangeUnits`.
        values: float64 [F, n], as in `RangeUnits`.
        positions: int64 [F, n, 2], to be filled.
        compared: int64 [F, m], the strongest images, then those of the upper range; -1 where there are fewer.
        strongest: how many of the columns of `compared` are the strongest images.
        vectors: float32 [F, m, C], of the filter's strongest unit on each of `compared`: the values of all channels
            there, less their means; the filter's own is zero. To be filled.
    """

    layer: str
    channels: Ints
    means: Floats
    quantiles: Floats
    images: Ints
    values: Floats
    positions: Ints
    compared: Ints
    strongest: int
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, mined: Mined, layer: str, channels: Sequence[int], weakest: int, top: int | None) -> _Begun:
        """Choose the images."""
        mined_layer = mined[layer]
        if mined_layer.spread is None:
            raise DataError(f"{mined.path or 'the result'} was mined without ranges, by an older version; mine again")
        strongest = min(mined_layer.top.k if top is None else top, mined_layer.top.k)
        rows = [_chosen(mined_layer, channel, weakest, strongest) for channel in channels]
        quantiles, images, values, compared = (
            np.stack(column) if column else np.zeros((0, 0)) for column in (list(zip(*rows, strict=True)) or [()] * 4)
        )
        means = mined_layer.activity.mean
        return cls(
            layer=layer,
            channels=np.asarray(channels, np.int64),
            means=means,
            quantiles=quantiles,
            images=images.astype(np.int64),
            values=values,
            positions=np.full((*images.shape, 2), -1, np.int64),
            compared=compared.astype(np.int64),
            strongest=strongest,
            vectors=np.zeros((*compared.shape, len(means)), np.float32),
        )

    def result(self) -> RangeUnits:
        """Return what was found, once all images have passed."""
        top, upper = np.full(len(self.channels), np.nan), np.full(len(self.channels), np.nan)
        for row, (images, vectors) in enumerate(zip(self.compared, self.vectors, strict=True)):
            present = images >= 0
            best, others = (
                list(vectors[part][present[part]].astype(np.float64))
                for part in (slice(self.strongest), slice(self.strongest, None))
            )
            top[row], upper[row] = likeness_among(best), likeness(others, best)
        return RangeUnits(self.quantiles, self.images, self.values, self.positions, top, upper)


def _chosen(mined_layer: MinedLayer, channel: int, weakest: int, top: int) -> tuple[Floats, Ints, Floats, Ints]:
    """Return quantiles, images, values and compared images of a filter, as `_Begun` has them."""
    spread = mined_layer.spread
    assert spread is not None
    at_quantiles, values = spread.at_quantiles(channel, QUANTILES)
    quantiles = np.linspace(0, 1, len(at_quantiles)) if len(at_quantiles) > 1 else np.ones(len(at_quantiles))
    best = mined_layer.images[channel, :top][mined_layer.values[channel, :top] > 0]
    least = STRONG * float(mined_layer.values[channel, 0])
    is_upper = (UPPER[0] < quantiles) & (quantiles < UPPER[1]) & (values >= least) & ~np.isin(at_quantiles, best)
    low, low_values = spread.weakest(channel, weakest)
    return (
        _padded(quantiles, QUANTILES, np.nan),
        np.concatenate([_padded(at_quantiles, QUANTILES, -1), _padded(low, weakest, -1)]),
        np.concatenate([_padded(values, QUANTILES, np.nan), _padded(low_values, weakest, np.nan)]),
        np.concatenate([_padded(best, top, -1), _padded(at_quantiles[is_upper], QUANTILES // 2, -1)]),
    )


def _padded(values: AnyArray, length: int, fill: float) -> AnyArray:
    padded = np.full(length, fill, values.dtype)
    padded[: len(values)] = values
    return padded


def _groups(begun: Mapping[str, _Begun]) -> Iterator[list[_Begun]]:
    """Yield the layers whose vectors are in memory together."""
    group: list[_Begun] = []
    for each in begun.values():
        if group and sum(other.vectors.nbytes for other in group) + each.vectors.nbytes > MEMORY:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _pass(network: Network, feed: Feed, group: Sequence[_Begun], run: RunOptions) -> None:
    """Fill positions and vectors of some layers in one pass over their images."""
    names = [each.layer for each in group]
    tables = [(each, _Entries(each.images), _Entries(each.compared)) for each in group]
    tables_of_images = [table.ravel() for each in group for table in (each.images, each.compared)]
    images = np.unique(np.concatenate(tables_of_images))
    images = images[images >= 0]
    forward = network.forward_only(keep=names)
    at_once = AtOnce(run.images_at_once(network.device))
    chosen = Feed(feed.images, feed.preprocess, images, workers=run.workers)
    with torch.inference_mode(), run.bar("image", len(images), f"range of {', '.join(names)}") as bar:
        for places, x in chosen.tensors(at_once.size, network.device, network.dtype):

            def computed(start: int, stop: int, x: Tensor = x) -> tuple[int, dict[str, NDArray[np.floating[Any]]]]:
                activations = forward.activations(x[start:stop], names)
                return start, {name: forward.maps(name, activations[name]).cpu().numpy() for name in names}

            numbers = images[places].tolist()
            for start, maps_by_layer in at_once.parts(len(places), computed):
                for n, image in enumerate(numbers[start : start + len(maps_by_layer[names[0]])]):
                    for each, shown, compared in tables:
                        _read(maps_by_layer[each.layer][n], each, shown.of(image), compared.of(image))
            bar.update(len(places))


def _read(maps: NDArray[np.floating[Any]], begun: _Begun, shown: Ints, compared: Ints) -> None:
    """Read what an image, of maps [C, h, w], says of the entries of both tables that hold it.

    In NumPy: so few values are read that the threads of PyTorch would wait for each other longer than they compute.
    """
    rows = np.concatenate([shown // begun.images.shape[1], compared // begun.compared.shape[1]])
    if not len(rows):
        return
    flat, channels, columns = maps.reshape(len(maps), -1), begun.channels[rows], maps.shape[2]
    of_channels = flat[channels]
    places = of_channels.argmax(1)
    is_flat = of_channels.min(1) == of_channels[np.arange(len(rows)), places]
    places = np.where(is_flat, (maps.shape[1] // 2) * columns + columns // 2, places)
    begun.positions.reshape(-1, 2)[shown] = np.stack(np.divmod(places[: len(shown)], columns), -1)
    others = flat[:, places[len(shown) :]].T - begun.means
    others[np.arange(len(compared)), channels[len(shown) :]] = 0
    begun.vectors.reshape(-1, len(begun.means))[compared] = others

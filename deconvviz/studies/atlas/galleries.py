"""The gallery of a layer: all that the atlas shows of each filter, as arrays in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import MismatchError
from deconvviz.graph.network import Network
from deconvviz.results.features import FeatureTable
from deconvviz.results.results import Array, Result
from deconvviz.results.tiles import KIND, SCHEMA, TileWriter
from deconvviz.studies.atlas import similarity
from deconvviz.studies.atlas.similarity import similar_filters
from deconvviz.studies.mining.cache import AT_ONCE, ProjectionCache
from deconvviz.studies.mining.projections import ENERGY, StoredProjection
from deconvviz.studies.mining.result import Mined, MinedLayer, Winner
from deconvviz.types import Box, Pixels

TILE = 96  # pixels: the longer side of the largest tile
NEIGHBOURS = 6
GREY = 128  # of a tile that shows nothing, and of a projection's zero
PICTURES = 128 * 2**20  # bytes of decoded pictures that are kept: neighbouring filters like the same ones
Aspects = Callable[[str, NDArray[np.int64]], Mapping[str, Any]]


@dataclass(frozen=True)
class GalleryMaker:
    """Makes the galleries of several layers of one network.

    Attributes:
        mined: of the layers, complete, with at least `k` images a channel.
        maxima: for each layer [N, C], the maxima of the filters' maps in N images, for their similarity.
        store: the images that were mined.
        network: that was mined.
        layers: names, in the order of depth.
        channels: layer -> the filters to show; all of a layer that is not there.
        k: images a filter.
        rule: of the projections.
        settings: what else was asked, JSON values; it becomes part of the files' configuration.
        aspects: layer, channels -> more arrays for the file, such as `studies.aspects` makes; an array of tiles
            [G, n, h, w, 3] uint8 is kept compressed.
        sources: where model and images came from.
    """

    mined: Mined
    maxima: FeatureTable
    store: ImageStore
    network: Network
    layers: tuple[str, ...]
    channels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    k: int = 9
    rule: str = "deconvnet"
    settings: Mapping[str, Any] = field(default_factory=dict)
    aspects: Aspects = lambda layer, channels: {}
    sources: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    def __post_init__(self) -> None:
        """Check that everything belongs together; raises MismatchError."""
        check_mined(self.mined, self.network, self.store, self.k)

    def config(self, layer: str) -> dict[str, Any]:
        """Return the configuration of a layer's file: what has to agree for a file to be the one asked for."""
        found = self.network.layer(layer)
        chosen = self.channels.get(layer)
        return {
            "model": self.network.name,
            "model_fingerprint": self.network.fingerprint,
            "images_fingerprint": self.store.fingerprint,
            "layer": layer,
            "depth": self.layers.index(layer),
            "kind": found.kind,
            "shape": list(found.units),
            "parameters": found.parameters,
            "stride": list(found.stride),
            "receptive_field": list(found.receptive_field.size),
            "rule": self.rule,
            "k": self.k,
            "crop": f"{ENERGY:.0%} of the projections' energy, median of the layer",
            "count": self.mined.total,
            "image_size": list(self.network.input_shape[-2:]),
            "channels": None if chosen is None else [int(c) for c in chosen],
            "similarity": similarity.WORDS,
            "duplicate": similarity.DUPLICATE,
            "mined": self.mined.config,
            **self.settings,
        }

    def make(self, layer: str) -> Result:
        """Return the gallery of a layer, as `load_gallery` reads it from a file; F filters, k images each.

        Its arrays: channels int64 [F]; values float32, images int64 [F, k] and positions int64 [F, k, 2] (y, x) as
        mined; boxes, the pixels that the unit sees, and windows, those that are shown, int64 [F, k, 4] (top, left,
        bottom, right); patches and projections, tiles [F, k, h, w, 3]; fired int64, firing_rate float64 (share of the
        images), maximum float32, mean_activation float64, dead uint8 [F]; top_class int64 (the most frequent class of
        the k images, -1: unknown) and top_class_share float64 [F]; neighbours, similarity and duplicate_of as in
        `similar_filters`; filters uint8 [F, a, b, 3], of a layer that reads the image; and the aspects.

        An entry whose value is not above zero tells nothing of the filter: its image is -1, its value 0.
        """
        found = self.mined[layer]
        channels = np.asarray(self.channels.get(layer, range(len(found.values))), np.int64)
        table = _Table.of(found, channels, self.k)
        arrays: dict[str, Array] = {
            "channels": channels,
            "values": table.values,
            "images": table.images,
            "positions": table.positions,
            **_activity(found, channels),
            **_classes(table.images, self.store.labels),
            **similar_filters(self._maxima(layer), channels, NEIGHBOURS)._asdict(),
        }
        arrays |= self._shown(layer, table)
        for name, array in self.aspects(layer, channels).items():
            array = np.asarray(array)
            arrays |= compressed(name, array) if array.ndim == 5 else {name: array}
        return Result(KIND, SCHEMA, self.config(layer), dict(self.sources), arrays)

    def _maxima(self, layer: str) -> NDArray[np.float32]:
        return self.maxima.rows(layer, np.arange(len(self.maxima.labels)))

    def _shown(self, layer: str, table: _Table) -> dict[str, Array]:
        """Return the tiles of a layer and where they are cut."""
        cache = ProjectionCache(self.mined, self.store, self.network, self.rule, progress=False)
        height, width = cache.image_size
        alive = bool((table.images >= 0).any())
        size = cache.crop(layer).size if alive else (height, width)
        tile = tile_size((min(size[0], height), min(size[1], width)))
        count, k = table.images.shape
        boxes, windows = np.full((count, k, 4), -1), np.full((count, k, 4), -1)
        patches, projections = TileWriter((k, *tile)), TileWriter((k, *tile))
        bar = tqdm(total=count, unit="filter", desc=layer, disable=not self.progress)
        with bar:
            for start in range(0, count, AT_ONCE):
                rows = range(start, min(start + AT_ONCE, count))
                winners = [Winner(int(table.channels[f]), r) for f in rows for r in range(k) if table.images[f, r] >= 0]
                stored = cache.projections(layer, winners, keep=False)
                for f in rows:
                    seen = _Row(*(np.full((k, *tile, 3), GREY, np.uint8) for _ in range(2)))
                    for r in np.flatnonzero(table.images[f] >= 0):
                        projection = stored[Winner(int(table.channels[f]), int(r))]
                        window = projection.window(size, cache.image_size)
                        boxes[f, r], windows[f, r] = projection.box, window
                        seen.put(int(r), cache.feed.picture(int(table.images[f, r])), projection, window)
                    patches.add(seen.patches)
                    projections.add(seen.projections)
                    bar.update()
        filters = cache.first_filters(layer, [int(c) for c in table.channels])
        return {
            "boxes": boxes,
            "windows": windows,
            **patches.arrays("patches"),
            **projections.arrays("projections"),
            **({} if filters is None else {"filters": np.stack([signed(one, 100) for one in filters])}),
        }

    @cached_property
    def picture(self) -> Callable[[int], Pixels]:
        """The preprocessed picture, uint8 [H, W, 3], of image i of the store; the last ones are kept."""
        preprocess = Preprocess.from_dict(self.mined.config["preprocess"])
        room = PICTURES // (3 * int(np.prod(preprocess.shape[1:])))
        return lru_cache(max(room, 16))(lambda image: preprocess.picture(self.store[image][0]))


def check_mined(mined: Mined, network: Network, store: ImageStore, k: int) -> None:
    """Raise MismatchError unless a mined result is complete, of this network and store, and of k images or more."""
    for what, found, given in (
        ("model", mined.config["model_fingerprint"], network.fingerprint),
        ("images", mined.config["store_fingerprint"], store.fingerprint),
    ):
        if found != given:
            raise MismatchError(f"mined with {what} {found[:16]}, {given[:16]} given; mine again, or give the same")
    if not mined.complete or mined.config["k"] < k:
        raise MismatchError(
            f"mined was the top {mined.config['k']} of {mined.done} of {mined.total} images; expected all images and "
            f"the top {k}: mine again"
        )


@dataclass(frozen=True)
class _Table:
    """The part of a mined table that is shown: of some channels, the first k entries that are above zero."""

    channels: NDArray[np.int64]
    values: NDArray[np.float32]
    images: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, found: MinedLayer, channels: NDArray[np.int64], k: int) -> _Table:
        values, images, positions = (part[channels, :k] for part in (found.values, found.images, found.positions))
        none = ~(values > 0)
        return cls(
            channels,
            np.where(none, 0, values).astype(np.float32),
            np.where(none, -1, images),
            np.where(none[..., None], -1, positions),
        )


@dataclass(frozen=True)
class _Row:
    """The tiles of one filter, [k, h, w, 3]."""

    patches: Pixels
    projections: Pixels

    def put(self, rank: int, picture: Pixels, projection: StoredProjection, window: Box) -> None:
        size = (self.patches.shape[1], self.patches.shape[2])
        patch = picture[window.top : window.bottom, window.left : window.right]
        self.patches[rank] = resized(patch, size)
        self.projections[rank] = resized(signed(projection.cut(window)), size)


def _activity(found: MinedLayer, channels: NDArray[np.int64]) -> dict[str, Array]:
    activity = found.activity
    return {
        "fired": activity.fired[channels],
        "firing_rate": activity.frequency[channels],
        "maximum": activity.maximum[channels],
        "mean_activation": activity.mean[channels],
        "dead": activity.dead[channels].astype(np.uint8),
    }


def _classes(images: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Array]:
    """Return the class that is most frequent among each filter's images [F, k], and its share of them.

    Of several, the one whose image is strongest.
    """
    top, share = np.full(len(images), -1), np.zeros(len(images))
    for f, row in enumerate(images):
        seen = labels[row[row >= 0]]
        known = seen[seen >= 0]
        if len(known):
            times = (known[:, None] == known[None, :]).sum(1)
            top[f], share[f] = known[times.argmax()], times.max() / len(seen)
    return {"top_class": top, "top_class_share": share}


def tile_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the tile that shows a window (height, width): the same, or TILE on its longer side."""
    scale = min(1.0, TILE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize a picture, uint8 [h, w, 3], to (height, width), antialiased."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def signed(values: NDArray[np.floating[Any]], share: float = 99.8) -> Pixels:
    """Return signed values [h, w, C] as a picture, uint8 [h, w, 3]: zero is grey, the contrast is its own.

    The `share` percentile of the absolute values has full contrast, as in the layer figure (`figures.tiles.stretched`).
    """
    peak = float(np.percentile(np.abs(values), share)) or float(np.abs(values).max()) or 1.0
    levels = np.clip(0.5 + 0.5 * values / peak, 0, 1)
    return np.broadcast_to(np.floor(255 * levels + 0.5).astype(np.uint8), (*values.shape[:2], 3))


def compressed(name: str, tiles: NDArray[Any]) -> dict[str, Array]:
    """Return tiles, uint8 [G, n, h, w, 3], as a result keeps them."""
    writer = TileWriter((tiles.shape[1], tiles.shape[2], tiles.shape[3]))
    for row in tiles:
        writer.add(row)
    return writer.arrays(name)

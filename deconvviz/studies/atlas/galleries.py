"""The gallery of a layer: all that the atlas shows of each filter, as arrays in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.pictures import resized, signed_picture
from deconvviz.graph.ops import op_of
from deconvviz.metrics.intervals import DUPLICATE
from deconvviz.results.features import FeatureTable
from deconvviz.results.results import Result
from deconvviz.results.tiles import GREY, KIND, SCHEMA, TileWriter, compressed
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.similarity import DEFINITION, similar_filters
from deconvviz.studies.mining.cache import AT_ONCE, ProjectionCache
from deconvviz.studies.mining.projections import ENERGY
from deconvviz.studies.mining.result import Mined, MinedLayer, Winner
from deconvviz.types import Array, Ints, Pixels

TILE = 96  # pixels: the longer side of the largest tile
NEIGHBOURS = 6  # similar filters of each filter
Aspects = Callable[[str, Ints, int], Mapping[str, Array]]


def no_aspects(layer: str, channels: Ints, side: int) -> Mapping[str, Array]:
    """Return no further arrays."""
    return {}


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """What the galleries of a network show.

    Attributes:
        layers: names, in the order of depth.
        channels: layer -> the filters to show; of a layer that is not named here, all of them.
        k: images of each filter.
        rule: of the projections, one of `choices.RULES`; "auto" takes for each layer the rule that shows it best.
        settings: what else was asked for, as JSON values; it becomes part of the files' configuration.
    """

    layers: tuple[str, ...]
    channels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    k: int = 9
    rule: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GalleryMaker:
    """Makes the galleries of several layers of one network.

    Attributes:
        inputs: the network and the images.
        mined: the maxima of the layers, complete, with at least `k` images of each filter.
        maxima: of the layers, [N, C], the maxima of the filters' maps in N images; filters are compared by them.
        options: what the galleries show.
        aspects: layer, channels, side of their patches in pixels -> further arrays for the file, see
            `studies.atlas.aspects`. An array of tiles, uint8 [G, n, h, w, 3], is written compressed.
        run: whether progress bars are shown.

    Raises:
        MismatchError: the mined result is not of these inputs.
    """

    inputs: AtlasInputs
    mined: Mined
    maxima: FeatureTable
    options: GalleryOptions
    aspects: Aspects = no_aspects
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        self.inputs.require_mined(self.mined, self.options.layers, self.options.k)

    @cached_property
    def cache(self) -> ProjectionCache:
        """Computes the projections; the mined file is not changed."""
        inputs, rule, progress = self.inputs, self.options.rule, self.run.progress
        shown = inputs.preprocess.shown
        return ProjectionCache(self.mined, inputs.store, inputs.network, rule, progress, shown)

    def channels(self, layer: str) -> Ints:
        """Return the filters of a layer that are shown, int64 [F]."""
        units = self.inputs.network.layer(layer).units
        return np.asarray(self.options.channels.get(layer, range(units[0])), np.int64)

    def config(self, layer: str) -> dict[str, Any]:
        """Return the configuration of a layer's file: what must agree for a file to be taken instead of made again.

        Its rule is that which was asked for; the state of the file says which one that was.
        """
        network, options = self.inputs.network, self.options
        record = network.layer(layer)
        channels = options.channels.get(layer)
        return {
            "model": network.name,
            "model_fingerprint": network.fingerprint,
            "images_fingerprint": self.inputs.store.fingerprint,
            "layer": layer,
            "depth": options.layers.index(layer),
            "kind": record.kind,
            "shape": list(record.units),
            "parameters": record.parameters,
            "stride": list(record.stride),
            "receptive_field": list(record.receptive_field.size),
            "rule": options.rule,
            "k": options.k,
            "crop": f"{ENERGY:.0%} of the projections' energy, median of the layer",
            "count": self.mined.total,
            "image_size": list(network.input_shape[-2:]),
            "channels": None if channels is None else [int(channel) for channel in channels],
            "similarity": DEFINITION,
            "duplicate": DUPLICATE,
            "mined": self.mined.config,
            **options.settings,
        }

    def make(self, layer: str, tiles: Mapping[str, Array] | None = None) -> Result:
        """Return the gallery of a layer, as `load_gallery` reads it from a file.

        `tiles` are the arrays of `tiles`, where they were made before; None makes them.

        Its arrays, for F filters and k images of each:

        - channels int64 [F].
        - values float32 [F, k], images int64 [F, k] and positions int64 [F, k, 2] (y, x), as mined. An entry whose
          value is not above zero shows nothing of the filter: its image and position are -1, its value is 0.
        - boxes, the pixels that the unit sees, and windows, those that are shown, int64 [F, k, 4] (top, left, bottom,
          right).
        - patches and projections, tiles uint8 [F, k, h, w, 3].
        - fired int64 [F], the number of images in which the filter fired, and firing_rate float64 [F], their share;
          maximum float32 [F]; mean_activation float64 [F]; dead uint8 [F].
        - top_class int64 [F], the most frequent class of the k images, -1 where it is unknown, and top_class_share
          float64 [F], its share of them.
        - neighbours, similarity and duplicate_of, see `similar_filters`.
        - filters uint8 [F, a, b, 3], the weights of a layer that reads the image.
        - the arrays of `aspects`.

        Its state has the "rule" of the projections, and "why" in words ("" where it was given); "switches" and
        "rectified", see `ProjectionCache`; "pooled", whether the network has max pooling; and of the whole layer
        the numbers of "channels" and of "dead" ones; and "off_names", the names of the outputs in "off/classes".
        """
        mined_layer, channels = self.mined[layer], self.channels(layer)
        strongest = StrongestImages.of(mined_layer, channels, self.options.k)
        maxima = self.maxima.rows(layer, np.arange(len(self.maxima.labels)))
        arrays: dict[str, Array] = {
            "channels": channels,
            "values": strongest.values,
            "images": strongest.images,
            "positions": strongest.positions,
            **_activity(mined_layer, channels),
            **_classes(strongest.images, self.inputs.store.labels),
            **similar_filters(maxima, channels, NEIGHBOURS)._asdict(),
            **(self.tiles(layer, range(len(channels))) if tiles is None else tiles),
        }
        weights = self.cache.first_filters(layer, channels.tolist())
        if weights is not None:
            coloured = self.inputs.preprocess.coloured
            arrays["filters"] = np.stack([signed_picture(coloured(filter_weights), 100) for filter_weights in weights])
        for name, values in self.aspects(layer, channels, self._side(arrays["windows"])).items():
            arrays |= compressed(name, values) if values.ndim == 5 else {name: values}
        choice = self.cache.choice(layer)
        state = {
            "rule": self.cache.rule_of(layer),
            "why": "" if choice is None else choice.words(),
            "switches": self.cache.switches(layer),
            "rectified": self.cache.rectified(layer),
            "pooled": any(op_of(node).kind == "max_pool" for node in self.inputs.network.graph.nodes),
            "channels": len(mined_layer.activity.dead),
            "dead": int(mined_layer.activity.dead.sum()),
            **({"off_names": self._names_of(arrays["off/classes"])} if "off/classes" in arrays else {}),
        }
        return Result(KIND, SCHEMA, self.config(layer), self.inputs.provenance, arrays, state)

    def _side(self, windows: Ints) -> int:
        """Return the side of the parts of images that are shown; that of the image if all filters are dead."""
        sides = np.maximum(windows[..., 2] - windows[..., 0], windows[..., 3] - windows[..., 1])
        return int(sides.max(initial=0)) or max(self.cache.image_size)

    def _names_of(self, outputs: Array) -> dict[str, str]:
        """Return the names of outputs, where they are known; -1 is none."""
        names = self.inputs.output_names
        return {str(output): names[output] for output in np.unique(outputs).tolist() if 0 <= output < len(names)}

    def tiles(self, layer: str, rows: range) -> dict[str, Array]:
        """Return boxes, windows, patches and projections of some filters of a layer, as `make` describes them.

        `rows` are their places among the filters that are shown, one after the other. Blocks of a layer are joined by
        `joined_tiles`.
        """
        strongest = StrongestImages.of(self.mined[layer], self.channels(layer), self.options.k)
        count, k = len(rows), strongest.images.shape[1]
        size = self._window_size(layer, strongest)
        tile = tile_size(size)
        boxes, windows = np.full((count, k, 4), -1), np.full((count, k, 4), -1)
        patches, projections = TileWriter((k, *tile)), TileWriter((k, *tile))
        with self.run.bar("filter", count, f"projecting {layer}") as bar:
            for start in range(rows.start, rows.stop, AT_ONCE):
                block = range(start, min(start + AT_ONCE, rows.stop))
                stored = self.cache.projections(layer, strongest.winners(block), keep=False, bar=False)
                for row in block:
                    tiles = _FilterTiles(*(np.full((k, *tile, 3), GREY, np.uint8) for _ in range(2)))
                    for winner in strongest.winners([row]):
                        projection, place = stored[winner], (row - rows.start, winner.rank)
                        window = projection.window(size, self.cache.image_size)
                        boxes[place], windows[place] = projection.box, window
                        cut = self.inputs.preprocess.coloured(projection.cut(window))
                        tiles.put(winner.rank, self.cache.patch(layer, winner, window), cut)
                    patches.add(tiles.patches)
                    projections.add(tiles.projections)
                    bar.update()
        return {
            "boxes": boxes,
            "windows": windows,
            **patches.arrays("patches"),
            **projections.arrays("projections"),
        }

    def _window_size(self, layer: str, strongest: StrongestImages) -> tuple[int, int]:
        """Return height and width of the part of an image that is shown; the whole image if all filters are dead."""
        height, width = self.cache.image_size
        if not (strongest.images >= 0).any():
            return height, width
        crop = self.cache.crop(layer).size
        return min(crop[0], height), min(crop[1], width)


@dataclass(frozen=True)
class StrongestImages:
    """The strongest images of some filters: the part of a mined layer's table that is shown.

    Attributes:
        channels: int64 [F].
        values: float32 [F, k], 0 where an entry is not above zero.
        images: int64 [F, k], -1 there.
        positions: int64 [F, k, 2], (y, x) on the layer's map, -1 there.
    """

    channels: Ints
    values: NDArray[np.float32]
    images: Ints
    positions: Ints

    @classmethod
    def of(cls, mined_layer: MinedLayer, channels: Ints, k: int) -> StrongestImages:
        """Take the first k entries of some channels."""
        table = mined_layer.top
        values, images, positions = (array[channels, :k] for array in (table.values, table.images, table.positions))
        absent = ~(values > 0)
        return cls(
            channels,
            np.where(absent, 0, values).astype(np.float32),
            np.where(absent, -1, images),
            np.where(absent[..., None], -1, positions),
        )

    def winners(self, rows: range | list[int]) -> list[Winner]:
        """Return the entries of some rows that are above zero."""
        return [
            Winner(int(self.channels[row]), int(rank)) for row in rows for rank in np.flatnonzero(self.images[row] >= 0)
        ]


@dataclass(frozen=True)
class _FilterTiles:
    """The tiles of one filter.

    Attributes:
        patches: uint8 [k, h, w, 3].
        projections: uint8 [k, h, w, 3].
    """

    patches: Pixels
    projections: Pixels

    def put(self, rank: int, patch: Pixels, projection: Array) -> None:
        """Write the tiles of one rank."""
        size = (self.patches.shape[1], self.patches.shape[2])
        self.patches[rank] = resized(patch, size)
        self.projections[rank] = resized(signed_picture(projection), size)


def _activity(mined_layer: MinedLayer, channels: Ints) -> dict[str, Array]:
    activity = mined_layer.activity
    return {
        "fired": activity.fired[channels],
        "firing_rate": activity.frequency[channels],
        "maximum": activity.maximum[channels],
        "mean_activation": activity.mean[channels],
        "dead": activity.dead[channels].astype(np.uint8),
    }


def _classes(images: Ints, labels: Ints) -> dict[str, Array]:
    """Return the class that is most frequent among each filter's images [F, k], and its share of them.

    Of classes that are equally frequent, the one whose image is strongest is taken.
    """
    top_class, share = np.full(len(images), -1), np.zeros(len(images))
    for row, filter_images in enumerate(images):
        filter_labels = labels[filter_images[filter_images >= 0]]
        known_labels = filter_labels[filter_labels >= 0]
        if len(known_labels):
            times = (known_labels[:, None] == known_labels[None, :]).sum(1)
            top_class[row], share[row] = known_labels[times.argmax()], times.max() / len(filter_labels)
    return {"top_class": top_class, "top_class_share": share}


def tile_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the tile that shows a window: that of the window, scaled down if it is longer than TILE.

    Args:
        size: height and width of the window in pixels.

    >>> tile_size((60, 40)), tile_size((192, 96))
    ((60, 40), (96, 48))
    """
    scale = min(1.0, TILE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

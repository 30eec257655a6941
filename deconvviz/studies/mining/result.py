"""What mining found: a mapping from layer to its table, the file that holds it, and what a layer figure shows of it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.choices import CHANNEL_CHOICES
from deconvviz.data.datasets import Images
from deconvviz.data.recent import images_again
from deconvviz.errors import DataError, MismatchError
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.mining.spread import Spread
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Array, Box, Ints, Pathlike, Pixels
from deconvviz.words import counted, network_called

if TYPE_CHECKING:
    import pandas as pd

    from deconvviz.data.datasets import Images

KIND, SCHEMA = "mined", 2
WINNER_COLUMNS = ("layer", "channel", "rank", "image", "name", "class", "value", "y", "x", *Box._fields)
TABLES = ("values", "images", "positions")
COUNTS = ("fired", "total", "maximum", "broken")
RANGES = ("counts", "sampled", "maxima")  # files of schema 1 have none


class Winner(NamedTuple):
    """An entry of a mined layer's table: the image at one rank of one channel.

    Attributes:
        channel: index of the channel.
        rank: index into the channel's images, 0 for the strongest.
    """

    channel: int
    rank: int


class Origin(NamedTuple):
    """Which images were mined, and where they are.

    Attributes:
        fingerprint: of the images.
        path: of the store or the folder; None for images that were in memory.
    """

    fingerprint: str = ""
    path: str | None = None

    def open(self, images: Images | None = None) -> Images:
        """Return the images: those that are given, else those that were mined.

        Raises:
            DataError: they are gone.
            MismatchError: they are not those that were mined.
        """
        if images is None:
            return images_again(self.fingerprint, self.path)
        if images.fingerprint != self.fingerprint:
            raise MismatchError(f"{images!r} given; these are not the images that were mined")
        return images


@dataclass(frozen=True, kw_only=True)
class MinedLayer(Shown, drawn_by="draw_mined"):
    """What mining found in one layer.

    Attributes:
        name: of the layer.
        top: the table of the k strongest images of each channel.
        activity: how each channel behaved over all images.
        spread: the whole range of each channel; None in files that older versions wrote.
        origin: where the images are; a layer of a `Mined` knows it.
    """

    name: str
    top: TopK
    activity: Activity
    spread: Spread | None = None
    origin: Origin = field(default=Origin(), compare=False, repr=False)

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 [C, k], the activations, strongest first; minus infinity where there were fewer than k images."""
        return self.top.values

    @property
    def images(self) -> Ints:
        """int64 [C, k], index into the store; -1 where there were fewer than k images."""
        return self.top.images

    @property
    def positions(self) -> Ints:
        """int64 [C, k, 2], (y, x) on the layer's map; -1 where there were fewer than k images."""
        return self.top.positions

    def winners(self, channels: Sequence[int]) -> list[Winner]:
        """Return the entries of some channels, channel by channel, strongest first.

        A channel has fewer than k entries where fewer than k images were mined.
        """
        return [Winner(c, r) for c in channels for r in range(self.top.k) if self.images[c, r] >= 0]

    def choose_channels(self, how: str | Sequence[int], count: int = 16) -> list[int]:
        """Return the channels that a figure shows.

        Args:
            how: "active" (those with the highest mean activation, among them filters that a shift of BatchNorm keeps
                on in all images), "random" (some that are not dead, drawn with a
                fixed seed), "first", or the channels themselves.
            count: how many, where `how` is a word.

        Raises:
            DataError: the layer does not have a channel, or `how` is another word.

        >>> activity = Activity.empty(5)
        >>> layer = MinedLayer(name="conv1", top=TopK.empty(5, k=9), activity=activity)
        >>> layer.choose_channels("first", count=2), layer.choose_channels([4, 0])
        ([0, 1], [4, 0])
        """
        if how == "active":
            order = np.argsort(-self.activity.mean, kind="stable")
            return sorted(int(channel) for channel in order[:count])
        if how == "random":
            alive = np.flatnonzero(~self.activity.dead)
            return sorted(int(channel) for channel in np.random.default_rng(0).permutation(alive)[:count])
        channels = len(self.values)
        if how == "first":
            return list(range(min(count, channels)))
        if isinstance(how, str):
            raise DataError(f"channels {how!r} given; expected {', '.join(CHANNEL_CHOICES)} or numbers")
        beyond = [channel for channel in how if not 0 <= channel < channels]
        if beyond:
            raise DataError(f"channel {beyond[0]} of layer {self.name!r} given; expected 0 to {channels - 1}")
        return list(how)

    def merge(self, other: MinedLayer) -> MinedLayer:
        """Return what both found together; their images must not overlap."""
        spread = self.spread.merge(other.spread) if self.spread and other.spread else None
        top, activity = self.top.merge(other.top), self.activity.merge(other.activity)
        return MinedLayer(name=self.name, top=top, activity=activity, spread=spread)

    def __repr__(self) -> str:
        channels, k = self.values.shape
        dead = int(self.activity.dead.sum())
        return (
            f"MinedLayer({self.name}: {counted(channels, 'channel')} x top {k} of "
            f"{counted(self.activity.images, 'image')}, {dead} dead)"
        )


@dataclass(frozen=True, kw_only=True)
class Mined(Mapping[str, MinedLayer], Shown, drawn_by="draw_mined"):
    """What mining found, as a mapping: layer name -> `MinedLayer`.

    Attributes:
        layers: layer name -> what was found in it.
        config: what decides the result: model, images, layers, k, preprocessing, precision, limit, shard.
        sources: where model, weights and images were, and the versions that computed.
        done: images that have been mined.
        total: images to mine.
        path: of the file; None where the result is in memory only.
        figure_arrays: what figures keep in the file: array name -> array. The names are those of `ProjectionCache`.
    """

    layers: dict[str, MinedLayer]
    config: dict[str, Any]
    sources: dict[str, Any]
    done: int
    total: int
    path: pathlib.Path | None = None
    figure_arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        origin = Origin(self.config.get("store_fingerprint", ""), self.sources.get("images"))
        layers = {name: replace(layer, origin=origin) for name, layer in self.layers.items()}
        object.__setattr__(self, "layers", layers)

    def __getitem__(self, name: str) -> MinedLayer:
        """Return what was found in a layer; raises DataError where that layer was not mined."""
        if name not in self.layers:
            raise DataError(
                f"layer {name!r} was not mined; {self.path or 'this result'} holds {', '.join(self.layers)}"
            )
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def network_name(self) -> str:
        """What the network is called: its name in the library that it comes from, or that of its class."""
        return network_called(str(self.sources.get("model", "")), self.config["model"])

    @property
    def complete(self) -> bool:
        """Whether all images have been mined."""
        return self.done == self.total

    def save_csv(self, path: Pathlike, images: Images | None = None) -> None:
        """Write a row for each entry of the tables, as `to_frame` has it; DataError where that cannot be done."""
        write_csv(path, "winners", WINNER_COLUMNS, self._rows(images))

    def to_frame(self, images: Images | None = None) -> pd.DataFrame:
        """Return a row for each entry of the tables as a data frame; docs/files.md says what its columns are.

        Args:
            images: that were mined; they give the names and classes, which are empty without them.

        Raises:
            DataError: pandas is not installed.
            MismatchError: the images are others than those that were mined.
        """
        return to_frame("winners", WINNER_COLUMNS, self._rows(images))

    def box(self, layer: str, position: tuple[int, int]) -> Box | None:
        """Return the pixels that a unit sees, cut to the image; None where the file is older and does not tell.

        Args:
            layer: name of a mined layer.
            position: (y, x) of the unit on the layer's map.
        """
        fields = self.sources.get("receptive_fields", {}).get(layer)
        if fields is None:
            return None
        top, left = (offset + at * stride for at, stride, offset in zip(position, fields[1], fields[2], strict=True))
        box = Box(top, left, top + fields[0][0], left + fields[0][1])
        return box.clipped(*self.sources["image_size"])

    def _rows(self, images: Images | None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of the table, in the order of layers, channels and ranks."""
        if images is not None and images.fingerprint != self.config["store_fingerprint"]:
            raise MismatchError("the images are not those that were mined; give the store that the mined file names")
        classes = () if images is None else images.classes
        for layer in self.layers.values():
            for winner in layer.winners(range(len(layer.values))):
                image, position = int(layer.images[winner]), layer.positions[winner].tolist()
                label = -1 if images is None else int(images.labels[image])
                name = "" if images is None else images.names[image]
                box = self.box(layer.name, position) or ("",) * 4
                about = image, name, classes[label] if label >= 0 and classes else ""
                yield (layer.name, *winner, *about, float(layer.values[winner]), *position, *box)

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where that cannot be done."""
        arrays = dict(self.figure_arrays)
        for name, layer in self.layers.items():
            arrays |= {f"layers/{name}/{key}": getattr(layer.top, key) for key in TABLES}
            arrays |= {f"layers/{name}/{key}": getattr(layer.activity, key) for key in COUNTS}
            arrays[f"layers/{name}/seen"] = np.array(layer.activity.images)
            if layer.spread is not None:
                arrays |= {f"layers/{name}/{key}": getattr(layer.spread, key) for key in RANGES}
        state = {"done": self.done, "total": self.total}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    def __repr__(self) -> str:
        progress = "" if self.complete else f", unfinished: {self.done} of {counted(self.total, 'image')}"
        return f"Mined({self.config['model']}{progress})\n" + "\n".join(
            f"  {layer!r}" for layer in self.layers.values()
        )


def load_mined(path: Pathlike) -> Mined:
    """Read a mined file.

    Raises:
        DataError: the file is missing, truncated or something else.
    """
    result = Result.load(path, KIND, SCHEMA)
    with whole(path, KIND):
        layers = {name: _layer_from(result, name) for name in result.config["layers"]}
        done, total = result.state["done"], result.state["total"]
    return Mined(
        layers=layers,
        config=result.config,
        sources=result.sources,
        done=done,
        total=total,
        path=pathlib.Path(path),
        figure_arrays={name: array for name, array in result.arrays.items() if not name.startswith("layers/")},
    )


def _layer_from(result: Result, name: str) -> MinedLayer:
    arrays = {key: result.arrays[f"layers/{name}/{key}"] for key in (*TABLES, *COUNTS, "seen")}
    activity = Activity(int(arrays["seen"]), **{key: arrays[key] for key in COUNTS})
    ranges = {key: result.arrays[f"layers/{name}/{key}"] for key in RANGES if f"layers/{name}/{key}" in result.arrays}
    spread = Spread(**ranges) if len(ranges) == len(RANGES) else None
    return MinedLayer(name=name, top=TopK(**{key: arrays[key] for key in TABLES}), activity=activity, spread=spread)


@dataclass(frozen=True, kw_only=True)
class FilterPanel:
    """One filter of a layer figure; k is smaller than what was mined where there were fewer images.

    Attributes:
        channel: index of the filter's channel.
        patches: uint8 [k, h, w, 3], the parts of the images that are shown, as figures show them, strongest first.
        projections: float32 [k, h, w, C], each in units of its largest absolute value.
        values: float32 [k], the activations.
        images: the names of the k images.
        insides: the patch proper within each picture, which may show its surroundings too.
        firing: bool [k, h, w], where the filter's map, resized to the image, is above half of the patch's activation.
        classes: the names of the images' classes, "" where one is unknown.
        frequency: share of all images on which the filter was above zero somewhere.
        mean: float32 [h, w, C], the mean of the projections with their units on one place; None where it is not shown.
        wanted: float32 [h, w, C] in 0..1, the picture that the channel would like best; None where it is not shown.
    """

    channel: int
    patches: Pixels
    projections: NDArray[np.float32]
    values: NDArray[np.float32]
    images: tuple[str, ...]
    insides: tuple[Box, ...]
    firing: NDArray[np.bool_]
    classes: tuple[str, ...]
    frequency: float
    mean: NDArray[np.float32] | None = None
    wanted: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class LayerPanels(Shown, drawn_by="draw_grid"):
    """What a layer figure shows.

    Attributes:
        layer: name of the layer.
        panels: the filters.
        crop: height and width of a patch in pixels.
        image: height and width of an image in pixels.
        crop_rule: in words, how the size of the patches was chosen.
        rule: of the projections, one of `choices.RULES`.
        why: in words, how the rule was chosen; "" where it was given.
        weights: float32 [filters, h, w, C], the weights of the filters, where the layer reads the image directly;
            None elsewhere.
        largest_weight: the largest absolute weight of all filters of such a layer; None elsewhere.
        shown: the channels of projections and weights that figures show; see `shown_channels`.
        switches: whether a deconvnet has switches in front of the layer.
        rectified: whether the layer's values come from rectifiers, so that a filter fires on some images only.
    """

    layer: str
    panels: tuple[FilterPanel, ...]
    crop: tuple[int, int]
    image: tuple[int, int]
    crop_rule: str
    rule: str
    why: str
    weights: NDArray[np.float32] | None
    largest_weight: float | None = None
    shown: tuple[int, ...] = ()
    switches: bool = True
    rectified: bool = True

    def __repr__(self) -> str:
        return f"LayerPanels({self.layer}: {counted(len(self.panels), 'filter')}, rule {self.rule})"

"""What a relevance job found: for each layer two tables of images, by relevance and by activation, and the shares."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.errors import DataError
from deconvviz.metrics.intervals import NORMAL_95
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.mining.result import COUNTS, TABLES, Mined, MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Array, Floats, Ints, Pathlike
from deconvviz.words import because, counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "relevance", 1
COLUMNS = ("layer", "target", "class", "images", "channel", "share", "share_95")
LISTED = 20  # channels of a class in the table
PARTS = ("score", "layer", "beside", "biases", "rest")


@dataclass(frozen=True)
class Shares:
    """How the channels of a layer shared in the decisions, as sums over the images; it is a monoid like `TopK`.

    The share of a channel in one decision is the sum of its units' relevance over the sum of the absolute sums of all
    channels of the layer: absolute shares add up to 1, and a channel that speaks against the class has a negative one.

    Attributes:
        total: float64 [classes, C], sum of the shares over the images of each class.
        squares: float64 [classes, C], sum of their squares.
        decided: int64 [classes], images whose decision for this class was shared out.
        parts: float64 [5], sums over the images, in units of the score: the scores themselves, then what they are the
            sum of: relevance of the layer, what passes the layer by, what biases keep, the rest.
        broken: images whose relevance is not finite; they count nowhere else.
    """

    total: Floats
    squares: Floats
    decided: Ints
    parts: Floats
    broken: int = 0

    @classmethod
    def empty(cls, classes: int, channels: int) -> Shares:
        """Return the sums over no image."""
        nothing = np.zeros((classes, channels))
        return cls(nothing, nothing, np.zeros(classes, np.int64), np.zeros(len(PARTS)))

    def merge(self, other: Shares) -> Shares:
        """Return the sums over both records' images, which must not overlap."""
        return Shares(
            self.total + other.total,
            self.squares + other.squares,
            self.decided + other.decided,
            self.parts + other.parts,
            self.broken + other.broken,
        )

    def mean(self, target: int | None = None) -> tuple[Floats, Floats, int]:
        """Return each channel's mean share in the decisions for a class, or in all of them.

        Args:
            target: the class; None takes all decisions.

        Returns:
            float64 [C], the means; float64 [C], half of the width of their 95 % intervals, 1.96 standard errors (NaN
            of fewer than two images); and the number of images.

        >>> shares = Shares(np.array([[0.5, 0.9]]), np.array([[0.25, 0.45]]), np.array([2]), np.zeros(5))
        >>> means, _, images = shares.mean(0)
        >>> means.tolist(), images
        ([0.25, 0.45], 2)
        """
        which = slice(None) if target is None else slice(target, target + 1)
        total, squares = self.total[which].sum(0), self.squares[which].sum(0)
        images = int(self.decided[which].sum())
        means = total / max(images, 1)
        if images < 2:
            return means, np.full(len(means), np.nan), images
        variance = np.maximum(squares / images - means**2, 0) * images / (images - 1)
        return means, NORMAL_95 * np.sqrt(variance / images), images


@dataclass(frozen=True, kw_only=True)
class RelevantLayer:
    """What was found in one layer.

    Attributes:
        name: of the layer.
        by_activation: what `dv.mine` finds: the images that activate each channel most.
        by_relevance: the k images in whose decision each channel had the largest share. `values` are these shares, in
            0..1, `positions` the unit with the largest relevance. Images where a channel's share is not above zero are
            no entry.
        shares: how the channels shared in the decisions.
    """

    name: str
    by_activation: MinedLayer
    by_relevance: TopK
    shares: Shares

    def merge(self, other: RelevantLayer) -> RelevantLayer:
        """Return what both found together; their images must not overlap."""
        return RelevantLayer(
            name=self.name,
            by_activation=self.by_activation.merge(other.by_activation),
            by_relevance=self.by_relevance.merge(other.by_relevance),
            shares=self.shares.merge(other.shares),
        )


@dataclass(frozen=True, kw_only=True)
class Relevance(Mapping[str, RelevantLayer], Shown, drawn_by="draw_relevance"):
    """Which channels made a network's decisions, as a mapping: layer name -> `RelevantLayer`.

    Attributes:
        layers: layer name -> what was found in it.
        config: what decides the result: model, images, layers, k, rule, target, preprocessing, limit, shard.
        sources: where model, weights and images were, the names of the outputs, and the versions that computed.
        done: images that are done.
        total: images to do.
        path: of the file; None where the result is in memory only.
    """

    layers: dict[str, RelevantLayer]
    config: dict[str, Any]
    sources: dict[str, Any]
    done: int
    total: int
    path: pathlib.Path | None = None

    def __getitem__(self, name: str) -> RelevantLayer:
        """Return what was found in a layer; raises DataError where the job did not have that layer."""
        if name not in self.layers:
            raise DataError(f"layer {name!r} is not in {self.path or 'this result'}; it holds {', '.join(self.layers)}")
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def complete(self) -> bool:
        """Whether all images are done."""
        return self.done == self.total

    @property
    def outputs(self) -> list[str]:
        """Names of the network's outputs; empty where they are unknown."""
        return list(self.sources.get("outputs", ()))

    @property
    def by_activation(self) -> Mined:
        """The tables by activation of all layers, as `dv.mine` returns them: for `dv.layer_panels` and `dv.merge`."""
        return Mined(
            layers={name: layer.by_activation for name, layer in self.layers.items()},
            config=self.config,
            sources=self.sources,
            done=self.done,
            total=self.total,
        )

    def most_decided(self, layer: str) -> int:
        """Return the class that most decisions were for, of several the first.

        Raises:
            DataError: no image is done yet.
        """
        decided = self[layer].shares.decided
        if not decided.any():
            raise DataError("no image's decision was shared out; there is nothing to show")
        return int(decided.argmax())

    def sentence(self, layer: str, target: int | None = None, names: Mapping[int, str] | None = None) -> str:
        """Say which channels of a layer made the decisions for a class.

        Args:
            layer: name of a layer.
            target: the class; None takes the one that most decisions were for.
            names: channel -> what it detects; a channel without a name is a number.

        Raises:
            DataError: no image was decided for this class.
        """
        target = self.most_decided(layer) if target is None else target
        means, _, images = self.shares_of(layer, target)
        answer = f"{answer_name(target, self.outputs)} ({counted(images, 'image')})"
        return because(answer, means.tolist(), layer, names)

    def shares_of(self, layer: str, target: int) -> tuple[Floats, Floats, int]:
        """Return each channel's mean share in the decisions for a class, as `Shares.mean`.

        Raises:
            DataError: the class does not exist, or no image was decided for it.
        """
        shares = self[layer].shares
        if not 0 <= target < len(shares.decided):
            raise DataError(f"class {target} given; the network has classes 0 to {len(shares.decided) - 1}")
        if not shares.decided[target]:
            most = ", ".join(class_label(int(c), self.outputs) for c in np.argsort(-shares.decided, kind="stable")[:3])
            raise DataError(
                f"no decision for {class_label(target, self.outputs)} is in this result; most are for {most}"
            )
        return shares.mean(target)

    def parts(self, layer: str) -> dict[str, float]:
        """Return what the mean score is the sum of: "score", and the parts "layer", "beside", "biases" and "rest"."""
        shares = self[layer].shares
        images = max(int(shares.decided.sum()), 1)
        return dict(zip(PARTS, (shares.parts / images).tolist(), strict=True))

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each of the LISTED channels with the largest shares in each class's decisions."""
        write_csv(path, "relevance", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of `save_csv` as a data frame; docs/files.md says what its columns are."""
        return to_frame("relevance", COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for name, layer in self.layers.items():
            for target in np.flatnonzero(layer.shares.decided).tolist():
                means, halves, images = layer.shares.mean(target)
                for channel in np.argsort(-np.abs(means), kind="stable")[:LISTED].tolist():
                    half = float(halves[channel]) if images > 1 else ""
                    label = class_label(target, self.outputs)
                    yield name, target, label, images, channel, float(means[channel]), half

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where that cannot be done."""
        arrays: dict[str, Array] = {}
        for name, layer in self.layers.items():
            at, activity = f"layers/{name}", layer.by_activation.activity
            arrays |= {f"{at}/activation/{key}": getattr(layer.by_activation.top, key) for key in TABLES}
            arrays |= {f"{at}/relevance/{key}": getattr(layer.by_relevance, key) for key in TABLES}
            arrays |= {f"{at}/{key}": getattr(activity, key) for key in COUNTS}
            arrays |= {f"{at}/shares/{key}": getattr(layer.shares, key) for key in ("total", "squares", "decided")}
            arrays[f"{at}/parts"] = layer.shares.parts
            arrays[f"{at}/left_out"] = np.array(layer.shares.broken)
            arrays[f"{at}/seen"] = np.array(activity.images)
        Result(KIND, SCHEMA, self.config, self.sources, arrays, {"done": self.done, "total": self.total}).save(path)

    def __repr__(self) -> str:
        progress = "" if self.complete else f", unfinished: {self.done} of {counted(self.total, 'image')}"
        lines = [f"Relevance({self.config['model']}, {self.config['rule']}{progress})"]
        for name, layer in self.layers.items():
            parts = {part: round(value, 3) + 0.0 for part, value in self.parts(name).items()}
            broken = f", {layer.shares.broken} not finite" if layer.shares.broken else ""
            lines.append(
                f"  {name}: {counted(int(layer.shares.decided.sum()), 'decision')} for "
                f"{counted(int((layer.shares.decided > 0).sum()), 'class')}{broken}; mean score {parts['score']:.4g} = "
                f"{parts['layer']:.4g} by its channels + {parts['beside']:.4g} past the layer + "
                f"{parts['biases']:.4g} by biases + {parts['rest']:.4g} by the rest"
            )
        return "\n".join(lines)


def load_relevance(path: Pathlike) -> Relevance:
    """Read a relevance file.

    Raises:
        DataError: the file is missing, truncated or something else.
    """
    result = Result.load(path, KIND, SCHEMA)
    with whole(path, KIND):
        layers = {name: _layer_from(result.arrays, name) for name in result.config["layers"]}
        done, total = result.state["done"], result.state["total"]
    return Relevance(
        layers=layers, config=result.config, sources=result.sources, done=done, total=total, path=pathlib.Path(path)
    )


def _layer_from(arrays: Mapping[str, Array], name: str) -> RelevantLayer:
    at = f"layers/{name}"

    def read(group: str, keys: Sequence[str]) -> dict[str, Any]:
        return {key: arrays[f"{at}/{group}{key}"] for key in keys}

    activity = Activity(int(arrays[f"{at}/seen"]), **read("", COUNTS))
    sums = read("shares/", ("total", "squares", "decided"))
    return RelevantLayer(
        name=name,
        by_activation=MinedLayer(name=name, top=TopK(**read("activation/", TABLES)), activity=activity),
        by_relevance=TopK(**read("relevance/", TABLES)),
        shares=Shares(**sums, parts=arrays[f"{at}/parts"], broken=int(arrays[f"{at}/left_out"])),
    )


@dataclass(frozen=True, kw_only=True)
class ImageRelevance:
    """Which channels of a layer decided about one image.

    Attributes:
        layer: name of the layer.
        rule: one of `choices.RELEVANCE_RULES`.
        target: the class whose score was shared out.
        score: of that class, before a final softmax or sigmoid.
        probability: of that class, in 0..1.
        relevance: float64 [C], of each channel: the sum over its units, in units of the score.
        positions: int64 [C, 2], (y, x) of the unit with the largest relevance.
        map_size: (rows, columns) of the layer's maps.
        parts: what the score is the sum of: "layer", "beside", "biases" and "rest".
    """

    layer: str
    rule: str
    target: int
    score: float
    probability: float
    relevance: Floats
    positions: Ints
    map_size: tuple[int, int]
    parts: dict[str, float]

    @property
    def shares(self) -> Floats:
        """float64 [C], each channel's share: its relevance over the sum of the absolute ones of all channels."""
        return self.relevance / max(float(np.abs(self.relevance).sum()), 1e-30)

    def sentence(self, answers: Sequence[str] = (), names: Mapping[int, str] | None = None) -> str:
        """Say which channels decided, and where in the image they found it.

        Args:
            answers: names of the network's outputs; empty where they are unknown.
            names: channel -> what it detects; a channel without a name is a number.
        """
        answer = f"{answer_name(self.target, answers)} ({100 * self.probability:.0f} %)"
        places = {
            channel: place_words((int(y), int(x)), self.map_size) for channel, (y, x) in enumerate(self.positions)
        }
        return because(answer, self.shares.tolist(), self.layer, names, places)


def answer_name(target: int, outputs: Sequence[str] = ()) -> str:
    """Return what a class is called in a sentence: its name, or its number where it has none.

    >>> answer_name(1, ["cat", "owl"]), answer_name(7)
    ('owl', 'class 7')
    """
    return outputs[target] if outputs else class_label(target)


def place_words(position: tuple[int, int], size: tuple[int, int]) -> str:
    """Return in which third of an image a unit is, by rows and by columns; "" of a map without places.

    >>> [place_words(position, (7, 7)) for position in ((0, 6), (3, 3), (6, 3))], place_words((0, 0), (1, 1))
    (['upper right', 'centre', 'lower'], '')
    """
    if max(size) == 1:
        return ""
    row, column = (min(3 * at // length, 2) for at, length in zip(position, size, strict=True))
    return " ".join(word for word in (("upper", "", "lower")[row], ("left", "", "right")[column]) if word) or "centre"

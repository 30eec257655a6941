"""What `dissect` finds: counts that merge, the names that follow from them, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError, MismatchError
from deconvviz.notebook import Shown
from deconvviz.results.names import NAME_COLUMNS
from deconvviz.results.results import Result, require_same, whole
from deconvviz.results.shard_files import require_every_shard
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.dissection.naming import Concept, Detection, NamingRule, detections
from deconvviz.studies.mining.topk import TopK
from deconvviz.types import Array, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted, network_called

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "dissection", 1
QUANTILES, COUNTS = "quantiles", "counts"  # the two passes over the images
TOP = ("values", "images", "positions")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Pictures of some named channels, with the pixels at which the channel is above its threshold.

    Attributes:
        channels: int64 [m].
        pictures: uint8 [m, k, h, w, 3], the strongest images of each.
        above: bool [m, k, h, w].
    """

    channels: Ints
    pictures: Pixels
    above: Mask


@dataclass(frozen=True, kw_only=True)
class DissectedLayer:
    """What was counted of one layer of C channels; K concepts, P places of the pictures that are looked at.

    Attributes:
        top: the strongest images of each channel.
        labels: int64 [C, k], the classes of these images; -1 where unknown.
        histogram: int64 [C, bins], of all values, until the thresholds are known; None from then on.
        thresholds: float32 [C], just below the quantile; None before that.
        fires: int32 [C, P], pictures in which the channel is above its threshold at a place.
        both: int64 [C, K], pixels of all pictures at which the channel is above its threshold and the concept is.
        examples: of the named channels; None where they were not made.
    """

    top: TopK
    labels: Ints
    histogram: Ints | None
    thresholds: NDArray[np.float32] | None
    fires: NDArray[np.int32]
    both: Ints
    examples: Examples | None = None


@dataclass(frozen=True, kw_only=True)
class Dissection(Shown, drawn_by="draw_dissection"):
    """Which concepts the channels of some layers detect: sums over images, from which every number of the table comes.

    Attributes:
        config: the network, the images and the settings, JSON values.
        sources: where they came from, JSON values.
        layers: layer -> what was counted.
        concepts: K concepts, sorted by kind and name.
        shown: int32 [K, P], pictures that have a concept at a place.
        images: pictures that were counted in the second pass: those of which the truth knows something.
        classes: names of the images' classes; empty where they have none.
        class_counts: int64 [classes], images of each.
        stage: "quantiles" in the first pass over the images, "counts" in the second.
        done: images that this pass has done.
        total: images of a pass.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    layers: dict[str, DissectedLayer]
    concepts: tuple[Concept, ...] = ()
    shown: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    images: int = 0
    classes: tuple[str, ...] = ()
    class_counts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    stage: str = QUANTILES
    done: int = 0
    total: int = 0

    @property
    def network_name(self) -> str:
        """What the network is called: its name in the library that it comes from, or that of its class."""
        return network_called(str(self.sources.get("model", "")), str(self.config["model"]))

    @property
    def complete(self) -> bool:
        """Whether both passes are done."""
        return self.stage == COUNTS and self.done == self.total

    def detections(self, layer: str, rule: NamingRule | None = None) -> list[Detection]:
        """Return the best concept of each kind for each channel of a layer; a channel that never fires has none.

        Raises:
            DataError: the layer was not dissected, or the images are not counted yet.
        """
        if layer not in self.layers:
            raise DataError(f"layer {layer!r} was not dissected; this result holds {', '.join(self.layers)}")
        if not self.complete:
            raise DataError(f"the dissection is unfinished: {self.progress()}; run it again with the same arguments")
        return list(detections(self, self.layers[layer], rule or NamingRule()))

    def names(self, layer: str, rule: NamingRule | None = None) -> dict[int, str]:
        """Return channel -> its name, of the channels that have one: its concepts, parts first, then the others."""
        names: dict[int, list[str]] = {}
        for detection in self.detections(layer, rule):
            if detection.named:
                names.setdefault(detection.channel, []).append(detection.name)
        return {channel: ", ".join(of_channel) for channel, of_channel in names.items()}

    def progress(self) -> str:
        """Return how far the job is, in words."""
        return f"{self.done} of {counted(self.total, 'image')} of the pass for the {self.stage}"

    def save_csv(self, path: Pathlike, rule: NamingRule | None = None) -> None:
        """Write a row for each channel and kind of concept; docs/files.md says what its columns are."""
        write_csv(path, "names", NAME_COLUMNS, self._rows(rule))

    def to_frame(self, rule: NamingRule | None = None) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("names", NAME_COLUMNS, self._rows(rule))

    def _rows(self, rule: NamingRule | None) -> Iterator[tuple[Any, ...]]:
        for layer, counts in self.layers.items():
            for d in self.detections(layer, rule):
                numbers = ("" if np.isnan(value) else value for value in d[4:])
                assert counts.thresholds is not None  # of a complete result
                yield (layer, d.channel, d.name, d.kind, int(d.named), *numbers, float(counts.thresholds[d.channel]))

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays: dict[str, Array] = {"shown": self.shown, "class_counts": self.class_counts}
        for name, layer in self.layers.items():
            of_layer = {key: getattr(layer.top, key) for key in TOP}
            of_layer |= {key: getattr(layer, key) for key in ("labels", "fires", "both", "histogram", "thresholds")}
            if layer.examples is not None:
                examples = layer.examples
                of_layer |= {f"example_{key}": getattr(examples, key) for key in ("channels", "pictures", "above")}
            arrays |= {f"layers/{name}/{key}": array for key, array in of_layer.items() if array is not None}
        state = {key: getattr(self, key) for key in ("images", "stage", "done", "total")}
        state |= {"concepts": [list(concept) for concept in self.concepts], "classes": list(self.classes)}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Dissection:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            state = dict(file.state)
            return cls(
                config=file.config,
                sources=file.sources,
                layers={name: _layer_from(file, name) for name in file.config["layers"]},
                concepts=tuple(Concept(*concept) for concept in state.pop("concepts")),
                classes=tuple(state.pop("classes")),
                shown=file.arrays["shown"],
                class_counts=file.arrays["class_counts"],
                **state,
            )

    def with_concepts(self, concepts: Sequence[Concept]) -> Dissection:
        """Return the same counts for these concepts, which hold all that are counted; nothing was counted of others."""
        places = [concepts.index(concept) for concept in self.concepts]

        def moved(counts: Array, axis: int) -> Array:
            shape = list(counts.shape)
            shape[axis] = len(concepts)
            out = np.zeros(shape, counts.dtype)
            out[(slice(None),) * axis + (places,)] = counts
            return out

        layers = {name: replace(layer, both=moved(layer.both, 1)) for name, layer in self.layers.items()}
        return replace(self, layers=layers, concepts=tuple(concepts), shown=moved(self.shown, 0))

    def __repr__(self) -> str:
        if not self.complete:
            return f"Dissection({', '.join(self.layers)}; unfinished: {self.progress()})"
        lines = [f"Dissection of {self.config['model']}, {counted(self.images, 'image')}"]
        for name, layer in self.layers.items():
            named = self.names(name)
            concepts = {d.name for d in self.detections(name) if d.named}
            lines.append(
                f"  {name}: {len(named)} of {counted(len(layer.fires), 'channel')} named, "
                f"{counted(len(concepts), 'concept')}; {int((~layer.fires.any(1)).sum())} never above zero"
            )
        return "\n".join(lines)


def _layer_from(file: Result, name: str) -> DissectedLayer:
    start = f"layers/{name}/"
    arrays: dict[str, Any] = {
        key.removeprefix(start): array
        for key, array in file.arrays.items()
        if key.startswith(start) and "/" not in key.removeprefix(start)
    }
    examples = {key: arrays.get(f"example_{key}") for key in ("channels", "pictures", "above")}
    return DissectedLayer(
        top=TopK(*(arrays[key] for key in TOP)),
        labels=arrays["labels"],
        histogram=arrays.get("histogram"),
        thresholds=arrays.get("thresholds"),
        fires=arrays["fires"],
        both=arrays["both"],
        examples=None if examples["channels"] is None else Examples(**examples),  # type: ignore[arg-type]
    )


def merge_dissections(parts: Sequence[Dissection]) -> Dissection:
    """Join the dissections of all shards of one job, after the first pass or after the second.

    Args:
        parts: of the shards 0/n to n-1/n, in any order. After the first pass the result holds the thresholds of all
            images, which each shard takes for its second pass (`quantiles=` of `dissect`); after the second pass it is
            what one job would have found.

    Raises:
        MismatchError: they are not the complete shards of one job, or some are in another pass.
    """
    if not parts or any(not part.config["shard"] for part in parts):
        raise MismatchError("no shards given; give the dissections of all shards of one job")
    parts = sorted(parts, key=lambda part: tuple(part.config["shard"]))
    first = parts[0]
    require_every_shard([part.config["shard"] for part in parts])
    for part in parts:
        name = f"shard {part.config['shard'][0]}"
        require_same(
            name, part.config | {"shard": None}, first.config | {"shard": None}, "merge shards of one job only"
        )
        if part.done < part.total or part.stage != first.stage:
            raise MismatchError(f"{name} is unfinished: {part.progress()}; run its command again first")
        for key, layer in part.layers.items():
            if not np.array_equal(layer.thresholds, first.layers[key].thresholds):  # type: ignore[arg-type]
                raise MismatchError(f"{name} was counted with other thresholds; give all shards the same quantiles")
    concepts = sorted({concept for part in parts for concept in part.concepts})
    aligned = [part.with_concepts(concepts) for part in parts]
    return replace(
        aligned[0],
        config=first.config | {"shard": None},
        layers={name: _joined([part.layers[name] for part in aligned]) for name in first.layers},
        shown=sum_of([part.shown for part in aligned]),
        images=sum(part.images for part in parts),
        class_counts=sum_of([part.class_counts for part in parts]),
        done=sum(part.done for part in parts),
        total=sum(part.total for part in parts),
    )


def sum_of(arrays: Sequence[Array]) -> Any:
    """Return the sum of arrays of one shape, in their dtype."""
    return np.sum(arrays, 0, dtype=arrays[0].dtype)


def _joined(layers: Sequence[DissectedLayer]) -> DissectedLayer:
    top = layers[0].top
    for layer in layers[1:]:
        top = top.merge(layer.top)
    label_of = {
        int(image): int(label)
        for layer in layers
        for image, label in zip(layer.top.images.ravel(), layer.labels.ravel(), strict=True)
    }
    histograms = [layer.histogram for layer in layers if layer.histogram is not None]
    return replace(
        layers[0],
        top=top,
        labels=np.vectorize(label_of.__getitem__, otypes=[np.int64])(top.images),
        histogram=sum_of(histograms) if histograms else None,
        fires=sum_of([layer.fires for layer in layers]),
        both=sum_of([layer.both for layer in layers]),
        examples=None,
    )

"""PruningStudy: which filters went, what the network costs and finds without them, and how each layer bears it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.intervals import paired_interval
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "pruning", 1
FORMS = ("whole", "pruned", "tuned")  # of the network, in the order of the rows of `correct`


@dataclass(frozen=True, kw_only=True)
class PrunedGroup:
    """Layers whose filters go together.

    Attributes:
        layers: layer -> int64 [channels], the unit that each of its channels belongs to.
        scores: float64 [units], by the criterion; the lowest go first.
        kept: bool [units], which stay.
        sensitivity: bool [shares, N], whether each image is right where only this group is pruned; None where that is
            not measured (yet).
    """

    layers: Mapping[str, Ints]
    scores: Floats
    kept: Mask
    sensitivity: Mask | None = None


@dataclass(frozen=True, kw_only=True)
class FilterPictures:
    """Pictures of filters of one layer: some that went, and some that stayed.

    Attributes:
        channels: int64 [n].
        kept: bool [n], whether the filter stayed.
        tiles: uint8 [n, k, h, w, 3], the filter's weights as a colour picture (k = 1), or its k strongest patches.
        weights: whether the tiles show weights.
    """

    channels: Ints
    kept: Mask
    tiles: Pixels
    weights: bool


@dataclass(frozen=True, kw_only=True)
class PruningStudy(Shown, drawn_by="draw_pruning"):
    """A network with filters taken out, beside the whole one; N images, L layers with weights.

    Attributes:
        config: the network, the images, the criterion and the settings, JSON values.
        sources: where the model and the images came from, JSON values.
        groups: name of each pruned group -> its layers, scores and what stays; in the order of the network.
        indices: int64 [N], the images that are measured on.
        correct: bool [forms, N], whether each image is right in the whole network, the pruned one, and after
            fine-tuning, as far as these are measured.
        layers: names of the layers with weights.
        multiply_adds: int64 [2, L], for one image, before and after.
        parameters: int64 [2, L], numbers of the layers, before and after.
        totals: "parameters_before" and "parameters_after" of the whole networks; and notes on what was left out.
        seconds: float64 [2, repeats], of a forward pass of the whole and of the pruned network, one after another.
        pictures: layer -> pictures of some of its filters.
        path: of the file; None where it is in memory only.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    groups: Mapping[str, PrunedGroup]
    indices: Ints
    correct: Mask
    layers: tuple[str, ...]
    multiply_adds: Ints
    parameters: Ints
    totals: dict[str, Any]
    seconds: Floats
    pictures: Mapping[str, FilterPictures] = field(default_factory=dict)
    path: pathlib.Path | None = field(default=None, compare=False)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the filters that went where a group was pruned alone."""
        return tuple(self.config["shares"])

    @property
    def forms(self) -> tuple[str, ...]:
        """What the rows of `correct` are of: the first ones of FORMS."""
        return FORMS[: len(self.correct)]

    @property
    def accuracy(self) -> Floats:
        """float64 [forms], share of the images that are right."""
        return np.asarray(self.correct.mean(1)) if self.correct.size else np.zeros(0)

    @property
    def lost_interval(self) -> Floats:
        """float64 [forms, 2], the 95 % interval of the accuracy that is lost against the whole network."""
        return self._interval(self.correct)

    def _interval(self, correct: Mask) -> Floats:
        """Return float64 [..., 2] for bool [..., N]; see `metrics.intervals.paired_interval`."""
        whole_right = self.correct[0]
        lost, gained = (whole_right & ~correct).sum(-1), (~whole_right & correct).sum(-1)
        return paired_interval(lost, gained, len(whole_right))

    @property
    def multiply_adds_left(self) -> float:
        """Share of the multiplications that is left."""
        before, after = self.multiply_adds.sum(1)
        return float(after / before) if before else 1.0

    @property
    def parameters_left(self) -> float:
        """Share of the parameters that is left."""
        return float(self.totals["parameters_after"] / max(self.totals["parameters_before"], 1))

    @property
    def speed(self) -> float:
        """How many times as fast a forward pass of the pruned network is, by the medians; NaN where none was timed."""
        if not self.seconds.size:
            return float("nan")
        before, after = np.median(self.seconds, 1)
        return float(before / after)

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays: dict[str, Any] = {
            name: getattr(self, name) for name in ("indices", "correct", "multiply_adds", "parameters", "seconds")
        }
        for name, group in self.groups.items():
            arrays |= {f"groups/{name}/scores": group.scores, f"groups/{name}/kept": group.kept}
            arrays |= {f"groups/{name}/layers/{layer}": units for layer, units in group.layers.items()}
            if group.sensitivity is not None:
                arrays[f"groups/{name}/sensitivity"] = group.sensitivity
        for layer, each in self.pictures.items():
            arrays |= {f"pictures/{layer}/{what}": getattr(each, what) for what in ("channels", "kept", "tiles")}
        state = {
            "groups": {name: list(group.layers) for name, group in self.groups.items()},
            "layers": list(self.layers),
            "totals": self.totals,
            "pictures": {layer: each.weights for layer, each in self.pictures.items()},
        }
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> PruningStudy:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        arrays: dict[str, Any] = file.arrays
        with whole(path, KIND):
            groups = {
                name: PrunedGroup(
                    layers={layer: arrays[f"groups/{name}/layers/{layer}"] for layer in layers},
                    scores=arrays[f"groups/{name}/scores"],
                    kept=arrays[f"groups/{name}/kept"],
                    sensitivity=arrays.get(f"groups/{name}/sensitivity"),
                )
                for name, layers in file.state["groups"].items()
            }
            pictures = {
                layer: FilterPictures(
                    weights=bool(weights),
                    **{what: arrays[f"pictures/{layer}/{what}"] for what in ("channels", "kept", "tiles")},
                )
                for layer, weights in file.state["pictures"].items()
            }
            return cls(
                config=file.config,
                sources=file.sources,
                groups=groups,
                layers=tuple(file.state["layers"]),
                totals=file.state["totals"],
                pictures=pictures,
                path=pathlib.Path(path),
                **{n: arrays[n] for n in ("indices", "correct", "multiply_adds", "parameters", "seconds")},
            )

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each layer with weights; raises DataError where it cannot be written."""
        write_csv(path, "pruning", *self._table())

    def save_filters_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each filter of the pruned layers; DataError where it cannot be written."""
        write_csv(path, "pruned filters", *self._filters())

    def save_sensitivity_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each group and share; raises DataError where it cannot be written."""
        write_csv(path, "sensitivity", *self._sensitivity())

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each layer with weights as a data frame; DataError where pandas is not installed."""
        return to_frame("pruning", *self._table())

    def _table(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        costs_of = ("multiply_adds_before", "multiply_adds_after", "parameters_before", "parameters_after")
        columns = ("layer", "goes_with", "filters", "kept", *costs_of)
        group_of = {layer: name for name, group in self.groups.items() for layer in group.layers}

        def rows() -> Iterator[tuple[Any, ...]]:
            for place, layer in enumerate(self.layers):
                name = group_of.get(layer, "")
                kept = self.groups[name].kept[self.groups[name].layers[layer]] if name else np.zeros(0)
                counts = (len(kept), int(kept.sum())) if name else ("", "")
                costs = (*self.multiply_adds[:, place].tolist(), *self.parameters[:, place].tolist())
                yield (layer, name, *counts, *costs)

        return columns, rows()

    def _filters(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        rows = (
            (layer, channel, unit, float(group.scores[unit]), int(group.kept[unit]))
            for group in self.groups.values()
            for layer, units in group.layers.items()
            for channel, unit in enumerate(units.tolist())
        )
        return ("layer", "channel", "unit", "score", "kept"), rows

    def _sensitivity(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        columns = ("layer", "removed", "accuracy", "lost", "lost_low", "lost_high")

        def rows() -> Iterator[tuple[Any, ...]]:
            for name, group in self.groups.items():
                if group.sensitivity is None:
                    continue
                intervals = self._interval(group.sensitivity)
                for share, right, (low, high) in zip(self.shares, group.sensitivity, intervals, strict=True):
                    accuracy = float(right.mean())
                    yield name, share, accuracy, float(self.accuracy[0]) - accuracy, float(low), float(high)

        return columns, rows()

    def __repr__(self) -> str:
        gone = sum(int((~group.kept[units]).sum()) for group in self.groups.values() for units in group.layers.values())
        every = sum(len(units) for group in self.groups.values() for units in group.layers.values())
        right = "accuracy" if self.config["measured_by"] == "labels" else "same decision as before"
        lines = [
            f"{self.config['criterion']}: {gone} of {counted(every, 'filter')} of {counted(len(self.groups), 'group')} "
            f"of layers gone; {self.multiply_adds_left:.1%} of the multiplications and {self.parameters_left:.1%} of "
            "the parameters are left"
        ]
        for form, accuracy, (low, high) in zip(self.forms, self.accuracy, self.lost_interval, strict=True):
            lost = "" if form == "whole" else f", lost {in_points(self.accuracy[0] - accuracy, low, high)}"
            lines.append(f"  {form}: {right} {accuracy:.1%} on {counted(len(self.indices), 'image')}{lost}")
        if self.seconds.size:
            before, after = 1000 * np.median(self.seconds, 1)
            batch = counted(self.config["timed_batch"], "image")
            lines.append(f"  a forward pass of {batch}: {before:.1f} ms before, {after:.1f} ms after")
        return "\n".join(lines)

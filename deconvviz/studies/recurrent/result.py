"""RecurrentViews: what the units of a recurrent network do, and which tokens made its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError, nearest
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv, write_tables
from deconvviz.studies.recurrent.naming import GATES, layer_words
from deconvviz.studies.recurrent.sequences import Sequences
from deconvviz.studies.recurrent.tables import TABLES, TRACKING, tracking_rows
from deconvviz.studies.recurrent.together import Together
from deconvviz.studies.recurrent.tracking import Tracked
from deconvviz.types import Array, Floats, Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "recurrent", 1


@dataclass(frozen=True, kw_only=True)
class LayerViews:
    """One layer in one direction, with H units, over N steps with V different tokens.

    Attributes:
        name: such as "0", or "1.backwards".
        counts: int64 [V], how often each token occurs; V is 0 where steps are vectors.
        mean: float64 [V, H], the expected response of each unit to each token: the mean of h_t - h_(t-1).
        quantiles: float64 [4, V, H], of these responses, for `responses.QUANTILES`.
        token_groups: int64 [V], the group of each token; -1 where it takes no part.
        unit_groups: int64 [H], the group of each unit.
        gates: gate -> float64 [H, 2], the shares of steps at which it is shut and at which it is open.
        tracked: property -> how well the units track it.
        top_values: float32 [H, k], the largest activities in different passages, the largest first; minus infinity
            where there are fewer passages.
        top_steps: int64 [H, k], their steps; -1 there.
        together: the units of a chosen range, and where else they are on; None where no unit is on.
        activity: float32 [S, H], of the first S steps.
    """

    name: str
    counts: Ints
    mean: Floats
    quantiles: Floats
    token_groups: Ints
    unit_groups: Ints
    gates: Mapping[str, Floats]
    tracked: Mapping[str, Tracked]
    top_values: NDArray[np.float32]
    top_steps: Ints
    together: Together | None
    activity: NDArray[np.float32]

    @property
    def units(self) -> int:
        """H, the number of units."""
        return len(self.top_values)

    @property
    def best(self) -> tuple[str, int] | None:
        """The property and the unit with the largest absolute correlation; None where no property was given."""
        pairs = [(abs(t.correlation[t.order[0]]), name, int(t.order[0])) for name, t in self.tracked.items()]
        return max(pairs)[1:] if pairs else None

    def strongest_tokens(self, unit: int, count: int = 5) -> Ints:
        """Return the tokens with the largest absolute expected response of a unit, the largest first."""
        present = np.flatnonzero(self.counts)
        return np.asarray(present[np.argsort(-np.abs(self.mean[present, unit]), kind="stable")[:count]], np.int64)


@dataclass(frozen=True, kw_only=True)
class TokenRelevance:
    """Which steps made an output.

    Attributes:
        start: the first step that takes part, counted over all sequences.
        step: the step at which the output is read.
        output: its number.
        name: of the output.
        score: its value before any softmax.
        relevance: float64 [n], of the steps from `start` on, in units of the score.
        before: relevance of the states before `start`.

    What is missing to the score is kept by biases and the stabiliser.
    """

    start: int
    step: int
    output: int
    name: str
    score: float
    relevance: Floats
    before: float

    @property
    def kept(self) -> float:
        """What biases and the stabiliser keep of the score."""
        return self.score - self.before - float(self.relevance.sum())


@dataclass(frozen=True, kw_only=True)
class RecurrentViews(Shown, drawn_by="draw_recurrent"):
    """The views of a recurrent network over some sequences.

    Attributes:
        network: its name.
        kind: "LSTM", "GRU" or "RNN".
        sequences: what it read, without vectors.
        layers: in the order in which they read; of a bidirectional network both directions.
        relevance: of some outputs.
        skipped: view -> why it is not there.
        config: the settings, JSON values.
        sources: where the network and the sequences came from.
    """

    network: str
    kind: str
    sequences: Sequences
    layers: tuple[LayerViews, ...]
    relevance: tuple[TokenRelevance, ...] = ()
    skipped: Mapping[str, str]
    config: Mapping[str, Any]
    sources: Mapping[str, Any]

    def __getitem__(self, layer: str) -> LayerViews:
        """Return a layer by its name; raises DataError with the nearest names."""
        for each in self.layers:
            if each.name == layer:
                return each
        raise DataError(f"no layer {layer!r}; {nearest(layer, [each.name for each in self.layers])}")

    def where(self, step: int) -> tuple[int, int]:
        """Return the sequence of a step, and its place in it, both from 0."""
        return int(self.sequences.sequence_of[step]), int(self.sequences.places[step])

    def passage(self, step: int, before: int = 30, after: int = 10) -> tuple[int, int]:
        """Return the steps around a step that are shown with it, (start, stop), all of its sequence."""
        sequence = self.sequences.sequence_of[step]
        low, high = self.sequences.starts[sequence : sequence + 2].tolist()
        return max(low, step - before), min(high, step + after + 1)

    def save(self, path: Pathlike) -> None:
        """Write everything to an HDF5 file; raises DataError where it cannot be written."""
        config = {
            **self.config,
            "network": self.network,
            "recurrent": self.kind,
            "vocabulary": list(self.sequences.vocabulary),
            "words": self.sequences.words,
            "layers": [each.name for each in self.layers],
            "tracked": list(self.layers[0].tracked),
            "chance": [[each.chance for each in layer.tracked.values()] for layer in self.layers],
        }
        arrays: dict[str, Array] = {"ids": self.sequences.ids, "lengths": self.sequences.lengths}
        for layer in self.layers:
            arrays |= {f"layers/{layer.name}/{name}": array for name, array in _arrays_of(layer).items()}
        arrays |= {f"relevance/{n}/values": each.relevance for n, each in enumerate(self.relevance)}
        keys = ("start", "step", "output", "name", "score", "before")
        relevance = [{name: getattr(each, name) for name in keys} for each in self.relevance]
        state = {"skipped": dict(self.skipped), "relevance": relevance}
        Result(KIND, SCHEMA, config, dict(self.sources), arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> RecurrentViews:
        """Read a file that `save` wrote; raises DataError where it is no such file."""
        result = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            config, arrays = dict(result.config), result.arrays
            chance = dict(zip(config.pop("layers"), config.pop("chance"), strict=True))
            names, told = config.pop("tracked"), result.state["relevance"]
            return cls(
                network=config.pop("network"),
                kind=config.pop("recurrent"),
                sequences=Sequences(
                    ids=arrays["ids"].astype(np.int64),
                    lengths=arrays["lengths"].astype(np.int64),
                    vocabulary=tuple(config.pop("vocabulary")),
                    words=config.pop("words"),
                ),
                layers=tuple(_layer_of(name, arrays, names, chance[name]) for name in chance),
                relevance=tuple(
                    TokenRelevance(**each, relevance=arrays[f"relevance/{n}/values"]) for n, each in enumerate(told)
                ),
                skipped=result.state["skipped"],
                config=config,
                sources=result.sources,
            )

    def save_csv(self, path: Pathlike) -> None:
        """Write how well each unit tracks each property as a table; DataError where it cannot be written."""
        write_csv(path, "tracking", TRACKING, tracking_rows(self))

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("tracking", TRACKING, tracking_rows(self))

    def save_tables(self, folder: Pathlike) -> None:
        """Write all tables, `tables.TABLES`, into a folder that exists; DataError where one cannot be written."""
        write_tables(folder, TABLES, self)

    def __repr__(self) -> str:
        lines = [
            f"<RecurrentViews of {self.network}: {self.kind}, {counted(len(self.layers), 'layer')} of "
            f"{self.layers[0].units} units; {counted(len(self.sequences.lengths), 'sequence')}, "
            f"{counted(len(self.sequences), 'step')}"
        ]
        lines += [f"  {layer_words(each.name)}: {words}" for each in self.layers for words in best_words(each)]
        lines += [f"  no {view}: {why}" for view, why in self.skipped.items()]
        return "\n".join(lines) + ">"


def best_words(layer: LayerViews) -> Iterator[str]:
    """Yield, for each property, the unit that tracks it best, in words."""
    for name, each in layer.tracked.items():
        unit = int(each.order[0])
        chance = f"by chance up to {each.chance:.2f}"
        yield f"{name} best in unit {unit}, r = {each.correlation[unit]:.2f} ({chance}, p = {each.p[unit]:.3f})"


TOGETHER = {"units": "on", "ranges": "ranges", "counts": "shared", "others": "others"}
"""Field of `Together` -> the name of its array in a file."""
PLAIN = ("counts", "mean", "quantiles", "token_groups", "unit_groups", "top_values", "top_steps", "activity")


def _arrays_of(layer: LayerViews) -> dict[str, Array]:
    """Return the arrays of a layer by their names in a file."""
    arrays: dict[str, Array] = {name: getattr(layer, name) for name in PLAIN}
    arrays |= {f"gates/{name}": each for name, each in layer.gates.items()}
    for number, each in enumerate(layer.tracked.values()):
        arrays |= {f"tracked/{number}/correlation": each.correlation, f"tracked/{number}/p": each.p}
    if (found := layer.together) is not None:
        arrays |= {f"together/{name}": getattr(found, field) for field, name in TOGETHER.items()}
        arrays["together/chosen"] = np.array([found.start, found.stop])
    return arrays


def _layer_of(name: str, arrays: Mapping[str, Array], properties: list[str], chance: list[float]) -> LayerViews:
    """Return a layer from the arrays of a file."""
    start = f"layers/{name}/"
    own_arrays = {key.removeprefix(start): each for key, each in arrays.items() if key.startswith(start)}
    tracked = {
        each: Tracked(
            correlation=own_arrays[f"tracked/{n}/correlation"], p=own_arrays[f"tracked/{n}/p"], chance=chance[n]
        )
        for n, each in enumerate(properties)
    }
    together = None
    if "together/chosen" in own_arrays:
        parts = {field: own_arrays[f"together/{part}"].astype(np.int64) for field, part in TOGETHER.items()}
        together = Together(
            start=int(own_arrays["together/chosen"][0]), stop=int(own_arrays["together/chosen"][1]), **parts
        )
    ordered = [gate for gates in GATES.values() for gate in gates if f"gates/{gate}" in own_arrays]
    gates = {gate: own_arrays[f"gates/{gate}"] for gate in ordered}
    return LayerViews(
        name=name, gates=gates, tracked=tracked, together=together, **{key: own_arrays[key] for key in PLAIN}
    )

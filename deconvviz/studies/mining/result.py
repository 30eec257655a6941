"""What mining found: a mapping from layer to its table, and the file that holds it."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, one_line
from deconvviz.results.results import Result
from deconvviz.studies.mining.topk import Activity, TopK

KIND, SCHEMA = "mined", 1
TABLES = ("values", "images", "positions")
COUNTS = ("fired", "total", "maximum", "broken")


@dataclass(frozen=True)
class MinedLayer:
    """What mining found in one layer: `top` the table, `activity` the channels' behaviour over all images."""

    name: str
    top: TopK
    activity: Activity

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 [C, k], strongest first."""
        return self.top.values

    @property
    def images(self) -> NDArray[np.int64]:
        """int64 [C, k], index into the store; -1 where the store had fewer than k images."""
        return self.top.images

    @property
    def positions(self) -> NDArray[np.int64]:
        """int64 [C, k, 2], (y, x) on the layer's map."""
        return self.top.positions

    def merge(self, other: MinedLayer) -> MinedLayer:
        """Return what both found, over disjoint images."""
        return MinedLayer(self.name, self.top.merge(other.top), self.activity.merge(other.activity))

    def __repr__(self) -> str:
        channels, k = self.values.shape
        dead = int(self.activity.dead.sum())
        return f"MinedLayer({self.name}: {channels} channels x top {k} of {self.activity.images} images, {dead} dead)"


@dataclass(frozen=True)
class Mined(Mapping[str, MinedLayer]):
    """A mined file: layer name -> `MinedLayer`, with the configuration and sources that made it."""

    layers: dict[str, MinedLayer]
    config: dict[str, Any]
    sources: dict[str, Any]
    done: int
    total: int
    path: pathlib.Path | None = None
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> MinedLayer:
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
    def complete(self) -> bool:
        """True where every image has been seen."""
        return self.done == self.total

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where that cannot be done."""
        arrays = dict(self.extra)
        for name, layer in self.layers.items():
            arrays |= {f"layers/{name}/{key}": getattr(layer.top, key) for key in TABLES}
            arrays |= {f"layers/{name}/{key}": getattr(layer.activity, key) for key in COUNTS}
            arrays[f"layers/{name}/seen"] = np.array(layer.activity.images)
        state = {"done": self.done, "total": self.total}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    def __repr__(self) -> str:
        progress = "" if self.complete else f", unfinished: {self.done} of {self.total} images"
        return f"Mined({self.config['model']}{progress})\n" + "\n".join(
            f"  {layer!r}" for layer in self.layers.values()
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def load_mined(path: Pathlike) -> Mined:
    """Read a mined file; raises DataError where it is missing, truncated or something else."""
    result = Result.load(path, KIND, SCHEMA)
    try:
        layers = {name: _layer_from(result, name) for name in result.config["layers"]}
        done, total = result.state["done"], result.state["total"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no complete mined file ({one_line(error)}); mine again") from error
    extra = {name: array for name, array in result.arrays.items() if not name.startswith("layers/")}
    return Mined(layers, result.config, result.sources, done, total, pathlib.Path(path), extra)


def _layer_from(result: Result, name: str) -> MinedLayer:
    get = {key: result.arrays[f"layers/{name}/{key}"] for key in (*TABLES, *COUNTS, "seen")}
    activity = Activity(int(get["seen"]), **{key: get[key] for key in COUNTS})
    return MinedLayer(name, TopK(**{key: get[key] for key in TABLES}), activity)

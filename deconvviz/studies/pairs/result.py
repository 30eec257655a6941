"""What several methods say about pairs of images: maps, and how well they explain the likeness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.results.files import atomic
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "simultaneous_insertion": "SI",
    "simultaneous_deletion": "SD",
    "conditional_insertion": "CI",
    "conditional_deletion": "CD",
    "simultaneous_drop": "SAD",
    "simultaneous_increase": "SIC",
    "conditional_drop": "CAD",
    "conditional_increase": "CIC",
    "max_sensitivity": "MS",
}
"""Column of a table -> what the source calls the metric."""
BETTER_HIGH = ("simultaneous_insertion", "conditional_insertion", "simultaneous_increase", "conditional_increase")
COSTS = {"forward_passes": "forward", "backward_passes": "backward", "seconds": "seconds"}
COLUMNS = (*METRICS, *COSTS)
NOTE = (
    "SI, CI and SIC, CIC are better high, the others low; forward and backward passes are those of one image, seconds "
    "those of one pair, for the map"
)


@dataclass(frozen=True, kw_only=True)
class PairStudy(Shown, drawn_by="draw_pair"):
    """Pairs of images, explained by some methods.

    Attributes:
        network: name of the network.
        embedding: name of the layer of the embedding.
        names: of the first and the second image of each of N pairs.
        similarity: float64 [N], the cosine of the embeddings.
        pictures: uint8 [N, 2, H, W, 3], both images as figures show them.
        maps: method -> float32 [N, 2, H, W] in 0..1.
        values: method -> float64 [N, columns], the metrics and costs in the order of COLUMNS; NaN where a metric was
            not measured or is not defined.
    """

    network: str
    embedding: str
    names: tuple[tuple[str, str], ...]
    similarity: Floats
    pictures: Pixels
    maps: Mapping[str, NDArray[np.float32]]
    values: Mapping[str, Floats] = field(default_factory=dict)

    def column(self, method: str, name: str) -> Floats:
        """Return one column of a method's values, float64 [N]; raises DataError for another method or column."""
        if method not in self.values or name not in COLUMNS:
            raise DataError(f"{name} of {method} asked for; there are {', '.join(COLUMNS)} of {', '.join(self.values)}")
        return self.values[method][:, COLUMNS.index(name)]

    def save(self, path: Pathlike) -> None:
        """Write the maps to a NumPy file: float32 [N, 2, H, W] under the name of each method.

        Raises:
            DataError: the name does not end in .npz, or the file cannot be written.
        """
        if not str(path).endswith(".npz"):
            raise DataError(f"{path} given; expected a name that ends in .npz")
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, similarity=self.similarity, **self.maps)  # type: ignore[arg-type]

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each pair and method; raises DataError where the file cannot be written."""
        write_csv(path, "pairs", self._columns(), self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes; raises DataError where pandas is not installed."""
        return to_frame("pairs", self._columns(), self._rows())

    def _columns(self) -> tuple[str, ...]:
        return ("image_a", "image_b", "similarity", "method", *COLUMNS)

    def _rows(self) -> Iterator[Sequence[Any]]:
        for number, names in enumerate(self.names):
            for method, values in self.values.items():
                cells = ["" if np.isnan(value) else float(value) for value in values[number]]
                yield [*names, float(self.similarity[number]), method, *cells]

    def table(self) -> str:
        """Return the means over the pairs as text: a row a method."""
        measured = [
            name for name in COLUMNS if any(np.isfinite(self.column(method, name)).any() for method in self.values)
        ]
        heads = {**METRICS, **COSTS}
        width = max(map(len, ("method", *self.values)))
        lines = [f"{'method':{width}}" + "".join(f"{heads[name]:>10}" for name in measured)]
        for method in self.values:
            means = [_mean(self.column(method, name)) for name in measured]
            lines.append(
                f"{method:{width}}"
                + "".join(f"{_text(mean, name):>10}" for mean, name in zip(means, measured, strict=True))
            )
        return "\n".join([*lines, NOTE])

    def __repr__(self) -> str:
        pairs = f"{counted(len(self.names), 'pair')} of images in {self.network}, embedding {self.embedding}"
        lines = [
            f"  {a} and {b}: cosine {value:.3f}" for (a, b), value in zip(self.names, self.similarity, strict=True)
        ]
        more = [f"  and {len(lines) - 8} more"] if len(lines) > 8 else []
        return "\n".join([f"PairStudy({pairs})", *lines[:8], *more, *([self.table()] if self.values else [])])


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _text(value: float, name: str) -> str:
    """Return a cell of the printed table; "-" where nothing was measured."""
    if np.isnan(value):
        return "-"
    return f"{value:.0f}" if name.endswith("passes") else f"{value:.3f}"

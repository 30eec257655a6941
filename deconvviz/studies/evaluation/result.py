"""What `evaluate` found: methods by metrics over images, as an object, a file and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.metrics import METRICS, box_accuracy
from deconvviz.results.files import Pathlike
from deconvviz.results.results import Result
from deconvviz.results.tables import write_csv
from deconvviz.studies.evaluation.measures import BOXES, CURVES

KIND, SCHEMA = "evaluation", 2
COSTS = ("constant", "forward_passes", "backward_passes", "seconds")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        config: what was asked; sources: where it came from.
        values: method -> float64 [N, columns]; NaN in rows that are not done yet.
        columns: names of the metrics, in fractions; then whether the map is constant, which tells nothing, and the
            costs of one image: forward and backward passes, seconds.
        explained, labels: int64 [N], the output explained, and the image's class (-1 unknown); probability: float64 [N]
            of what is explained.
        names: of the images; classes: of the images.
        curves: "method/deletion" and "method/insertion" -> float64 [N, steps + 1], probabilities as pixels go, or come.
        fits: "method/largest" and "method/best" -> float64 [N, 1000], the boxes' IoU at every threshold.
        pictures: uint8 [n, h, w, 3], the first few images as the network sees them; maps: method -> float32 [n, h, w].
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    values: dict[str, Array]
    columns: tuple[str, ...]
    explained: NDArray[np.int64]
    labels: NDArray[np.int64]
    probability: Array
    names: tuple[str, ...]
    classes: tuple[str, ...]
    curves: dict[str, Array] = field(default_factory=dict)
    fits: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    pictures: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True where every method has seen every image."""
        return not any(np.isnan(rows[:, -1]).any() for rows in self.values.values())

    def mean(self, method: str) -> Array:
        """Return the means over the images, [columns]."""
        found: Array = np.nanmean(self.values[method], 0)
        return found

    def error(self, method: str) -> Array:
        """Return the half-widths of the means' 95 % intervals, [columns]: 1.96 standard errors."""
        rows = self.values[method]
        count = (~np.isnan(rows)).sum(0)
        squares = np.nansum((rows - self.mean(method)) ** 2, 0)
        found: Array = 1.96 * np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
        return found

    def fit_boxes(self, method: str) -> None:
        """Set the columns that need all images at once: MaxBoxAcc at the threshold that is best for what is done."""
        if f"{method}/largest" not in self.fits:
            return
        done = ~np.isnan(self.fits[f"{method}/largest"][:, 0])
        if not done.any():
            return
        largest, best = (self.fits[f"{method}/{kind}"][done].astype(np.float64) for kind in ("largest", "best"))
        found = box_accuracy(largest, best)
        for name, column in zip(BOXES, (found.v1, found.v2), strict=True):
            self.values[method][done, self.columns.index(name)] = column.numpy()

    def save(self, path: Pathlike) -> None:
        """Write the file atomically."""
        arrays: dict[str, NDArray[Any]] = {"explained": self.explained, "probability": self.probability}
        arrays |= {"labels": self.labels, "pictures": self.pictures}
        for group in ("values", "curves", "fits", "maps"):
            arrays |= {f"{group}/{name}": array for name, array in getattr(self, group).items()}
        state = {"columns": list(self.columns), "names": list(self.names), "classes": list(self.classes)}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Evaluation:
        """Read what `save` wrote; raises DataError where it is no such file."""
        file = Result.load(path, KIND, SCHEMA)
        if file.schema < SCHEMA:
            raise DataError(f"{path} was written by an older deconvviz; remove it and evaluate again")
        lists: dict[str, Any] = {name: tuple(file.state[name]) for name in ("columns", "names", "classes")}
        single: dict[str, Any] = {
            name: file.arrays[name] for name in ("explained", "probability", "labels", "pictures")
        }
        empty = cls(file.config, file.sources, {}, **lists, **single)
        groups: dict[str, Any] = {
            group: {
                name.partition("/")[2]: array for name, array in file.arrays.items() if name.startswith(f"{group}/")
            }
            for group in ("values", "curves", "fits", "maps")
        }
        return replace(empty, **groups)

    def save_csv(self, path: Pathlike) -> None:
        """Write the table: a row for each method, means and half-widths of their 95 % intervals."""
        head = ["method", "images", *(name for column in self.columns for name in (column, f"{column}_95"))]
        rows = []
        for method in self.values:
            pairs = zip(self.mean(method), self.error(method), strict=True)
            seen = int((~np.isnan(self.values[method][:, -1])).sum())
            rows.append([method, seen, *(float(value) for pair in pairs for value in pair)])
        write_csv(path, head, rows)

    def __repr__(self) -> str:
        told = ("adcc", *CURVES, "road_combined", "pointing_game", "energy", "max_box_acc", *COSTS)
        shown = [c for c in self.columns if c.endswith("_100") or c in told]
        lines = ["  ".join(["method".ljust(16), *(name.rjust(15) for name in shown)])]
        for method in self.values:
            means = dict(zip(self.columns, self.mean(method), strict=True))
            lines.append("  ".join([method.ljust(16), *(f"{means[name]:15.3f}" for name in shown)]))
        return "\n".join(lines)


def directions(columns: tuple[str, ...]) -> Mapping[str, bool]:
    """Return for each metric among the columns whether the higher value is the better one."""
    found = {}
    for column in columns:
        base, _, share = column.rpartition("_")
        name = base if share.isdigit() else column
        if name in METRICS:
            found[column] = METRICS[name].higher_is_better
    return found

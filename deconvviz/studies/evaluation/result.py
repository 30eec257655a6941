"""Evaluation: what `evaluate` measured, methods by metrics over images, as an object, a file and a table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, of_group, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.evaluation.columns import CONSTANT, COSTS, CURVES, PXAP, SALIENCY, SECONDS
from deconvviz.types import Array, Floats, Ints, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "evaluation", 2
STANDARD_ERRORS = 1.96  # in half of a 95 % interval; two decimals, as in the tables of version 0.1.0
PRINTED = (
    "adcc",
    *CURVES,
    "road_combined",
    "pointing_game",
    "energy",
    "max_box_acc",
    PXAP,
    SALIENCY[0],
    "infidelity",
    "max_sensitivity",
    "sparseness",
    "random_logit",
    CONSTANT,
    *COSTS,
)
GROUPS = (
    "values",
    "curves",
    "fits",
    "crops",
    "maps",
)  # of arrays in the file, each one "method" or "method/kind" -> array


@dataclass(frozen=True, kw_only=True)
class Evaluation(Shown, drawn_by="draw_evaluation"):
    """What `evaluate` measured of N images.

    Attributes:
        config: the settings; JSON values.
        sources: where model and images came from, and the versions; JSON values.
        values: method -> float64 [N, columns]; a row is NaN until its image is measured.
        columns: names of the columns: the metrics in their units, whether the map is constant (such a map shows
            nothing), and the costs of one image: forward passes, backward passes, seconds.
        explained: int64 [N], the output that was explained; -1 until the image is measured.
        labels: int64 [N], the class of each image; -1 where it is unknown.
        probability: float64 [N], the probability of the output that was explained.
        names: names of the images.
        classes: names of the images' classes.
        curves: "method/deletion" and "method/insertion" -> float64 [N, steps + 1], the probability after each step.
        fits: "method/largest" and "method/best" -> float32 [N, 1000], the IoU of the boxes at each threshold;
            "method/on_object" and "method/beside" -> float32 [N, 1000], pixels between neighbouring thresholds.
        crops: method -> float32 [N, 20], the saliency metric at each of its thresholds.
        pictures: uint8 [n, h, w, 3], the first few images that the network sees, as figures show them.
        maps: method -> float32 [n, h, w] in 0..1, the maps of these images.

    >>> evaluation = Evaluation(
    ...     config={}, sources={}, values={"grad-cam": np.array([[0.2, 0.1], [0.4, 0.1]])}, columns=("adcc", "seconds"),
    ...     explained=np.array([3, 5]), labels=np.array([3, 3]), probability=np.array([0.9, 0.5]),
    ...     names=("a.png", "b.png"), classes=(),
    ... )
    >>> evaluation.mean("grad-cam").round(3), evaluation.error("grad-cam").round(3)
    (array([0.3, 0.1]), array([0.196, 0.   ]))
    >>> evaluation
    method                       adcc          seconds
    grad-cam                    0.300            0.100
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    values: dict[str, Floats]
    columns: tuple[str, ...]
    explained: Ints
    labels: Ints
    probability: Floats
    names: tuple[str, ...]
    classes: tuple[str, ...]
    curves: dict[str, Floats] = field(default_factory=dict)
    fits: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    crops: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    pictures: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every method has explained every image."""
        return all(self.measured(method).all() for method in self.values)

    def column(self, method: str, name: str) -> Floats:
        """Return one column of a method's values, float64 [N]; it is a view, so that to change it changes `values`."""
        return self.values[method][:, self.columns.index(name)]

    def measured(self, method: str) -> NDArray[np.bool_]:
        """Return which images were measured by a method, bool [N]."""
        return ~np.isnan(self.column(method, SECONDS))

    def mean(self, method: str) -> Floats:
        """Return the means over the images, float64 [columns]."""
        means: Floats = np.nanmean(self.values[method], 0)
        return means

    def error(self, method: str) -> Floats:
        """Return half the widths of the means' 95 % intervals, float64 [columns]: 1.96 standard errors.

        They are NaN where fewer than two images have a value.
        """
        values = self.values[method]
        count = (~np.isnan(values)).sum(0)
        squares = np.nansum((values - self.mean(method)) ** 2, 0)
        halves: Floats = STANDARD_ERRORS * np.sqrt(squares / np.where(count > 1, (count - 1) * count, np.nan))
        return halves

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where it cannot be written."""
        arrays: dict[str, Array] = {
            "explained": self.explained,
            "probability": self.probability,
            "labels": self.labels,
            "pictures": self.pictures,
        }
        for group in GROUPS:
            arrays |= {f"{group}/{name}": array for name, array in getattr(self, group).items()}
        state = {"columns": list(self.columns), "names": list(self.names), "classes": list(self.classes)}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Evaluation:
        """Read what `save` wrote; raises DataError where the file is missing, damaged or of another kind."""
        file = Result.load(path, KIND, SCHEMA)
        if file.schema < SCHEMA:
            raise DataError(f"{path} was written by an older deconvviz; remove it and evaluate again")
        with whole(path, KIND):
            lists: dict[str, Any] = {name: tuple(file.state[name]) for name in ("columns", "names", "classes")}
            arrays: dict[str, Any] = {
                name: file.arrays[name] for name in ("explained", "probability", "labels", "pictures")
            }
        groups: dict[str, Any] = {group: of_group(file.arrays, group) for group in GROUPS}
        return replace(cls(config=file.config, sources=file.sources, values={}, **lists, **arrays), **groups)

    def save_csv(self, path: Pathlike, more: Mapping[str, Mapping[str, tuple[float, float]]] | None = None) -> None:
        """Write a table: a row for each method, with the means and half the widths of their 95 % intervals.

        Args:
            path: of the file.
            more: method -> further columns, the same ones for all: name -> (mean, half the width of its interval).
        """
        further = more or {method: {} for method in self.values}
        columns = [*self.columns, *next(iter(further.values()))]
        head = ["method", "images", *(name for column in columns for name in (column, f"{column}_95"))]
        rows = []
        for method in self.values:
            pairs = [*zip(self.mean(method), self.error(method), strict=True), *further[method].values()]
            rows.append([method, int(self.measured(method).sum()), *(float(value) for pair in pairs for value in pair)])
        write_csv(path, "evaluation", head, rows)

    def save_images_csv(self, path: Pathlike) -> None:
        """Write a row for each method and image; raises DataError where the file cannot be written."""
        write_csv(path, "evaluation of images", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each method and image as a data frame; DataError where pandas is not installed."""
        return to_frame("evaluation of images", *self._table())

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        """Return the columns of the table of images, and its rows."""
        numbers = [str(label) if label >= 0 else "" for label in self.labels.tolist()]
        classes = [self.classes[int(text)] if text and self.classes else text for text in numbers]
        about = list(zip(self.names, classes, self.explained.tolist(), self.probability.tolist(), strict=True))
        rows = [
            [method, *image, *("" if np.isnan(value) else value for value in values)]
            for method, table in self.values.items()
            for image, values in zip(about, table.tolist(), strict=True)
        ]
        return ["method", "image", "class", "explained", "probability", *self.columns], rows

    def _printed(self) -> tuple[list[str], dict[str, list[str]]]:
        """Return the columns of a short table, and method -> its means in these columns as text."""
        columns = [column for column in self.columns if column.endswith("_100") or column in PRINTED]
        means = {method: dict(zip(self.columns, self.mean(method), strict=True)) for method in self.values}
        return columns, {method: [f"{row[column]:.3f}" for column in columns] for method, row in means.items()}

    def __repr__(self) -> str:
        columns, rows = self._printed()
        lines = ["  ".join([method.ljust(16), *(text.rjust(15) for text in row)]) for method, row in rows.items()]
        return "\n".join(["  ".join(["method".ljust(16), *(column.rjust(15) for column in columns)]), *lines])

    def text_as_html(self) -> str:
        """Return the text below the picture, as HTML: a table."""
        columns, rows = self._printed()
        table = [["method", *(column.replace("_", " ") for column in columns)]]
        table += [[method, *row] for method, row in rows.items()]
        cells = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in table)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>Means over {counted(len(self.names), 'image')}.</p><table>{body}</table>"

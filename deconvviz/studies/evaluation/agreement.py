"""Which metric ranks methods as the truth does: rank correlations over the methods, with intervals over the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from deconvviz.errors import DataError
from deconvviz.metrics.intervals import unit_columns
from deconvviz.results.tables import write_csv
from deconvviz.studies.evaluation.columns import COLUMNS_BY_GROUP, PXAP
from deconvviz.types import Floats, Pathlike
from deconvviz.words import between, counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deconvviz.studies.evaluation.result import Evaluation

LEAST_METHODS = 4  # that can be ranked: of three, one pair of neighbours decides


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far metrics rank M methods as the truth does.

    Attributes:
        truth: the column that says how well each method does, by what is known of the images.
        methods: names of the methods.
        images: number of images.
        correlations: metric -> (rank correlation, lower and upper end of its 95 % interval), the best first. Metrics of
            which lower is better are turned round, so that 1 is always the truth's order and -1 its reverse.

    >>> agreement = Agreement(
    ...     truth="pxap", methods=("a", "b", "c", "d"), images=9, correlations={"adcc": (0.5, 0.2, 0.7)}
    ... )
    >>> agreement
    Rank correlation with pxap over 4 methods, 9 images
      adcc                      0.50   [0.20, 0.70]
    """

    truth: str
    methods: tuple[str, ...]
    images: int
    correlations: dict[str, tuple[float, float, float]]

    def rows(self) -> Iterator[tuple[str, str, float, float, float]]:
        """Yield the metric, the truth, the correlation and the ends of its interval."""
        for metric, values in self.correlations.items():
            yield (metric, self.truth, *values)

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each metric; raises DataError where the file cannot be written."""
        write_csv(path, "agreement", ("metric", "truth", "correlation", "low", "high"), self.rows())

    def __repr__(self) -> str:
        count = f"{len(self.methods)} methods, {counted(self.images, 'image')}"
        lines = [f"Rank correlation with {self.truth} over {count}"]
        for metric, (value, low, high) in self.correlations.items():
            lines.append(f"  {metric:<22} {value:7.2f}   {between(low, high)}")
        return "\n".join(lines)


def agreement(
    evaluation: Evaluation,
    higher_is_better: Mapping[str, bool],
    truth: str = PXAP,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Return the rank correlation of each metric's means with those of the truth, over the methods.

    Only images whose object is known and that every method has explained count. The intervals are over images: these
    are drawn again and again with replacement, the same ones for all methods and columns, and the methods are ranked
    anew. They say nothing of other methods than those given.

    Args:
        evaluation: what was measured, with the localisation metrics.
        higher_is_better: column -> its direction, from `metric_groups.directions`; other columns are left out.
        truth: the column that the others are compared with.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: the evaluation lacks the truth, or has fewer than 4 methods, or no image with a known object.

    Source: Spearman's correlation; Efron and Tibshirani 1993, chapter 13, the percentile interval. That the truth be a
    localisation metric on scenes is our choice.
    """
    methods = tuple(evaluation.values)
    if truth not in evaluation.columns or len(methods) < LEAST_METHODS:
        raise DataError(
            f"{len(methods)} methods and the columns {', '.join(evaluation.columns[:4])}, ... given; expected "
            f"{LEAST_METHODS} methods or more, and {truth}: measure localisation"
        )
    located = COLUMNS_BY_GROUP["localisation"]
    columns = [column for column in evaluation.columns if column in higher_is_better and column not in located]
    table = np.stack([evaluation.values[method] for method in methods], 1)  # [images, methods, columns]
    table = table[:, :, [evaluation.columns.index(column) for column in (truth, *columns)]]
    table = table[np.isfinite(table).all((1, 2))]
    if not len(table):
        raise DataError("no image given whose object is known and that every method has explained")
    signs = np.array([1 if higher_is_better[column] else -1 for column in (truth, *columns)])
    whole = _correlations(table.mean(0) * signs)
    chosen = np.random.default_rng(seed).integers(0, len(table), (draws, len(table)))
    drawn = np.stack([_correlations(table[rows].mean(0) * signs) for rows in chosen])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if len(table) > 1 else np.full((2, len(whole)), np.nan)
    order = np.argsort(-whole, kind="stable")
    values = {columns[place]: (float(whole[place]), float(low[place]), float(high[place])) for place in order}
    return Agreement(truth=truth, methods=methods, images=len(table), correlations=values)


def rankable(evaluation: Evaluation, higher_is_better: Mapping[str, bool], truth: str = PXAP) -> bool:
    """Return whether there are methods, metrics and known objects enough for `agreement`."""
    located = COLUMNS_BY_GROUP["localisation"]
    others = any(column in higher_is_better and column not in located for column in evaluation.columns)
    known = truth in evaluation.columns and any(
        np.isfinite(evaluation.column(method, truth)).any() for method in evaluation.values
    )
    return others and known and len(evaluation.values) >= LEAST_METHODS


def _correlations(means: Floats) -> Floats:
    """Return Spearman's correlation of the first of some columns [methods, columns] with each of the others."""
    unit = unit_columns(rankdata(means, axis=0))
    return np.asarray(unit[:, 0] @ unit[:, 1:])

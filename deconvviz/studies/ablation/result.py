"""Trained variants of a network, side by side: their errors, and how far each is from the full network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.ablation.variants import FULL
from deconvviz.types import Pathlike
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One trained variant.

    Errors are shares of images whose class is not the largest output, or (top-5) not among the five largest. They are
    measured on the central crop of each image, with the weights at the end of the training.

    Attributes:
        name: name of the variant, such as "no-3-4".
        parameters: number of its parameters.
        epochs: number of epochs of its training.
        training_error: top-1 error on the training images.
        training_top5_error: top-5 error on the training images; None where there are at most 5 classes.
        validation_error: top-1 error on the validation images.
        validation_top5_error: top-5 error on the validation images; None where there are at most 5 classes.
        difference: its validation error less the full network's; None for the full network, and where that is not
            trained for as many epochs.
        low: lower end of the difference's 95 % interval (`metrics.intervals.paired_interval`). It is over the images,
            not over trainings from other initial weights.
        high: upper end of that interval.
        seconds: duration of the training, validation included.
        paper: the errors in percent that table 3 of the paper reports, see `PAPER_ERRORS`; None where it has none.
    """

    name: str
    parameters: int
    epochs: int
    training_error: float
    training_top5_error: float | None
    validation_error: float
    validation_top5_error: float | None
    difference: float | None
    low: float | None
    high: float | None
    seconds: float
    paper: tuple[float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class VariantTable(Shown, drawn_by="draw_variants"):
    """Trained variants, side by side.

    Attributes:
        config: what all variants have in common: images, network and recipe, JSON values.
        rows: the variants, in the order in which they were asked for.
        images: number of validation images.
    """

    config: dict[str, Any]
    rows: tuple[Variant, ...]
    images: int

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each variant; errors and differences in fractions, also the paper's."""
        write_csv(path, "ablation", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("ablation", *self._table())

    def _table(self) -> tuple[tuple[str, ...], list[list[Any]]]:
        """Return the columns of the table and its rows."""
        names = [field.name for field in fields(Variant) if field.name != "paper"]
        paper_names = [f"paper_{name}" for name in ("training_error", "validation_error", "validation_top5_error")]
        rows = []
        for row in self.rows:
            paper_errors = ["", "", ""] if row.paper is None else [error / 100 for error in row.paper]
            values = [getattr(row, name) for name in names]
            rows.append([*("" if value is None else value for value in values), *paper_errors])
        return (*names, *paper_names), rows

    def __repr__(self) -> str:
        head = f"{'variant':26s}  parameters  epochs  training  validation"
        lines = [f"{head}  above {FULL} [95 %], {counted(self.images, 'image')}"]
        for row in self.rows:
            errors = f"{row.training_error:10.1%}{row.validation_error:12.1%}"
            lines.append(f"{row.name:26s}{row.parameters:12,}{row.epochs:8d}{errors}")
            if row.difference is not None and row.low is not None and row.high is not None:
                lines[-1] += f"  {in_points(row.difference, row.low, row.high, signed=True)}"
        return "\n".join(lines)

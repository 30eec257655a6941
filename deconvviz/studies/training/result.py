"""A trained network, its history and its file."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from deconvviz.data.preprocess import Preprocess


OF_LABEL = "average_precision_"  # what the history's numbers of single labels begin with


@dataclass(frozen=True, kw_only=True)
class Trained(Shown, drawn_by="draw_history"):
    """A trained network.

    Attributes:
        model: the network in eval mode, with the weights at the end of the training.
        preprocess: how images are prepared for it.
        path: path of the file with weights, optimiser state and history.
        classes: names of its outputs.
        history: a record for each epoch: "epoch", "lr", "loss" and "accuracy" (means over the epoch's training steps),
            "validation_loss", "validation_accuracy", "validation_top5" (after the epoch; absent where no image is held
            out), "seconds", and the terms and figures of additions, whose names they begin with. Losses are in nats,
            accuracies in fractions. Where images have several labels, an accuracy is the share of labels, yes or no,
            that are answered correctly; "validation_map" is the mean average precision over the labels, and
            "average_precision_LABEL" that of one of them.
    """

    model: nn.Module
    preprocess: Preprocess
    path: pathlib.Path
    classes: tuple[str, ...]
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def average_precision(self) -> dict[str, float]:
        """Name of a label -> its average precision after the last epoch, in 0..1; empty where images have one class."""
        last = self.history[-1] if self.history else {}
        return {name.removeprefix(OF_LABEL): value for name, value in last.items() if name.startswith(OF_LABEL)}

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each epoch; a cell is empty where the epoch has no such number."""
        write_csv(path, "history", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("history", *self._table())

    def _table(self) -> tuple[tuple[str, ...], list[list[float | str]]]:
        """Return the columns of the table and its rows."""
        names = tuple(dict.fromkeys(name for record in self.history for name in record)) or ("epoch", "lr", "loss")
        return names, [[record.get(name, "") for name in names] for record in self.history]

    def __repr__(self) -> str:
        if not self.history:
            return f"Trained({self.path}, no epoch yet)"
        last = self.history[-1]
        parts = [str(self.path), counted(len(self.history), "epoch"), f"accuracy {last['accuracy']:.1%}"]
        if "validation_accuracy" in last:
            parts.append(f"validation accuracy {last['validation_accuracy']:.1%}")
        if "validation_map" in last:
            parts.append(f"mean average precision {last['validation_map']:.1%}")
        return f"Trained({', '.join(parts)})"

"""A network that was trained without labels, and how its embedding went."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from deconvviz.data.preprocess import Preprocess

WATCHED = ("embedding_rank", "embedding_spread", "projection_rank", "projection_spread", "collapsed", "seconds")


@dataclass(frozen=True, kw_only=True)
class Pretrained(Shown, drawn_by="draw_pretraining"):
    """A network that was trained without labels.

    Attributes:
        model: the network in eval mode, with the weights at the end of the training. Its classifier is as it was.
        preprocess: how images are prepared for it.
        path: path of the file with weights, projector, optimiser state and history.
        objective: name of what it was trained for.
        classifier: name of the module that reads the embedding; "" where the network returns it.
        width: numbers in an embedding.
        limits: least effective rank and least spread, below which an epoch counts as collapsed.
        history: a record for each epoch: "epoch", "loss" and its terms (means over the epoch's images; "masked_" stands
            before those of the add-on), "embedding_rank", "embedding_spread", "projection_rank" and
            "projection_spread" (of some images after the epoch, in eval mode and as they are), "collapsed" (1 or 0) and
            "seconds".
        collapse: in words, how the last epoch has collapsed; "" where it has not.
    """

    model: nn.Module
    preprocess: Preprocess
    path: pathlib.Path
    objective: str
    classifier: str
    width: int
    limits: tuple[float, float]
    history: list[dict[str, float]] = field(default_factory=list)
    collapse: str = ""

    @property
    def collapsed(self) -> list[int]:
        """The epochs after which the embedding had collapsed."""
        return [int(record["epoch"]) for record in self.history if record["collapsed"]]

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each epoch; raises DataError where the file cannot be written."""
        write_history(path, self.history)

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes; raises DataError where pandas is not installed."""
        return to_frame("pretraining", columns_of(self.history), _rows(self.history))

    def __repr__(self) -> str:
        if not self.history:
            return f"Pretrained({self.path}, {self.objective}, no epoch yet)"
        last = self.history[-1]
        parts = [str(self.path), self.objective, counted(len(self.history), "epoch"), f"loss {last['loss']:.3g}"]
        parts += [f"embedding of {self.width} numbers: rank {last['embedding_rank']:.3g}"]
        parts += [f"spread {last['embedding_spread']:.2f}"]
        return f"Pretrained({', '.join(parts)}){f'; collapsed: {self.collapse}' if self.collapse else ''}"


def write_history(path: Pathlike, history: Sequence[dict[str, float]]) -> None:
    """Write a row for each epoch; raises DataError where the file cannot be written."""
    write_csv(path, "pretraining", columns_of(history), _rows(history))


def columns_of(history: Sequence[dict[str, float]]) -> tuple[str, ...]:
    """Return the columns of the table of a history; those that every training has where there is no epoch yet."""
    return tuple(history[0]) if history else ("epoch", "loss", *WATCHED)


def _rows(history: Sequence[dict[str, float]]) -> Iterator[Sequence[Any]]:
    yield from ([*record.values()] for record in history)

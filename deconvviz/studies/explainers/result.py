"""What the training of explainers gives: a trained one, and the search for its loss."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.notebook import Shown
from deconvviz.results.tables import write_csv
from deconvviz.studies.evaluation.columns import SHARES
from deconvviz.types import Floats, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import LearnedExplainer


@dataclass(frozen=True, kw_only=True)
class TrainedExplainer(Shown, drawn_by="draw_history"):
    """A trained explainer, its files and its history.

    Attributes:
        explainer: the trained part, in eval mode.
        path: of its weights; beside it is a JSON file that says what they are.
        history: a record for each epoch of each phase: phase, epoch, lr, each term of the loss (weighted, mean over the
            images), loss, right (share of the images for which the class is still found), seconds.
        config: what the JSON file holds.
    """

    explainer: LearnedExplainer
    path: pathlib.Path
    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.history:
            return f"TrainedExplainer({self.explainer.name}, {self.path}, no epoch yet)"
        last = self.history[-1]
        terms = ", ".join(f"{name} {last[name]:.3g}" for name in ("loss", "right"))
        return f"TrainedExplainer({self.explainer.name}, {self.path}, {counted(len(self.history), 'epoch')}, {terms})"


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """The settings of a grid, and how an explainer that was trained with each does on images held out.

    Attributes:
        settings: a mapping option -> value for each of the S settings.
        drop: float64 [S, 3], the average drop where 100, 50 and 15 % of the pixels are kept, in fractions.
        increase: float64 [S, 3], the share of images whose probability increases, likewise.

    >>> values = np.array([[0.3, 0.4, 0.5], [0.2, 0.3, 0.4]])
    >>> search = GridSearch(settings=({"area": 1.0}, {"area": 2.0}), drop=values, increase=0 * values)
    >>> search.best
    1
    >>> search
    GridSearch(2 settings; average drop at 100, 50, 15 %; increase)
      area 1:  30.0%  40.0%  50.0%;   0.0%   0.0%   0.0%
      area 2:  20.0%  30.0%  40.0%;   0.0%   0.0%   0.0%  best
    """

    settings: tuple[dict[str, float], ...]
    drop: Floats
    increase: Floats

    @property
    def best(self) -> int:
        """Index of the setting with the least mean drop; of those with equal drop, the one of most increase."""
        order = np.lexsort((-self.increase.mean(1), self.drop.mean(1)))
        return int(order[0])

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each setting: its values, drop and increase, and whether it is the best one."""
        measured = [f"{metric}_{share}" for share in SHARES for metric in ("average_drop", "increase")]
        rows = [
            [
                *setting.values(),
                *(float(value) for pair in zip(drop, increase, strict=True) for value in pair),
                int(number == self.best),
            ]
            for number, (setting, drop, increase) in enumerate(
                zip(self.settings, self.drop, self.increase, strict=True)
            )
        ]
        write_csv(path, "explainer search", [*self.settings[0], *measured, "best"], rows)

    def __repr__(self) -> str:
        lines = [f"GridSearch({len(self.settings)} settings; average drop at 100, 50, 15 %; increase)"]
        for number, setting in enumerate(self.settings):
            values = ", ".join(f"{name} {value:g}" for name, value in setting.items())
            drop, increase = (" ".join(f"{v:6.1%}" for v in row[number]) for row in (self.drop, self.increase))
            lines.append(f"  {values}: {drop}; {increase}{'  best' if number == self.best else ''}")
        return "\n".join(lines)

"""What the training of explainers gives: a trained one, the search for its loss, and the drift that one measures."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.intervals import NORMAL_95, standard_error
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


@dataclass(frozen=True, kw_only=True)
class ExplanationDrift:
    """Where a bump explainer sees two networks look, image by image, and how far the two lie apart.

    Attributes:
        first: float64 [N, 3], of the first network: row and column of the bump's centre, and sigma, in pixels.
        second: float64 [N, 3], of the other network.
        size: rows and columns of the images.
        names: of the images, [N].

    >>> first = np.array([[16.0, 16.0, 4.0], [16.0, 16.0, 4.0]])
    >>> drift = ExplanationDrift(first=first, second=first + [[0, 0, 0], [0, 8, 0]], size=(32, 32), names=("a", "b"))
    >>> drift.distances.round(3), drift.shifts
    (array([0.   , 0.627]), array([0.  , 0.25]))
    >>> drift
    ExplanationDrift(2 images: distance 0.314 ± 0.615, centres 0.125 of the side apart, widths x 1.00)
    """

    first: Floats
    second: Floats
    size: tuple[int, int]
    names: tuple[str, ...]

    @property
    def distances(self) -> Floats:
        """float64 [N], the Hellinger distance of both bumps as normal distributions: 0 for the same, 1 far apart.

        sqrt(1 - BC) with the Bhattacharyya coefficient BC = 2 s t / (s^2 + t^2) exp(-d^2 / 4 (s^2 + t^2)) of two
        round Gaussians of widths s and t whose centres are d apart. Source: Bhattacharyya 1943, Bulletin of the
        Calcutta Mathematical Society 35.
        """
        s, t = self.first[:, 2], self.second[:, 2]
        apart = np.square(self.first[:, :2] - self.second[:, :2]).sum(1)
        both = np.square(s) + np.square(t)
        return np.asarray(np.sqrt(np.maximum(1 - 2 * s * t / both * np.exp(-apart / (4 * both)), 0)))

    @property
    def shifts(self) -> Floats:
        """float64 [N], how far the centres are apart, in shares of the shorter side of the image."""
        return np.asarray(np.linalg.norm(self.first[:, :2] - self.second[:, :2], axis=1) / min(self.size))

    @property
    def widths(self) -> Floats:
        """float64 [N], sigma of the other network's bump over that of the first one's."""
        return self.second[:, 2] / self.first[:, 2]

    @property
    def mean(self) -> float:
        """The drift: the mean distance over the images, in 0..1."""
        return float(self.distances.mean())

    @property
    def half_width(self) -> float:
        """Half the width of its 95 % interval, 1.96 standard errors over the images; NaN for a single image."""
        return NORMAL_95 * standard_error(self.distances)

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each image: both bumps, their distance and the shift of the centre."""
        columns = [f"{what}_{which}" for which in ("first", "second") for what in ("row", "column", "sigma")]
        values = np.column_stack([self.first, self.second, self.distances, self.shifts]).tolist()
        rows = [[name, *numbers] for name, numbers in zip(self.names, values, strict=True)]
        write_csv(path, "explanation drift", ["image", *columns, "distance", "shift"], rows)

    def __repr__(self) -> str:
        ratio = float(np.exp(np.log(self.widths).mean()))
        return (
            f"ExplanationDrift({counted(len(self.first), 'image')}: distance {self.mean:.3f} ± {self.half_width:.3f}, "
            f"centres {self.shifts.mean():.3g} of the side apart, widths x {ratio:.2f})"
        )

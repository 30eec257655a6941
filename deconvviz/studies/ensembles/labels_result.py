"""LabelEnsemble: the average precision of several networks, alone and together, on images with several labels each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.ranking import DRAWS, average_precision, resampled_average_precision
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.ensembles.rows import RowsOfNetworks
from deconvviz.types import Floats, Ints, Mask, Pathlike
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "ensemble of labels", 1
SEED = 0  # of the draws of the bootstrap, where none is given
COLUMNS = (
    "networks",
    "count",
    "images",
    "label",
    "positives",
    "average_precision",
    "gain",
    "gain_low",
    "gain_high",
)
LOWEST = 3  # labels that the text names


@dataclass(frozen=True, kw_only=True)
class LabelEnsemble(RowsOfNetworks, Shown, drawn_by="draw_label_ensemble"):
    """How well several networks tell which of several labels images have, each alone and the first 2, 3, ... together.

    M networks have R = 2 M - 1 rows: first each network alone, then the mean of the probabilities (sigmoids) of the
    first 2, 3, ..., M. The last row is the whole ensemble; of a single network it is that network.

    Attributes:
        config: the networks, the labels, the images and the settings, JSON values.
        sources: where networks and images came from, JSON values.
        targets: bool [n, labels], whether an image has a label.
        scores: float64 [M, n, labels], what each network returns: scores before the sigmoid, or probabilities where it
            ends in one; NaN where the image is not done yet.
        images: number of images that are done, from the first on.

    >>> config = {"networks": [{"name": "a", "outputs": "softmax"}], "labels": ["dog"]}
    >>> targets = np.array([[True], [False], [True], [False]])
    >>> one = LabelEnsemble.empty(config, {}, targets).with_images(np.array([[[2.0], [1.0], [0.0], [-1.0]]]))
    >>> one.names, one.mean_average_precision.round(4)  # 1/2 * 1 + 1/2 * 2/3
    (('a',), array([0.8333]))
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    targets: Mask
    scores: Floats
    images: int = 0

    @classmethod
    def empty(cls, config: dict[str, Any], sources: dict[str, Any], targets: Mask) -> LabelEnsemble:
        """Return an ensemble of which no image is done yet.

        Args:
            config: the networks, the labels, the images and the settings, JSON values.
            sources: where they came from, JSON values.
            targets: bool [n, labels], whether an image has a label.
        """
        scores = np.full((len(config["networks"]), *targets.shape), np.nan)
        return cls(config=config, sources=sources, targets=targets, scores=scores)

    def with_images(self, scores: Floats) -> LabelEnsemble:
        """Return this ensemble with the next images: what each network returns, float64 [M, m, labels]."""
        stop = self.images + scores.shape[1]
        every = self.scores.copy()
        every[:, self.images : stop] = scores
        return replace(self, scores=every, images=stop)

    @property
    def complete(self) -> bool:
        """Whether every image is done."""
        return bool(self.images == len(self.targets))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(self.config["labels"])

    @property
    def positives(self) -> Ints:
        """int64 [labels], how many of the images that are done have each label."""
        return np.asarray(self.targets[: self.images].sum(0), np.int64)

    def ranked_by(self) -> list[Floats]:
        """Return what each row ranks images by, float64 [images, labels] each, of those that are done.

        A network alone ranks by its scores, which the sigmoid leaves in their order; several by the mean of their
        probabilities.
        """
        alone = self.scores[:, : self.images]
        sums = np.cumsum([self._probabilities(place) for place in range(self.count)], 0)
        return [*alone, *(sums[count - 1] / count for count in range(2, self.count + 1))]

    def _probabilities(self, place: int) -> Floats:
        scores = self.scores[place, : self.images]
        if self.config["networks"][place]["outputs"] == "independent":
            return scores
        return np.asarray(np.exp(-np.logaddexp(0, -scores)))  # the sigmoid, without an overflow

    @cached_property
    def average_precision(self) -> Floats:
        """float64 [R, labels], see `metrics.ranking`; NaN for a label that no image has."""
        truth = self.targets[: self.images]
        return np.stack([average_precision(truth, scores) for scores in self.ranked_by()])

    @property
    def mean_average_precision(self) -> Floats:
        """float64 [R], the mean over the labels that an image has; NaN where there is none."""
        return mean_over_labels(self.average_precision)

    def gain(self, draws: int = DRAWS, seed: int = SEED) -> Floats:
        """Return by how much the average precision of all together is above that of each row, and its 95 % interval.

        The interval is that of the percentiles of a paired bootstrap: images are drawn with replacement, the same ones
        for every row, and the difference is computed anew. Average precision is no mean over images, so that no formula
        for means gives its interval. A label that no image of a draw has is left out of that draw. Each row and label
        has its interval by itself; the last row, which is the ensemble, differs from itself by nothing.

        Args:
            draws: of the bootstrap.
            seed: of the draws; the same seed gives the same interval again.

        Returns:
            float64 [R, 1 + labels, 3]: (difference, lower end, upper end), first of the mean over labels, then of each;
            NaN for a label that no image has.

        Source: Efron and Tibshirani 1993, chapter 13, the percentile interval.
        """
        values = _differences(_with_mean(self.average_precision))
        truth = self.targets[: self.images]
        drawn = [_differences(_with_mean(each)) for each in self._drawn(truth, draws, seed)]
        low, high = _percentiles(np.concatenate(drawn, 1)) if drawn else np.full((2, *values.shape), np.nan)
        return np.stack([values, low, high], -1)

    def _drawn(self, truth: Mask, draws: int, seed: int) -> Iterator[Floats]:
        """Yield the average precisions of the next draws, [R, n, labels]."""
        if self.count > 1 and self.images > 1:  # every draw of a single image would be that image again
            yield from resampled_average_precision(truth, self.ranked_by(), draws, seed)

    @cached_property
    def gains(self) -> Floats:
        """What `gain` returns with its own number of draws and seed; zeros of a single network."""
        return np.zeros((1, 1 + len(self.labels), 3)) if self.count == 1 else self.gain()

    @cached_property
    def best(self) -> int:
        """The network with the highest mean average precision alone; the first of equal ones."""
        return int(np.nan_to_num(self.mean_average_precision[: self.count], nan=-1).argmax())

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {"targets": self.targets, "scores": self.scores}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, {"images": self.images}).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> LabelEnsemble:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            arrays: dict[str, Any] = {name: file.arrays[name] for name in ("targets", "scores")}
            return cls(config=file.config, sources=file.sources, **arrays, **file.state)

    def save_csv(self, path: Pathlike) -> None:
        """Write a table: for each row of the ensemble the mean over labels, then each label; in fractions."""
        write_csv(path, KIND, COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame(KIND, COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        values, gains = _with_mean(self.average_precision), self.gains
        labels, positives = ("", *self.labels), ("", *self.positives.tolist())
        for row, (name, count) in enumerate(zip(self.names, self.counts, strict=True)):
            for place, (label, having) in enumerate(zip(labels, positives, strict=True)):
                numbers = (float(number) for number in (values[row, place], *gains[row, place]))
                cells = ("" if np.isnan(number) or having == 0 else number for number in numbers)
                yield (name, count, self.images, label, having, *cells)

    def __repr__(self) -> str:
        unfinished = "" if self.complete else f" of {len(self.targets)}, unfinished"
        images = f"{counted(self.images, 'image')}{unfinished} with {counted(len(self.labels), 'label')}"
        lines = [f"Ensemble of {counted(self.count, 'network')}, {images}"]
        for name, precision in zip(self.names, self.mean_average_precision, strict=True):
            lines.append(f"  {name}: mean average precision {precision:.1%}")
        last = self.average_precision[-1]
        defined = [place for place in np.argsort(last, kind="stable").tolist() if np.isfinite(last[place])]
        lowest = ", ".join(f"{self.labels[place]} {last[place]:.1%}" for place in defined[:LOWEST])
        lines.append(f"  of {self.names[-1]}, the lowest labels: {lowest or 'none'}")
        if len(defined) < len(self.labels):
            lines.append(f"  {counted(len(self.labels) - len(defined), 'label')} of no image: left out of the mean")
        if self.count > 1:
            best = self.names[self.best]
            value, low, high = self.gains[self.best, 0].tolist()
            gain = in_points(value, low, high, signed=True)
            lines.append(f"  all against {best}, the best alone: mean average precision {gain}")
        return "\n".join(lines)


def mean_over_labels(precision: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where all is.

    >>> mean_over_labels(np.array([[0.5, np.nan, 1.0], [np.nan] * 3])).tolist()
    [0.75, nan]
    """
    defined = ~np.isnan(precision)
    count = defined.sum(-1)
    return np.asarray(np.where(defined, precision, 0).sum(-1) / np.where(count > 0, count, np.nan))


def _with_mean(precision: Floats) -> Floats:
    """Return average precisions [..., labels] with their mean before them, [..., 1 + labels]."""
    return np.concatenate([mean_over_labels(precision)[..., None], precision], -1)


def _differences(values: Floats) -> Floats:
    """Return by how much the last row is above each row, [R, ...]."""
    return np.asarray(values[-1] - values)


def _percentiles(drawn: Floats) -> Sequence[Floats]:
    """Return the ends of the interval, [R, 1 + labels] each, of differences [R, draws, 1 + labels] without NaN."""
    ends = np.full((2, drawn.shape[0], drawn.shape[2]), np.nan)
    some = ~np.isnan(drawn).all((0, 1))
    ends[:, :, some] = np.nanpercentile(drawn[:, :, some], [2.5, 97.5], axis=1)
    return list(ends)

"""Ensemble: where several networks, each alone and together, have the true class of each image; its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.intervals import paired_interval
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.ensembles.rows import RowsOfNetworks
from deconvviz.types import Floats, Ints, Mask, Pathlike
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    import pandas as pd

    from deconvviz.types import Pixels

KIND, SCHEMA = "ensemble", 1
TOP = 5  # an image counts as correct in the second error where its class is among the first five
COLUMNS = (
    "networks",
    "count",
    "images",
    "error",
    "error_top5",
    "log_loss",
    "gain",
    "gain_low",
    "gain_high",
    "gain_top5",
    "gain_top5_low",
    "gain_top5_high",
)


@dataclass(frozen=True, kw_only=True)
class Ensemble(RowsOfNetworks, Shown, drawn_by="draw_ensemble"):
    """How several networks classify some images, each alone and the first two, three, ... of them together.

    M networks have R = 2 M - 1 rows: first each network alone, then the mean of the probabilities of the first 2, 3,
    ..., M. The last row is the whole ensemble; of a single network it is that network.

    Attributes:
        config: the networks, the images and the settings, JSON values.
        sources: where networks and images came from, JSON values.
        ranks: int64 [R, n], how many classes each row finds more probable than the image's own, of equal ones those
            that come first; -1 where the image is not done yet.
        probabilities: float64 [R, n], what each row gives the image's own class; NaN where it is not done yet.
        images: number of images that are done, from the first on.

    >>> config = {"networks": [{"name": "a"}, {"name": "b"}], "outputs": 10}
    >>> ensemble = Ensemble(
    ...     config=config, sources={}, ranks=np.array([[0, 7, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0]]),
    ...     probabilities=np.full((3, 4), 0.5), images=4,
    ... )
    >>> ensemble.names, ensemble.error(), ensemble.error(5)
    (('a', 'b', 'all 2'), array([0.5 , 0.25, 0.  ]), array([0.25, 0.  , 0.  ]))
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    ranks: Ints
    probabilities: Floats
    images: int = 0

    @classmethod
    def empty(cls, config: dict[str, Any], sources: dict[str, Any], total: int) -> Ensemble:
        """Return an ensemble of which no image is done yet.

        Args:
            config: the networks, the images and the settings, JSON values.
            sources: where they came from, JSON values.
            total: number of images.
        """
        rows = 2 * len(config["networks"]) - 1
        ranks, probabilities = np.full((rows, total), -1, np.int64), np.full((rows, total), np.nan)
        return cls(config=config, sources=sources, ranks=ranks, probabilities=probabilities)

    def with_images(self, ranks: Ints, probabilities: Floats) -> Ensemble:
        """Return this ensemble with the next images: ranks int64 [R, m], probabilities float64 [R, m]."""
        stop = self.images + ranks.shape[1]
        every, of_class = self.ranks.copy(), self.probabilities.copy()
        every[:, self.images : stop], of_class[:, self.images : stop] = ranks, probabilities
        return replace(self, ranks=every, probabilities=of_class, images=stop)

    @property
    def complete(self) -> bool:
        """Whether every image is done."""
        return bool(self.images == self.ranks.shape[1])

    @property
    def top(self) -> int | None:
        """TOP where there are more classes than that; None where every class is among the first five."""
        return TOP if self.config["outputs"] > TOP else None

    def correct(self, first: int = 1) -> Mask:
        """Return bool [R, n]: whether the image's class is among the `first` most probable; of the images done."""
        ranks = self.ranks[:, : self.images]
        return np.asarray((ranks >= 0) & (ranks < first))

    def error(self, first: int = 1) -> Floats:
        """Return float64 [R], the share of the images whose class is not among the `first` most probable."""
        return np.asarray(1 - self.correct(first).sum(1) / max(self.images, 1))

    @property
    def log_loss(self) -> Floats:
        """float64 [R], the mean of -log p of the image's class, in nats; infinite where a row gives it 0."""
        with np.errstate(divide="ignore"):
            losses = -np.log(self.probabilities[:, : self.images])
        return np.asarray(losses.sum(1) / max(self.images, 1))

    def gain(self, first: int = 1) -> Floats:
        """Return float64 [R, 3]: the error of each row less that of the whole ensemble, and its 95 % interval.

        It is above zero where the ensemble is better. The interval is of the same images, each row by itself; the last
        row, which is the ensemble, differs from itself by nothing.
        """
        correct = self.correct(first)
        lost, gained = (correct[-1] & ~correct).sum(1), (~correct[-1] & correct).sum(1)
        drop = (lost - gained) / max(self.images, 1)
        differences = np.column_stack([drop, paired_interval(lost, gained, self.images)])
        differences[-1] = 0
        return differences

    @cached_property
    def best(self) -> int:
        """The network with the lowest error alone; of equal ones that with the lower log-loss."""
        return int(np.lexsort((self.log_loss[: self.count], self.error()[: self.count]))[0])

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {"ranks": self.ranks, "probabilities": self.probabilities}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, {"images": self.images}).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Ensemble:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            arrays: dict[str, Any] = {name: file.arrays[name] for name in ("ranks", "probabilities")}
            return cls(config=file.config, sources=file.sources, **arrays, **file.state)

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each network and each number of first ones; errors and gains in fractions."""
        write_csv(path, "ensemble", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("ensemble", COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        errors, losses, gains = self.error(), self.log_loss, self.gain()
        errors_5, gains_5 = (self.error(TOP), self.gain(TOP)) if self.top else (None, None)
        for row, (name, count) in enumerate(zip(self.names, self.counts, strict=True)):
            last = ("", "", "") if gains_5 is None else gains_5[row]
            error_5 = "" if errors_5 is None else errors_5[row]
            yield (name, count, self.images, errors[row], error_5, losses[row], *gains[row], *last)

    def __repr__(self) -> str:
        unfinished = "" if self.complete else f" of {self.ranks.shape[1]}, unfinished"
        lines = [f"Ensemble of {counted(self.count, 'network')}, {counted(self.images, 'image')}{unfinished}"]
        errors, top = self.error(), self.error(TOP)
        for row, name in enumerate(self.names):
            five = f", top-5 {top[row]:.1%}" if self.top else ""
            lines.append(f"  {name}: error {errors[row]:.1%}{five}, log-loss {self.log_loss[row]:.3g}")
        if self.count > 1:
            gain, low, high = self.gain()[self.best]
            best = self.names[self.best]
            lines.append(f"  all against {best}, the best alone: error {in_points(-gain, -high, -low, signed=True)}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsembleMaps(Shown, drawn_by="draw_ensemble_maps"):
    """Maps of the same class of some images by each network of an ensemble, and their mean.

    Attributes:
        method: that made the maps.
        columns: the names of the networks, then "mean".
        pictures: the images, uint8 [H, W, 3] each.
        maps: float64 [networks + 1, H, W] in 0..1 for each image; 0 where a network does not see the image.
        labels: the class that is explained of each image, and its probability in the ensemble.
        images: names of the images.
        layers: of each network, what its maps are of; none where a method needs none.
    """

    method: str
    columns: tuple[str, ...]
    pictures: tuple[Pixels, ...]
    maps: tuple[Floats, ...]
    labels: tuple[str, ...]
    images: tuple[str, ...]
    layers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        explained = ", ".join(f"{image}: {label}" for image, label in zip(self.images, self.labels, strict=True))
        return f"Maps of {', '.join(self.columns[:-1])} and their mean ({self.method}): {explained}"

"""Lesions: which images a network classifies incorrectly without a filter or a layer, and the statistics of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.intervals import NORMAL_95, paired_interval
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Mask, Pathlike
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "lesions", 1
WHOLE = -1  # stands in the place of a channel where all channels of a layer are silenced at once
SUMS = ("layer", "channel", "lost", "gained", "rise", "squares")  # arrays of the file, one value a lesion
STATE = ("right", "loss", "images", "total")  # numbers of the file


@dataclass(frozen=True, kw_only=True)
class Lesions(Shown, drawn_by="draw_lesions"):
    """How a trained network does without each filter, or without each layer: sums over images, and their statistics.

    T is the number of lesions. The sums grow image by image, so that an interrupted job resumes from them.

    Attributes:
        config: the network, the images and the settings, JSON values.
        sources: where the model and the images came from, JSON values.
        layer: int64 [T], the layer of each lesion, as an index into config["layers"].
        channel: int64 [T], the channel that is silenced; -1 where it is all of the layer's.
        lost: int64 [T], number of images that are classified correctly before the lesion only.
        gained: int64 [T], number of images that are classified correctly after the lesion only.
        rise: float64 [T], sum over the images of the rise of the log-loss, in nats.
        squares: float64 [T], sum over the images of the square of that rise.
        right: number of images that the intact network classifies correctly.
        loss: sum over the images of the intact network's log-loss, in nats.
        images: number of images that are done.
        total: number of images in all.
        means: layer -> float64 [channels], the value that replaces a silenced channel; empty where that is zero.

    >>> lesions = Lesions(
    ...     config={"layers": ["conv5"], "by": "filter", "how": "zero"}, sources={}, layer=np.array([0, 0]),
    ...     channel=np.array([0, 1]), lost=np.array([1, 4]), gained=np.array([1, 0]), rise=np.array([0.5, 3.0]),
    ...     squares=np.array([0.1, 1.2]), right=9, loss=2.0, images=10, total=10,
    ... )
    >>> lesions.drop, lesions.name(int(lesions.ranking[0]))
    (array([0. , 0.4]), 'conv5:1')
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    layer: Ints
    channel: Ints
    lost: Ints
    gained: Ints
    rise: Floats
    squares: Floats
    right: int = 0
    loss: float = 0.0
    images: int = 0
    total: int = 0
    means: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def empty(cls, config: dict[str, Any], sources: dict[str, Any], channels: Sequence[Ints], total: int) -> Lesions:
        """Return lesions of which no image is done yet.

        Args:
            config: the network, the images and the settings, JSON values.
            sources: where the model and the images came from, JSON values.
            channels: int64 for each layer of config["layers"], the channels to silence, or [-1] for all at once.
            total: number of images.
        """
        layer = np.repeat(np.arange(len(channels)), [len(of_layer) for of_layer in channels])
        counts, sums = np.zeros(len(layer), np.int64), np.zeros(len(layer))
        return cls(
            config=config,
            sources=sources,
            layer=layer,
            channel=np.concatenate(channels),
            lost=counts,
            gained=counts,
            rise=sums,
            squares=sums,
            total=total,
        )

    def with_images(self, before: Mask, loss_before: Floats, after: Mask, loss_after: Floats) -> Lesions:
        """Return these lesions with some more images added to the sums.

        Args:
            before: bool [n], whether the intact network classifies each image correctly.
            loss_before: float64 [n], the intact network's log-loss in nats.
            after: bool [n, T], the same after each lesion.
            loss_after: float64 [n, T], the same after each lesion.
        """
        rise = loss_after - loss_before[:, None]
        return replace(
            self,
            right=self.right + int(before.sum()),
            loss=self.loss + float(loss_before.sum()),
            lost=self.lost + (before[:, None] & ~after).sum(0),
            gained=self.gained + (~before[:, None] & after).sum(0),
            rise=self.rise + rise.sum(0),
            squares=self.squares + np.square(rise).sum(0),
            images=self.images + len(before),
        )

    @property
    def complete(self) -> bool:
        """Whether every image is done."""
        return self.images == self.total

    @property
    def accuracy(self) -> float:
        """Share of the images that the intact network classifies correctly."""
        return self.right / max(self.images, 1)

    @property
    def drop(self) -> Floats:
        """float64 [T], the loss of accuracy in fractions; negative where the network does better without."""
        return (self.lost - self.gained) / max(self.images, 1)

    @property
    def interval(self) -> Floats:
        """float64 [T, 2], the 95 % interval of each drop by itself; see `metrics.intervals.paired_interval`."""
        return paired_interval(self.lost, self.gained, self.images)

    @property
    def loss_rise(self) -> Floats:
        """float64 [T], the mean rise of the log-loss in nats."""
        return self.rise / max(self.images, 1)

    @property
    def loss_rise_error(self) -> Floats:
        """float64 [T], half the width of the mean rise's 95 % interval: 1.96 standard errors over the images.

        It is NaN where there are fewer than two images.
        """
        squares = np.maximum(self.squares - self.rise * self.loss_rise, 0)
        half: Floats = NORMAL_95 * np.sqrt(squares / ((self.images - 1) * self.images or np.nan))
        return half

    @property
    def ranking(self) -> Ints:
        """int64 [T], the lesions from the largest drop on.

        Of equal drops the one with the larger rise of the log-loss comes first, then the order is that of layers and
        channels.
        """
        return np.lexsort((self.channel, self.layer, -self.loss_rise, -self.drop))

    def name(self, lesion: int) -> str:
        """Return the name of a lesion: "layer:channel", or the layer's name where it is silenced as a whole."""
        layer, channel = self.config["layers"][self.layer[lesion]], int(self.channel[lesion])
        return str(layer) if channel == WHOLE else f"{layer}:{channel}"

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {name: getattr(self, name) for name in SUMS}
        arrays |= {f"means/{layer}": values for layer, values in self.means.items()}
        state = {name: getattr(self, name) for name in STATE}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Lesions:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        means = {name.removeprefix("means/"): a for name, a in file.arrays.items() if name.startswith("means/")}
        sums: dict[str, Any] = {name: array for name, array in file.arrays.items() if not name.startswith("means/")}
        with whole(path, KIND):
            return cls(config=file.config, sources=file.sources, means=means, **sums, **file.state)

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each lesion, in the order of the ranking; drops in fractions, losses in nats."""
        write_csv(path, "lesions", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("lesions", *self._table())

    def _table(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Return the columns of the table and its rows."""
        ranking, whole = self.ranking, self.channel == WHOLE
        loss_intact, rise = self.loss / max(self.images, 1), self.loss_rise
        low, high = self.interval.T
        columns: dict[str, Any] = {
            "layer": [self.config["layers"][n] for n in self.layer],
            "channel": ["" if w else int(c) for w, c in zip(whole, self.channel, strict=True)],
            "images": [self.images] * len(whole),
            "accuracy_intact": [self.accuracy] * len(whole),
            "accuracy": self.accuracy - self.drop,
            "drop": self.drop,
            "drop_low": low,
            "drop_high": high,
            "lost": self.lost,
            "gained": self.gained,
            "log_loss_intact": [loss_intact] * len(whole),
            "log_loss": loss_intact + rise,
            "log_loss_rise": rise,
            "log_loss_rise_95": self.loss_rise_error,
        }
        rows = ((rank, *(values[i] for values in columns.values())) for rank, i in enumerate(ranking, 1))
        return ("rank", *columns), rows

    def __repr__(self) -> str:
        units = "filters" if self.config["by"] == "filter" else "layers"
        unfinished = "" if self.complete else f" of {self.total}, unfinished"
        images = f"{counted(self.images, 'image')}{unfinished}, accuracy {self.accuracy:.1%}"
        lines = [f"Lesions of {len(self.drop)} {units} ({self.config['how']}), {images}"]
        for i in self.ranking[:5].tolist():
            (low, high), rise = self.interval[i], self.loss_rise[i]
            lines.append(f"  without {self.name(i)}: drop {in_points(self.drop[i], low, high)}, log-loss {rise:+.3g}")
        return "\n".join(lines)

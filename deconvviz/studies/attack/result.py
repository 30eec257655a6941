"""AttackStudy: what a network makes of attacked images, how far they were changed, and the statistics of that."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.metrics.intervals import NORMAL_95, share_interval, standard_error
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Array, Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "attack", 1
OF_IMAGES = ("own", "before", "probability_before")  # arrays [N], of the images
OF_BOTH = ("after", "probability_after", "target_probability", "pixels", "length", "largest")  # [E, N]
LEVELS = 255.0  # in which a change is told


@dataclass(frozen=True, kw_only=True)
class AttackStudy(Shown, drawn_by="draw_attack"):
    """N images, attacked with each of E epsilons.

    Of K of the images, `places`, the changes of the pixels are kept.

    Attributes:
        config: the network, the images, the method and the settings, JSON values; "epsilons" are the E epsilons.
        sources: where the model and the images came from, JSON values.
        names: names of the images.
        outputs: names of the network's outputs; empty where they are unknown.
        indices: int64 [N], the images of the dataset.
        own: int64 [N], the class that the network shall not find; -1 until the image is attacked.
        before: int64 [N], the class that it finds in the unchanged image.
        probability_before: float64 [N], the probability of `own` then.
        after: int64 [E, N], the class that it finds in the attacked image.
        probability_after: float64 [E, N], the probability of `own` then.
        target_probability: float64 [E, N], that of the target; of the class that is found where there is no target.
        pixels: int64 [E, N], how many pixels are changed.
        length: float64 [E, N], the Euclidean length of the change, in shares of the way from black to white.
        largest: float64 [E, N], the largest change of a pixel, likewise.
        places: int64 [K], the images whose changes are kept, from 0 to N - 1.
        noise: float16 [E, K, C, h, w], the change of each pixel, likewise.
        shown: int64 [S], the images of the figure, from 0 to K - 1.
        pictures: uint8 [S, h, w, 3], these images as figures show them.
        attacked: uint8 [E, S, h, w, 3], the same of the attacked ones.
        done: number of images that are attacked, the first ones.
        path: of the file; None where it is in memory only.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    indices: Ints
    own: Ints
    before: Ints
    probability_before: Floats
    after: Ints
    probability_after: Floats
    target_probability: Floats
    pixels: Ints
    length: Floats
    largest: Floats
    places: Ints
    noise: NDArray[np.float16]
    shown: Ints
    pictures: Pixels
    attacked: Pixels
    done: int = 0
    path: pathlib.Path | None = field(default=None, compare=False)

    @property
    def total(self) -> int:
        """Number of images to attack."""
        return len(self.indices)

    @property
    def complete(self) -> bool:
        """Whether every image is attacked."""
        return self.done == self.total

    @property
    def epsilons(self) -> tuple[float, ...]:
        """How far a pixel might go, as shares of the way from black to white."""
        return tuple(self.config["epsilons"])

    @property
    def target(self) -> int | None:
        """The class that the network shall find; None where any other one will do."""
        target = self.config["target"]
        return None if target is None else int(target)

    @property
    def attackable(self) -> Mask:
        """bool [N], whether an image is attacked, found to be of its own class before, and not of the target."""
        own_class = (self.before == self.own) & (np.arange(self.total) < self.done)
        return np.asarray(own_class if self.target is None else own_class & (self.own != self.target))

    @property
    def fooled(self) -> Mask:
        """bool [E, N], whether the network finds what the attack wants in an image that is attackable."""
        wanted = self.after != self.own if self.target is None else self.after == self.target
        return np.asarray(wanted & self.attackable)

    @property
    def accuracy(self) -> Floats:
        """float64 [E], share of the images in which the network finds their own class after the attack."""
        return np.asarray((self.after == self.own)[:, : self.done].sum(1) / max(self.done, 1))

    @property
    def accuracy_interval(self) -> Floats:
        """float64 [E, 2], its 95 % interval; see `metrics.intervals.share_interval`."""
        return share_interval((self.after == self.own)[:, : self.done].sum(1), self.done)

    @property
    def success(self) -> Floats:
        """float64 [E], share of the attackable images that fool the network; NaN where there is none."""
        return np.asarray(self.fooled.sum(1) / (self.attackable.sum() or np.nan))

    @property
    def success_interval(self) -> Floats:
        """float64 [E, 2], its 95 % interval."""
        return share_interval(self.fooled.sum(1), int(self.attackable.sum()))

    def class_name(self, output: Any) -> str:
        """Return the name of an output, or "class 7" where the names are unknown."""
        return self.outputs[int(output)] if self.outputs else class_label(int(output))

    def points(self, epsilon: int = -1) -> Mask:
        """Return which pixels are changed, bool [K, h, w], with one of the epsilons; of "sparse", the key points."""
        return np.asarray((self.noise[epsilon] != 0).any(1))

    def mean_over_fooled(self, values: Array) -> tuple[Floats, Floats]:
        """Return the mean of values [E, N] over the images that fool the network, and half its 95 % interval, [E]."""
        rows = [row[fooled].astype(np.float64) for row, fooled in zip(values, self.fooled, strict=True)]
        means = [row.mean() if len(row) else np.nan for row in rows]
        return np.array(means), NORMAL_95 * np.array([standard_error(row) for row in rows])

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        names = (*OF_IMAGES, *OF_BOTH, "indices", "places", "noise", "shown", "pictures", "attacked")
        state = {"done": self.done, "names": list(self.names), "outputs": list(self.outputs)}
        arrays = {name: getattr(self, name) for name in names}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> AttackStudy:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        arrays: dict[str, Any] = dict(file.arrays)
        with whole(path, KIND):
            lists: dict[str, Any] = {name: tuple(file.state[name]) for name in ("names", "outputs")}
            return cls(
                config=file.config,
                sources=file.sources,
                done=int(file.state["done"]),
                path=pathlib.Path(path),
                **lists,
                **arrays,
            )

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each epsilon; raises DataError where it cannot be written."""
        write_csv(path, "attack", *self._summary())

    def save_images_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each epsilon and image; raises DataError where it cannot be written."""
        write_csv(path, "attack of images", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each epsilon and image as a data frame; DataError where pandas is not installed."""
        return to_frame("attack of images", *self._table())

    def _summary(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Return the columns of the table of epsilons, and its rows."""
        pixels, pixels_error = self.mean_over_fooled(self.pixels / self.pixel_count)
        length, length_error = self.mean_over_fooled(self.length)
        columns: dict[str, Any] = {
            "epsilon": np.array(self.epsilons),
            "levels": np.array(self.epsilons) * LEVELS,
            "images": [self.done] * len(self.epsilons),
            "accuracy_before": [float(np.mean((self.before == self.own)[: self.done]))] * len(self.epsilons),
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_interval[:, 0],
            "accuracy_high": self.accuracy_interval[:, 1],
            "attackable": [int(self.attackable.sum())] * len(self.epsilons),
            "fooled": self.success,
            "fooled_low": self.success_interval[:, 0],
            "fooled_high": self.success_interval[:, 1],
            "pixels_changed": pixels,
            "pixels_changed_95": pixels_error,
            "length": length,
            "length_95": length_error,
        }
        rows = zip(*(_cells(values) for values in columns.values()), strict=True)
        return ("method", *columns), ((self.config["method"], *row) for row in rows)

    @property
    def pixel_count(self) -> int:
        """Number of pixels of an image."""
        height, width = self.noise.shape[-2:]
        return int(height * width)

    def _table(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Return the columns of the table of images, and its rows."""
        columns = (
            *("method", "epsilon", "image", "own_class", "class_before", "class_after", "fooled"),
            *("probability_before", "probability_after", "pixels_changed", "length", "largest"),
        )

        def rows() -> Iterator[tuple[Any, ...]]:
            fooled = self.fooled
            for number, epsilon in enumerate(self.epsilons):
                for image in range(self.done):
                    classes = (self.own[image], self.before[image], self.after[number, image])
                    yield (
                        self.config["method"],
                        epsilon,
                        self.names[image],
                        *(self.class_name(each) for each in classes),
                        int(fooled[number, image]),
                        float(self.probability_before[image]),
                        float(self.probability_after[number, image]),
                        int(self.pixels[number, image]),
                        float(self.length[number, image]),
                        float(self.largest[number, image]),
                    )

        return columns, rows()

    def __repr__(self) -> str:
        unfinished = "" if self.complete else f" of {self.total}, unfinished"
        right = float(np.mean((self.before == self.own)[: self.done])) if self.done else float("nan")
        target = "" if self.target is None else f" towards {self.class_name(self.target)}"
        lines = [
            f"{self.config['method']}{target} on {counted(self.done, 'image')}{unfinished}: accuracy {right:.1%} before"
        ]
        pixels, _ = self.mean_over_fooled(self.pixels)
        intervals = zip(self.success, self.success_interval, pixels, strict=True)
        for epsilon, accuracy, (share, (low, high), changed) in zip(
            self.epsilons, self.accuracy, intervals, strict=True
        ):
            count = "" if np.isnan(changed) else f", {changed:.0f} of {self.pixel_count} pixels changed"
            lines.append(
                f"  epsilon {LEVELS * epsilon:g}/255: accuracy {accuracy:.1%}, fooled {share:.1%} [{low:.1%}, "
                f"{high:.1%}] of {counted(int(self.attackable.sum()), 'image')}{count}"
            )
        return "\n".join(lines)


def _cells(values: Any) -> list[Any]:
    """Return a column as a table has it: what is not known is empty."""
    return ["" if isinstance(v, float) and np.isnan(v) else v for v in np.asarray(values).tolist()]

"""AttackStudy: what a network makes of attacked images, how far they were changed, and the statistics of that."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.metrics.intervals import NORMAL_95, share_interval, standard_error
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.attack.columns import of_epsilons, of_images
from deconvviz.studies.attack.fooled import MEASURES, Countered, FooledMaps, arrays_of, detection, split
from deconvviz.studies.attack.registry import LEVELS
from deconvviz.types import Array, Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "attack", 2  # 2: maps and countermeasures
OF_IMAGES = ("own", "before", "probability_before")  # arrays [N], of the images
OF_BOTH = ("after", "probability_after", "target_probability", "pixels", "length", "largest")  # [E, N]


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
        maps: of the interpreters that are fooled or watched; None without any.
        countered: what is found behind countermeasures, and the agreement of methods; None where neither is asked for.
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
    maps: FooledMaps | None = None
    countered: Countered | None = None
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
    def goal(self) -> str:
        """What is attacked, one of `choices.GOALS`."""
        return str(self.config.get("goal", "decision"))

    @property
    def fools(self) -> tuple[str, ...]:
        """Names of the I interpreters whose maps are known."""
        return tuple(self.config.get("fools", ()))

    @property
    def attackable(self) -> Mask:
        """bool [N], whether an image is attacked, found to be of its own class before, and not of the target."""
        own_class = (self.before == self.own) & (np.arange(self.total) < self.done)
        return np.asarray(own_class if self.target is None else own_class & (self.own != self.target))

    @property
    def fooled(self) -> Mask:
        """bool [E, N], whether the network finds what the attack wants in an image that is attackable.

        An attack on the explanation alone wants the image's own class.
        """
        return np.asarray(self._wanted(self.after) & self.attackable)

    def _wanted(self, found: Ints) -> Mask:
        """Return whether classes [E, N] that are found are what the attack wants."""
        if self.goal == "explanation":
            return np.asarray(found == self.own)
        return np.asarray(found != self.own if self.target is None else found == self.target)

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

    def similarity(self, plain: bool = False) -> tuple[Floats, Floats]:
        """Return the mean similarity of the maps after to those before, and half its 95 % interval.

        The means are over the images that are attackable and that both this attack and the one that does not care for
        maps bring where it wants them, so that both are compared on the same images.

        Args:
            plain: of the attack that does not care for maps.

        Returns:
            Two float64 [E, I, 4], by `fooled.MEASURES`; NaN where there is no such image.

        Raises:
            DataError: the study has no maps.
        """
        if self.maps is None:
            raise DataError("the study has no maps; attack with fools, such as cam")
        values = self.maps.plain_similarity if plain else self.maps.similarity
        # Of noise nothing is wanted but that the class stays; it is compared on all images that the attack fools.
        both = self.fooled & self._wanted(self.maps.plain_after) if self.goal == "both" else self.fooled
        means, halves = np.full(values.shape[:3], np.nan), np.full(values.shape[:3], np.nan)
        for epsilon, rows in enumerate(both):
            if rows.any():
                of_epsilon = values[epsilon][..., rows]
                means[epsilon] = of_epsilon.mean(2)
                halves[epsilon] = NORMAL_95 * np.apply_along_axis(standard_error, 2, of_epsilon)
        return means, halves

    @property
    def countermeasures(self) -> tuple[str, ...]:
        """The D countermeasures."""
        return tuple(self.config.get("countermeasures", ()))

    def accuracy_behind(self) -> tuple[Floats, Floats]:
        """Return the accuracy behind each countermeasure: of unchanged images [D], and of attacked ones [E, D]."""
        if self.countered is None:
            return np.zeros(0), np.zeros((len(self.epsilons), 0))
        own_classes, done = self.own[: self.done], slice(self.done)
        before, after = (
            (each[..., done] == own_classes).mean(-1) for each in (self.countered.before, self.countered.after)
        )
        return np.asarray(before), np.asarray(after)

    def agreement(self) -> tuple[Floats, Floats, Floats]:
        """Return how far explanation methods agree on the images that fool the network.

        Returns:
            Means over pairs of methods and images of the unchanged images and of the attacked ones, float64 [E] each;
            and [E], the area under the ROC curve of "attacked" told by a low agreement. NaN where nothing is known.
        """
        before, after, area = (np.full(len(self.epsilons), np.nan) for _ in range(3))
        if self.countered is not None and len(self.countered.agreement_before):
            means = self.countered.agreement_before.mean(0), self.countered.agreement_after.mean(1)
            for number, rows in enumerate(self.fooled):
                if rows.any():
                    pair = means[0][rows], means[1][number][rows]
                    before[number], after[number], area[number] = pair[0].mean(), pair[1].mean(), detection(*pair)
        return before, after, area

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        names = (*OF_IMAGES, *OF_BOTH, "indices", "places", "noise", "shown", "pictures", "attacked")
        state = {"done": self.done, "names": list(self.names), "outputs": list(self.outputs)}
        arrays = {name: getattr(self, name) for name in names}
        arrays |= arrays_of(self.maps, "maps") | arrays_of(self.countered, "countered")
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> AttackStudy:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            arrays = split(file.arrays)
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
        write_csv(path, "attack", *of_epsilons(self))

    def save_images_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each epsilon and image; raises DataError where it cannot be written."""
        write_csv(path, "attack of images", *of_images(self))

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each epsilon and image as a data frame; DataError where pandas is not installed."""
        return to_frame("attack of images", *of_images(self))

    @property
    def measured(self) -> str:
        """What `accuracy` is: that of the labels, or the share of the images in which the network decides as before."""
        return "accuracy" if self.config["away_from"] == "label" else "same decision"

    @property
    def pixel_count(self) -> int:
        """Number of pixels of an image."""
        height, width = self.noise.shape[-2:]
        return int(height * width)

    def __repr__(self) -> str:
        unfinished = "" if self.complete else f" of {self.total}, unfinished"
        right = float(np.mean((self.before == self.own)[: self.done])) if self.done else float("nan")
        target = "" if self.target is None else f" towards {self.class_name(self.target)}"
        verb = "kept" if self.goal == "explanation" else "fooled"
        lines = [
            f"{self.config['method']}{target}{self._aimed} on {counted(self.done, 'image')}{unfinished}: "
            f"{self.measured} {right:.1%} before"
        ]
        pixels, _ = self.mean_over_fooled(self.pixels)
        intervals = zip(self.success, self.success_interval, pixels, strict=True)
        for epsilon, accuracy, (share, (low, high), changed) in zip(
            self.epsilons, self.accuracy, intervals, strict=True
        ):
            count = "" if np.isnan(changed) else f", {changed:.0f} of {self.pixel_count} pixels changed"
            lines.append(
                f"  epsilon {LEVELS * epsilon:g}/255: {self.measured} {accuracy:.1%}, {verb} {share:.1%} [{low:.1%}, "
                f"{high:.1%}] of {counted(int(self.attackable.sum()), 'image')}{count}"
            )
        return "\n".join([*lines, *self._told()])

    @property
    def shown_change(self) -> str:
        """What a picture of the change shows, in words: of colours their mean."""
        return "the mean over the colours" if self.noise.shape[2] > 1 else "that of each pixel"

    @property
    def _aimed(self) -> str:
        """What is done to explanations, in words."""
        if self.maps is None:
            return ""
        names, edges = ", ".join(self.fools), self.config["edges"]
        verb = {"both": "fooling", "explanation": "moving the maps of", "decision": "watching"}[self.goal]
        return f" {verb} {names}" + ("" if edges == "none" else f" by edges ({edges})")

    def _told(self) -> list[str]:
        """Return the lines of the largest epsilon that are about maps and countermeasures."""
        lines = []
        if self.maps is not None:
            means, plain = self.similarity()[0][-1], self.similarity(True)[0][-1]
            other = "plain pgd" if self.goal == "both" else "noise"
            fooled = self.fools if np.isfinite(means).any() else ()
            if not fooled:
                lines.append("  no image was fooled, and maps are compared on those that were")
            for number, name in enumerate(fooled):
                pairs = zip(MEASURES, means[number], plain[number], strict=True)
                similarities = ", ".join(
                    f"{measure} {after:.3f} ({of_plain:.3f})" for measure, after, of_plain in pairs
                )
                lines.append(f"  map of {name} against the one before ({other} in brackets): {similarities}")
        before, after = self.accuracy_behind()
        for number, name in enumerate(self.countermeasures):
            lines.append(f"  behind {name}: accuracy {before[number]:.1%} before, {after[-1, number]:.1%} attacked")
        agree = self.agreement()
        if not np.isnan(agree[2][-1]):
            lines.append(
                f"  methods agree by {agree[0][-1]:.2f} before, {agree[1][-1]:.2f} attacked; area under the ROC curve "
                f"{agree[2][-1]:.2f}"
            )
        return lines

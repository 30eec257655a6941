"""MapsUnderAttack: how far the maps of methods move on attacked images, beside random noise of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.metrics.intervals import NORMAL_95, share_interval, standard_error
from deconvviz.metrics.movement import MOVES
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.results import Result, of_group, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.attack.registry import LEVELS
from deconvviz.types import Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "maps under attack", 1
CASES = ("attacked", "noise", "new_class")
"""What the map of the own class of the unchanged image is compared with: that of the same class of the attacked image,
the same with random noise in the place of the attack, and the map of the class that is found in the attacked image."""
SHOWN_MOVE = "spearman"  # in figures and in the table of means, where one measure is shown
GROUPS = ("values", "indices", "own", "after", "fooled", "pictures", "maps")


class Estimate(NamedTuple):
    """A mean over images.

    Attributes:
        mean: NaN where there is no image.
        error: half its 95 % interval, 1.96 standard errors; NaN where there are fewer than two images.
    """

    mean: float
    error: float


@dataclass(frozen=True, kw_only=True)
class MapsUnderAttack(Shown, drawn_by="draw_maps_under_attack"):
    """How far the maps of M methods move under A attacks.

    An attack has images of its own: those whose changes its file keeps and whose own class was found before. Arrays are
    by attack, or by "attack/method"; N is the number of images of the attack.

    Attributes:
        config: the network, the images, the methods and the attacks; JSON values.
        sources: where model and images came from, and the versions; JSON values.
        methods: names of the methods, in their order.
        names: attack -> names of its images.
        outputs: names of the network's outputs; empty where they are unknown.
        values: "attack/method" -> float64 [N, 3, 5], by CASES and MOVES how far the map moved; NaN until the image is
            measured, and in the case "new_class" where the class is the same.
        indices: attack -> int64 [N], the images of the dataset.
        own: attack -> int64 [N], the class that the maps explain, which the network finds in the unchanged image.
        after: attack -> int64 [N], the class that it finds in the attacked image.
        fooled: attack -> bool [N], whether the attack got the class that it wanted.
        pictures: attack -> uint8 [n, 2, h, w, 3], the first few images, unchanged and attacked.
        maps: "attack/method" -> float32 [n, 2, h, w] in 0..1, their maps of the own class.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    methods: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...] = ()
    values: dict[str, Floats] = field(default_factory=dict)
    indices: dict[str, Ints] = field(default_factory=dict)
    own: dict[str, Ints] = field(default_factory=dict)
    after: dict[str, Ints] = field(default_factory=dict)
    fooled: dict[str, Mask] = field(default_factory=dict)
    pictures: dict[str, Pixels] = field(default_factory=dict)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks."""
        return tuple(self.names)

    @property
    def complete(self) -> bool:
        """Whether every method has explained the images of every attack."""
        return all(self.measured(attack, method).all() for attack in self.attacks for method in self.methods)

    def measured(self, attack: str, method: str) -> Mask:
        """Return which images of an attack a method has explained, bool [N]."""
        return np.asarray(~np.isnan(self.values[f"{attack}/{method}"][:, 0, 0]))

    def moved(self, attack: str, method: str, case: str = "attacked", move: str = SHOWN_MOVE) -> Floats:
        """Return how far the map of each image moved, float64 [N]; see CASES and MOVES."""
        return np.asarray(self.values[f"{attack}/{method}"][:, CASES.index(case), MOVES.index(move)])

    def estimate(self, attack: str, method: str, case: str = "attacked", move: str = SHOWN_MOVE) -> Estimate:
        """Return the mean over the images with half its 95 % interval."""
        return _estimate(self.moved(attack, method, case, move))

    def beyond_noise(self, attack: str, method: str, move: str = SHOWN_MOVE) -> Estimate:
        """Return how much farther than under noise the map of the same image moved: the mean of the differences."""
        cases = (self.moved(attack, method, case, move) for case in CASES[:2])
        return _estimate(np.subtract(*cases))

    def attacked_for(self, attack: str) -> str:
        """Return what was attacked: "decision", or the names of the methods whose maps the attack was to change."""
        config = self._attack_config(attack)
        watched = config.get("goal") == "decision"  # then maps were measured, and the attack did not heed them
        return "decision" if watched else ", ".join(config.get("fools", ())) or "decision"

    def epsilon(self, attack: str) -> float:
        """Return how far a pixel might go, as a share of the way from black to white."""
        return float(self._attack_config(attack)["epsilons"][-1])

    def attack_words(self, attack: str) -> str:
        """Return what an attack is, such as "pgd at 2/255, on the decision"."""
        method = self._attack_config(attack)["method"]
        what = self.attacked_for(attack)
        what = f"on the {what}" if what == "decision" else f"on the maps of {what}"
        return f"{method} at {LEVELS * self.epsilon(attack):.3g}/255, {what}"

    def _attack_config(self, attack: str) -> dict[str, Any]:
        config: dict[str, Any] = self.config["attacks"][attack]["config"]
        return config

    def class_name(self, output: Any) -> str:
        """Return the name of an output, or "class 7" where the names are unknown."""
        return self.outputs[int(output)] if self.outputs else class_label(int(output))

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays = {f"{group}/{name}": array for group in GROUPS for name, array in getattr(self, group).items()}
        state: dict[str, Any] = {"methods": list(self.methods), "outputs": list(self.outputs)}
        state |= {"attacks": list(self.attacks), "names": [list(names) for names in self.names.values()]}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> MapsUnderAttack:
        """Read what `save` wrote; raises DataError where the file is missing, damaged or of another kind."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            groups: dict[str, Any] = {group: of_group(file.arrays, group) for group in GROUPS}
            named = zip(file.state["attacks"], file.state["names"], strict=True)
            lists: dict[str, Any] = {name: tuple(file.state[name]) for name in ("methods", "outputs")}
            names = {attack: tuple(names) for attack, names in named}
        return cls(config=file.config, sources=file.sources, names=names, **lists, **groups)

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each attack and method; raises DataError where it cannot be written."""
        parts = (*CASES, "beyond_noise")
        columns = [f"{move}_{part}{end}" for move in MOVES for part in parts for end in ("", "_95")]
        head = ("attack", "attacked_for", "epsilon", "method", "images", "fooled", "fooled_low", "fooled_high")
        rows = (self._row(attack, method) for attack in self.attacks for method in self.methods)
        write_csv(path, "maps under attack", (*head, *columns), rows)

    def _row(self, attack: str, method: str) -> tuple[Any, ...]:
        count, fooled = int(self.measured(attack, method).sum()), self.fooled[attack]
        numbers: list[float] = [float(fooled.mean()), *share_interval(np.array(fooled.sum()), len(fooled)).tolist()]
        for move in MOVES:
            for case in CASES:
                numbers += self.estimate(attack, method, case, move)
            numbers += self.beyond_noise(attack, method, move)
        about = (attack, self.attacked_for(attack), self.epsilon(attack), method, count)
        return *about, *("" if np.isnan(number) else number for number in numbers)

    def save_images_csv(self, path: Pathlike) -> None:
        """Write a row for each attack, method and image; raises DataError where it cannot be written."""
        write_csv(path, "maps under attack of images", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each attack, method and image as a data frame; DataError where pandas is not installed."""
        return to_frame("maps under attack of images", *self._table())

    def _table(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Return the columns of the table of images, and its rows."""
        columns = [f"{move}_{case}" for move in MOVES for case in CASES]
        head = ("attack", "method", "image", "own_class", "class_after", "fooled", *columns)

        def rows() -> Iterator[tuple[Any, ...]]:
            for attack in self.attacks:
                for method in self.methods:
                    for place, name in enumerate(self.names[attack]):
                        numbers = self.values[f"{attack}/{method}"][place].T.ravel()
                        yield (
                            *(attack, method, name),
                            *(self.class_name(each[attack][place]) for each in (self.own, self.after)),
                            int(self.fooled[attack][place]),
                            *("" if np.isnan(number) else float(number) for number in numbers),
                        )

        return head, rows()

    def columns(self, method: str) -> dict[str, Estimate]:
        """Return a method's columns for the table of an evaluation: "moved_ATTACK" -> how far its map moved."""
        return {f"moved_{attack}": self.estimate(attack, method) for attack in self.attacks}

    def __repr__(self) -> str:
        lines = []
        for attack in self.attacks:
            count = counted(len(self.names[attack]), "image")
            lines.append(f"{attack}: {self.attack_words(attack)}; {count}, {self.fooled[attack].mean():.0%} fooled")
            lines.append(f"  {'1 - rank correlation':20s}  {'attacked':>15s}  {'noise':>15s}  {'beyond noise':>15s}")
            for method in self.methods:
                cells = [self.estimate(attack, method, case) for case in CASES[:2]]
                cells.append(self.beyond_noise(attack, method))
                lines.append("  ".join([f"  {method:20s}", *(f"{in_words(cell):>15s}" for cell in cells)]))
        return "\n".join(lines)


def in_words(estimate: Estimate, decimals: int = 2) -> str:
    """Return a mean with half its interval.

    >>> in_words(Estimate(0.314, 0.02)), in_words(Estimate(0.314, float("nan")))
    ('0.31 ± 0.02', '0.31')
    """
    mean, error = (f"{number:.{decimals}f}" for number in estimate)
    return mean if np.isnan(estimate.error) else f"{mean} ± {error}"


def _estimate(values: Floats) -> Estimate:
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(known.mean()), NORMAL_95 * standard_error(known))

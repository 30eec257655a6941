"""LatentViews: what the codes, directions, axes and units of a generator change in its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deconvviz.notebook import Shown
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv, write_tables
from deconvviz.studies.latent.tables import DIRECTIONS, TABLES, direction_rows
from deconvviz.types import Array, Floats, Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "latent", 1
Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """What single places of z change; H, W and C are those of the images.

    Attributes:
        change: float64 [d], mean absolute change of a pixel, in 0..1, when one place goes from -reach to reach.
        values: float64 [S], the values of a swept place.
        places: int64 [P], the places that are drawn, which are continuous codes or those that change most.
        images: uint8 [P, S, H, W, C], all from one sample.
        categories: uint8 [K, R, most, H, W, C], for each categorical code and each of R samples the image for each
            category; black behind the last one of a code with fewer.
        sizes: int64 [K], how many categories each code has.
        counts: int64 [K, most, classes], how often the scorer gives each class to images of a category.
        information: float64 [K], mutual information of category and class in nats.
        chance: float64 [K], the 95 % quantile of it with the classes permuted.
    """

    change: Floats
    values: Floats
    places: Ints
    images: Pictures
    categories: Pictures
    sizes: Ints
    counts: Ints
    information: Floats
    chance: Floats


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Directions of A scores; the first axis of walks is 0 for the directions themselves, 1 for the conditional ones.

    Attributes:
        names: of the scores.
        vectors: float64 [A, d], of length 1.
        conditional: float64 [A, d], free of the other directions, of length 1; zeros where nothing is left.
        accuracy: float64 [A], of the classifier of high and low samples on others, in 0..1.
        deviation: float64 [A], of each score over the samples.
        steps: float64 [S], how far along a direction.
        images: uint8 [2, A, R, S, H, W, C], of R samples.
        scores: float64 [2, A, R, S, A], the scores of these images.
        monotonic: float64 [2, A], mean rank correlation of its score with the step, -1..1.
    """

    names: tuple[str, ...]
    vectors: Floats
    conditional: Floats
    accuracy: Floats
    deviation: Floats
    steps: Floats
    images: Pictures
    scores: Floats
    monotonic: Floats

    @property
    def cosines(self) -> Floats:
        """float64 [A, A], between the directions."""
        return np.asarray(self.vectors @ self.vectors.T)

    @property
    def moved(self) -> Floats:
        """float64 [2, A, A]: how much each score rises from end to end of a walk, in deviations over the samples."""
        return np.asarray((self.scores[:, :, :, -1] - self.scores[:, :, :, 0]).mean(2) / self.deviation)


@dataclass(frozen=True, kw_only=True)
class LayerAxes:
    """Principal axes of a layer, as directions of z.

    Attributes:
        layer: its name.
        vectors: float64 [p, d], of length 1.
        explained: float64 [p], share of the layer's variance along each.
        linear: float64 [p], share of the variance along it that a linear function of z explains.
        steps: float64 [S], how far along an axis.
        images: uint8 [p, S, H, W, C], all from one sample.
    """

    layer: str
    vectors: Floats
    explained: Floats
    linear: Floats
    steps: Floats
    images: Pictures


@dataclass(frozen=True, kw_only=True)
class Units:
    """The U units of a layer, and M parts of the images.

    Attributes:
        layer: its name.
        parts: names of the parts that a segmenter finds; empty where there is none.
        iou: float64 [U, M], of where a unit fires and where the part is, on images that did not choose the threshold.
        chance: float64 [M], the largest IoU of any unit with the part in another image.
        change: float64 [U], mean absolute change of a pixel in 0..1 when the unit is 0.
        top_values: float32 [U, 9], the largest activities, the largest first.
        top_samples: int64 [U, 9], in which samples.
        chosen: int64 [E], units that were switched off and on: those with the largest IoU, or change.
        levels: float64 [E], the value that counts as on.
        removed: float64 [E, M, 3], what of a part's area goes when the unit is 0, in shares of the image: mean, and
            the ends of its 95 % interval.
        inserted: float64 [E, M, 3], how much more there is with the unit on everywhere than with it off, likewise.
        images: uint8 [E, 9, H, W, C], the images in which it is most active.
        edited: uint8 [E, n, 3, H, W, C], the first of them as they are, with the unit off, and with it on.
    """

    layer: str
    parts: tuple[str, ...]
    iou: Floats
    chance: Floats
    change: Floats
    top_values: NDArray[np.float32]
    top_samples: Ints
    chosen: Ints
    levels: Floats
    removed: Floats
    inserted: Floats
    images: Pictures
    edited: Pictures

    def name(self, unit: int) -> str:
        """Return the part that a unit fires on best; "" where it does so no better than chance."""
        if not self.parts:
            return ""
        best = int(self.iou[unit].argmax())
        return self.parts[best] if self.iou[unit, best] > self.chance[best] else ""


@dataclass(frozen=True, kw_only=True)
class LatentViews(Shown, drawn_by="draw_latent"):
    """What is known of a generator.

    Attributes:
        name: of the generator.
        size: d, the length of z.
        samples: how many were drawn.
        first: uint8 [n, H, W, C], images of the first samples.
        sweeps: of single places of z.
        directions: of scores; None without a scorer.
        axes: of a layer.
        units: of a layer.
        classes: names of the scorer's scores.
        skipped: view -> why it is not there.
        config: the settings, JSON values.
        sources: where the models came from, JSON values.
    """

    name: str
    size: int
    samples: int
    first: Pictures
    sweeps: Sweeps
    directions: Directions | None
    axes: LayerAxes
    units: Units | None
    classes: tuple[str, ...]
    skipped: Mapping[str, str]
    config: Mapping[str, Any]
    sources: Mapping[str, Any]

    def save(self, path: Pathlike) -> None:
        """Write everything to an HDF5 file; raises DataError where it cannot be written."""
        parts = {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}
        arrays: dict[str, Array] = {"first": self.first}
        state: dict[str, Any] = {name: getattr(self, name) for name in ("name", "size", "samples", "classes")}
        state["skipped"] = dict(self.skipped)
        for name, part in parts.items():
            values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
            arrays |= {f"{name}/{key}": value for key, value in values.items() if isinstance(value, np.ndarray)}
            state[f"{name}_named"] = {key: v for key, v in values.items() if not isinstance(v, np.ndarray)}
        Result(KIND, SCHEMA, dict(self.config), dict(self.sources), arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> LatentViews:
        """Read a file that `save` wrote; raises DataError where it is no such file."""
        result = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            state = result.state
            parts: dict[str, Any] = {name: _part(kind, name, result) for name, kind in PARTS.items()}
            return cls(
                name=state["name"],
                size=state["size"],
                samples=state["samples"],
                first=result.arrays["first"],
                **parts,
                classes=tuple(state["classes"]),
                skipped=state["skipped"],
                config=result.config,
                sources=result.sources,
            )

    def save_csv(self, path: Pathlike) -> None:
        """Write how each score moves along each direction as a table; DataError where it cannot be written."""
        write_csv(path, "latent directions", DIRECTIONS, direction_rows(self))

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("latent directions", DIRECTIONS, direction_rows(self))

    def save_tables(self, folder: Pathlike) -> None:
        """Write all tables, `tables.TABLES`, into a folder that exists; DataError where one cannot be written."""
        write_tables(folder, TABLES, self)

    def __repr__(self) -> str:
        height, width = self.first.shape[1:3]
        lines = [
            f"<LatentViews of {self.name}: z of {self.size} numbers, images of {width} x {height} px, "
            f"{counted(self.samples, 'sample')}"
        ]
        lines += [f"  {words}" for words in summary(self)]
        lines += [f"  no {view}: {why}" for view, why in self.skipped.items()]
        return "\n".join(lines) + ">"


def summary(views: LatentViews) -> Iterator[str]:
    """Yield what was found, a sentence each."""
    for number, (information, chance) in enumerate(
        zip(views.sweeps.information, views.sweeps.chance, strict=True) if views.classes else ()
    ):
        yield f"categorical code {number}: {information:.3f} nats shared with the class, by chance up to {chance:.3f}"
    if views.directions is not None:
        for n, name in enumerate(views.directions.names):
            accuracy, (plain, free) = views.directions.accuracy[n], views.directions.monotonic[:, n]
            yield (
                f"direction {name}: high and low samples told apart {100 * accuracy:.0f} %, its score rises with rank "
                f"correlation {plain:.2f}, {free:.2f} free of the others"
            )
    yield f"axes of layer {views.axes.layer}: {100 * views.axes.explained.sum():.0f} % of its variance"
    if views.units is not None:
        for n, unit in enumerate(views.units.chosen.tolist()):
            name = views.units.name(unit)
            if name:
                part = views.units.parts.index(name)
                mean, low, high = 100 * views.units.removed[n, part]
                yield (
                    f"unit {unit} of layer {views.units.layer}: {name}, IoU {views.units.iou[unit, part]:.2f}; "
                    f"without it the area of {name} falls by {mean:.1f} % of the image ({low:.1f} to {high:.1f})"
                )


PARTS: Mapping[str, type[Any]] = {"sweeps": Sweeps, "directions": Directions, "axes": LayerAxes, "units": Units}
Part = TypeVar("Part")


def _part(kind: type[Part], name: str, result: Result) -> Part | None:
    """Return a part of the views from a file; None where it has none."""
    if f"{name}_named" not in result.state:
        return None
    fields_given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in result.state[f"{name}_named"].items()
    }
    start = f"{name}/"
    fields_given |= {key.removeprefix(start): value for key, value in result.arrays.items() if key.startswith(start)}
    return kind(**fields_given)

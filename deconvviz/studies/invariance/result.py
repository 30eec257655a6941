"""What `invariance` measures: distances and probabilities as they were measured, and the scores made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.transforms import moving
from deconvviz.errors import LayerNotFound, nearest
from deconvviz.notebook import Shown
from deconvviz.results.tables import rows_of, to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000  # bootstrap samples of the images


@dataclass(frozen=True, kw_only=True)
class Score:
    """How invariant a layer is under one kind of transform.

    Attributes:
        kind: of the transform.
        layer: its name.
        depth: its number among the measured layers, 1 for the first.
        score: from 0 (transformed images are as far from their originals as other images are) to 1 (nothing changes).
        low: lower end of the score's 95 % interval over the images.
        high: upper end of that interval.
        mean_distance: the mean normalised distance: the area under the mean curve, as a share of the steps' range.
    """

    kind: str
    layer: str
    depth: int
    score: float
    low: float
    high: float
    mean_distance: float


@dataclass(frozen=True, kw_only=True)
class FilterDistances:
    """How far the values of a layer's C filters move; a filter's value is the maximum of its map.

    Attributes:
        moved: kind -> float64 [N, C], how far each image's value moves, as a mean over the steps that move anything.
        apart: float64 [N, C], how far each image's value is from the values for other images, as a mean over these.
    """

    moved: dict[str, Floats]
    apart: Floats


@dataclass(frozen=True, kw_only=True)
class Invariance(Shown, drawn_by="draw_invariance"):
    """How the features of N images in L layers, and the probability of one class, change under transforms.

    Attributes:
        config: settings of the run, with the fingerprints of network and images.
        layers: names of the L layers.
        images: names of the N images.
        targets: int64 [N], the class whose probability is followed, an index of the output.
        steps: kind -> float64 [T], its steps, ascending, in the kind's unit.
        moved: kind -> float64 [N, T, L], the Euclidean distance ||f(Tx) - f(x)||.
        norms: float64 [N, L], ||f(x)||.
        apart: float64 [N, L], the mean of ||f(x') - f(x)|| over other images x'; NaN where there is one image only.
        probability: kind -> float64 [N, T], of the target in the transformed images.
        untouched: float64 [N], the target's probability in the images themselves.
        units: layer -> the distances of its filters, for the layers that were given as `units`.
    """

    config: dict[str, Any]
    layers: tuple[str, ...]
    images: tuple[str, ...]
    targets: Ints
    steps: dict[str, Floats]
    moved: dict[str, Floats]
    norms: Floats
    apart: Floats
    probability: dict[str, Floats]
    untouched: Floats
    units: dict[str, FilterDistances]

    @classmethod
    def blank(
        cls,
        *,
        config: dict[str, Any],
        layers: Sequence[str],
        images: Sequence[str],
        steps: dict[str, Floats],
        units: Mapping[str, int],
    ) -> Invariance:
        """Return a result of zeros, whose arrays are then filled; a step that moves nothing keeps its distance of 0.

        Args:
            config: settings of the run.
            layers: names of the layers.
            images: names of the images.
            steps: kind -> its steps.
            units: layer -> its number of filters.
        """
        n = len(images)
        return cls(
            config=config,
            layers=tuple(layers),
            images=tuple(images),
            targets=np.zeros(n, np.int64),
            steps=steps,
            moved={kind: np.zeros((n, len(values), len(layers))) for kind, values in steps.items()},
            norms=np.zeros((n, len(layers))),
            apart=np.zeros((n, len(layers))),
            probability={kind: np.zeros((n, len(values))) for kind, values in steps.items()},
            untouched=np.zeros(n),
            units={
                name: FilterDistances(moved={kind: np.zeros((n, count)) for kind in steps}, apart=np.zeros((n, count)))
                for name, count in units.items()
            },
        )

    # --- numbers ---

    def distance(self, kind: str) -> Floats:
        """Return ||f(Tx) - f(x)|| / ||f(x)||, [N, T, L]: 0 where both are 0, NaN where f(x) alone is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance: Floats = self.moved[kind] / self.norms[:, None]
        distance[self.moved[kind] == 0] = 0
        distance[np.isinf(distance)] = np.nan
        return distance

    def relative(self, kind: str) -> Floats:
        """Return distances in units of chance, [N, T, L]: 1 is as far as the images are from each other on average."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.moved[kind] / self.apart.mean(0))

    def scores(self, kind: str, seed: int = 0) -> tuple[Score, ...]:
        """Return each layer's score: 1 - mean ||f(Tx) - f(x)|| / mean ||f(x') - f(x)||, clipped to 0..1.

        The means are over the images, the steps that move anything, and the other images x'. The interval is that of
        RESAMPLES bootstrap samples of the images. A score is NaN where a layer tells no two images apart, or where
        there is one image only. The score and its interval are derived by this package.

        Args:
            kind: of the transform.
            seed: of the bootstrap samples.
        """
        moved = self.moved[kind][:, moving(kind, self.steps[kind])].mean(1)
        count = len(moved)
        samples = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        score, sampled = _scores(moved, self.apart), _scores(moved, self.apart, samples)
        low, high = np.percentile(sampled, (2.5, 97.5), axis=0)
        mean_distance = under_curve(self.steps[kind], self.distance(kind).mean(0).T)
        return tuple(
            Score(
                kind=kind,
                layer=name,
                depth=n + 1,
                score=float(score[n]),
                low=float(low[n]),
                high=float(high[n]),
                mean_distance=float(mean_distance[n]),
            )
            for n, name in enumerate(self.layers)
        )

    def symmetry(self, layer: str | None = None) -> Floats:
        """Return the quarter-turn index of each image's curve under rotation, [N]; see `quarter_turns`.

        Args:
            layer: takes the curve of 1 - the relative distance in that layer; None takes that of the probability.

        Raises:
            LayerNotFound: the layer was not measured.
        """
        degrees = self.steps["rotation"]
        if layer is None:
            return quarter_turns(degrees, self.probability["rotation"])
        return quarter_turns(degrees, 1 - self.relative("rotation")[..., self.index_of(layer)])

    def per_unit(self, layer: str) -> Floats:
        """Return each filter's score, [kinds, C]: the formula of `scores`, where f is the maximum of the filter's map.

        The maximum is taken because a map moves with the picture: its distance would tell how fine the map is, and not
        whether the filter still finds what it looks for. A filter whose value is the same for all images (a dead one)
        has the score NaN.

        Raises:
            LayerNotFound: the filters of that layer were not measured.
        """
        if layer not in self.units:
            measured = nearest(layer, self.units) if self.units else "no layer was given as one of `units`"
            raise LayerNotFound(f"no filters of {layer!r} were measured; {measured}; name it in units=")
        filters = self.units[layer]
        return np.stack([_scores(filters.moved[kind], filters.apart) for kind in self.steps])

    def ranked(self, layer: str, kind: str, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the `count` most and the `count` least invariant filters of a layer; filters without score are left
        out."""
        scores = self.per_unit(layer)[list(self.steps).index(kind)]
        order = np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]
        return order[:count], order[::-1][:count]

    def index_of(self, layer: str) -> int:
        """Return the index of a layer in `layers`; raises LayerNotFound for a layer that was not measured."""
        if layer not in self.layers:
            raise LayerNotFound(f"layer {layer!r} was not measured; {nearest(layer, self.layers)}")
        return self.layers.index(layer)

    # --- tables ---

    def table(self, kind: str, names: Sequence[str] = ()) -> dict[str, Sequence[Any]]:
        """Return the columns of the table of one kind, by name: a row for each image, step and layer.

        Args:
            kind: of the transform.
            names: of the outputs, which give the column "class"; it is empty where they are unknown.
        """
        distance = self.distance(kind)
        class_names = np.array([names[target] if names else "" for target in self.targets], object)
        columns = {
            "kind": np.array(kind),
            "step": self.steps[kind][:, None],
            "image": np.array(self.images, object)[:, None, None],
            "output": self.targets[:, None, None],
            "class": class_names[:, None, None],
            "probability": self.probability[kind][..., None],
            "layer": np.array(self.layers, object),
            "distance": distance,
            "relative_distance": self.relative(kind),
        }
        return {name: np.broadcast_to(values, distance.shape).ravel().tolist() for name, values in columns.items()}

    def save_csv(self, path: Pathlike, names: Sequence[str] = ()) -> None:
        """Write every value: a row for each kind, image, step and layer; `names` are those of the outputs."""
        write_csv(path, "invariance", *self._table(names))

    def to_frame(self, names: Sequence[str] = ()) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("invariance", *self._table(names))

    def _table(self, names: Sequence[str]) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Return the columns of the table of all kinds, and its rows."""
        tables = {kind: self.table(kind, names) for kind in self.steps}
        return list(next(iter(tables.values()))), (row for table in tables.values() for row in rows_of(table))

    def save_scores(self, path: Pathlike) -> None:
        """Write the scores: a row for each kind and layer."""
        scores = [score for kind in self.steps for score in self.scores(kind)]
        columns = [field.name for field in dataclasses.fields(Score)]
        write_csv(path, "invariance scores", columns, map(dataclasses.astuple, scores))

    def save_units(self, path: Pathlike, layer: str) -> None:
        """Write the scores of a layer's filters: a row for each filter, a column for each kind."""
        rows = ((channel, *scores) for channel, scores in enumerate(self.per_unit(layer).T.tolist()))
        write_csv(path, "invariance of filters", ("filter", *self.steps), rows)

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"Invariance({counted(len(self.images), 'image')}, {counted(len(self.layers), 'layer')}); score (95 % "
                "interval), from 0 (as far away as another image) to 1 (nothing changes); P(class)",
                *self._lines(),
            ]
        )

    def _lines(self) -> Iterator[str]:
        for kind, steps in self.steps.items():
            scores = self.scores(kind)
            ends = [scores[0], scores[-1]] if len(scores) > 1 else list(scores)
            text = ", ".join(
                f"{s.layer} {s.score:.2f} ({s.low:.2f} to {s.high:.2f})" if np.isfinite(s.score) else f"{s.layer} none"
                for s in ends
            )
            mean = self.probability[kind][:, moving(kind, steps)].mean()
            change = f"P {self.untouched.mean():.2f} -> {mean:.2f} on average"
            yield f"  {kind} {steps[0]:g} to {steps[-1]:g}: {text}; {change}"


# --- curves -----------------------------------------------------------------------------------------------------------


def under_curve(steps: Floats, values: Floats) -> Floats:
    """Return the area under curves as a share of their range, by trapezoids.

    Args:
        steps: float64 [T], ascending.
        values: float64 [..., T].

    Returns:
        float64 [...]; of a single step its value.

    >>> float(under_curve(np.array([0.0, 1.0, 4.0]), np.array([0.0, 2.0, 2.0])))
    1.75
    """
    if len(steps) == 1:
        return values[..., 0]
    middles: Floats = (values[..., 1:] + values[..., :-1]) / 2
    return np.asarray(middles @ np.diff(steps) / (steps[-1] - steps[0]))


def quarter_turns(degrees: Floats, similarity: Floats) -> Floats:
    """Return how much curves over the angles rise at 90, 180 and 270 degrees: an index of this package.

    It is the mean, over these three angles q, of s(q) - (s(q - 45) + s(q + 45)) / 2. Here s(q) is the mean of the curve
    within 5 degrees of a quarter turn, and s(q - 45), s(q + 45) are its means within 15 degrees of the middle between
    two quarter turns. Each peak is compared with its own two valleys, so that a curve that only falls and rises again
    has an index near 0.

    Args:
        degrees: float64 [T], the angles.
        similarity: float64 [..., T], the curves.

    Returns:
        float64 [...]; NaN where no angle lies in one of the ranges.

    >>> degrees = np.arange(0, 360, 45.0)
    >>> float(quarter_turns(degrees, np.where(degrees % 90 == 0, 1.0, 0.5)))
    0.5
    """

    def near(middle: float, reach: float) -> Floats:
        inside = np.abs((degrees - middle + 180) % 360 - 180) <= reach + 1e-9
        return similarity[..., inside].mean(-1) if inside.any() else np.full(similarity.shape[:-1], np.nan)

    valleys = [near(middle, 15) for middle in (45, 135, 225, 315)]
    peaks = [near(quarter, 5) for quarter in (90, 180, 270)]
    rises = [peak - (valleys[n] + valleys[n + 1]) / 2 for n, peak in enumerate(peaks)]
    return np.asarray(np.mean(rises, 0))


def _scores(moved: Floats, apart: Floats, samples: Ints | None = None) -> Floats:
    """Return 1 - mean moved / mean apart over the images, clipped to 0..1.

    Args:
        moved: float64 [N, M].
        apart: float64 [N, M].
        samples: int64 [B, N], how often each image counts in each of B samples; None counts each once.

    Returns:
        float64 [M], or [B, M] where there are samples; NaN where nothing is apart.
    """
    weights = np.ones((1, len(moved)), np.int64) if samples is None else samples
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: Floats = np.clip(1 - (weights @ moved) / (weights @ apart), 0, 1)
    return scores[0] if samples is None else scores

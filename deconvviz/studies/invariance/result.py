"""What the invariance study found: distances and probabilities as they were measured, and the scores made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.transforms import canvas_of, inverse_map, moving
from deconvviz.errors import LayerNotFound, nearest
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv

RESAMPLES = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How invariant a layer is under one kind of transform.

    score: 0 (transformed images are as far from their originals as other images are) to 1 (nothing changes).
    low, high: its 95 % interval over the images. area: the area under the mean curve of the distance, over the range
    of the steps: the mean normalised distance. depth: 1 for the first of the layers.
    """

    kind: str
    layer: str
    depth: int
    score: float
    low: float
    high: float
    area: float


@dataclass(frozen=True)
class Units:
    """What the filters of one layer did; a filter's value is its map's maximum.

    moved: kind -> [N, C], the mean over the steps of how far the value moved. apart: [N, C], how far it is from its
    values for other images, on average.
    """

    moved: dict[str, Floats]
    apart: Floats


@dataclass(frozen=True)
class Invariance:
    """How N images' features in L layers, and the probability of one class, change under transforms.

    Attributes:
        config: what was asked, and of which network and images.
        layers: their L names. images: their N names. targets: int64 [N], the output whose probability is followed.
        steps: kind -> [T], ascending, in the kind's unit.
        moved: kind -> [N, T, L], the Euclidean distance ||f(Tx) - f(x)||.
        norms: [N, L], ||f(x)||. apart: [N, L], the mean of ||f(x') - f(x)|| over other images x'; NaN with one image.
        probability: kind -> [N, T]; untouched: [N], of the pictures themselves.
        units: layer -> its filters, for the layers that this was asked of.
    """

    config: dict[str, Any]
    layers: tuple[str, ...]
    images: tuple[str, ...]
    targets: NDArray[np.int64]
    steps: dict[str, Floats]
    moved: dict[str, Floats]
    norms: Floats
    apart: Floats
    probability: dict[str, Floats]
    untouched: Floats
    units: dict[str, Units]

    @classmethod
    def blank(
        cls,
        config: dict[str, Any],
        layers: Sequence[str],
        images: Sequence[str],
        steps: dict[str, Floats],
        units: Mapping[str, int],
    ) -> Invariance:
        """Return a result of zeros, to be filled; a step that moves nothing keeps its distance. units: layer -> C."""
        n, count = len(images), len(layers)
        return cls(
            config,
            tuple(layers),
            tuple(images),
            np.zeros(n, np.int64),
            steps,
            {kind: np.zeros((n, len(values), count)) for kind, values in steps.items()},
            np.zeros((n, count)),
            np.zeros((n, count)),
            {kind: np.zeros((n, len(values))) for kind, values in steps.items()},
            np.zeros(n),
            {name: Units({kind: np.zeros((n, c)) for kind in steps}, np.zeros((n, c))) for name, c in units.items()},
        )

    def distance(self, kind: str) -> Floats:
        """Return ||f(Tx) - f(x)|| / ||f(x)||, [N, T, L]: 0 where both are 0, NaN where f(x) alone is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = self.moved[kind] / self.norms[:, None]
        found[self.moved[kind] == 0] = 0
        found[np.isinf(found)] = np.nan
        return found

    def relative(self, kind: str) -> Floats:
        """Return distances in units of chance, [N, T, L]: 1 is as far as the images are from each other on average."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = self.moved[kind] / self.apart.mean(0)
        return found

    def scores(self, kind: str, seed: int = 0) -> tuple[Score, ...]:
        """Return each layer's score: 1 - mean ||f(Tx) - f(x)|| / mean ||f(x') - f(x)||, clipped to 0..1.

        The means are over the images, the steps that move anything, and the other images x'. The interval is that of
        RESAMPLES bootstrap samples of the images. NaN where a layer tells no two images apart, or with one image.
        """
        moved = self.moved[kind][:, moving(kind, self.steps[kind])].mean(1)
        count = len(moved)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        value, sampled = _score(moved, self.apart), _score(moved, self.apart, drawn)
        low, high = np.percentile(sampled, (2.5, 97.5), axis=0)
        area = under_curve(self.steps[kind], self.distance(kind).mean(0).T)
        return tuple(
            Score(kind, name, n + 1, float(value[n]), float(low[n]), float(high[n]), float(area[n]))
            for n, name in enumerate(self.layers)
        )

    def symmetry(self, layer: str | None = None) -> Floats:
        """Return the quarter-turn index of each image's curve under rotation, [N].

        layer: of 1 - the relative distance there; None for the probability. NaN as in `quarter_turns`.
        """
        if layer is None:
            return quarter_turns(self.steps["rotation"], self.probability["rotation"])
        return quarter_turns(self.steps["rotation"], 1 - self.relative("rotation")[..., self.layer(layer)])

    def per_unit(self, layer: str) -> Floats:
        """Return each filter's score, [kinds, C]: the formula of `scores`, f being the maximum of the filter's map.

        The maximum, because a map moves with the picture and its distance would tell how fine the map is, not whether
        the filter still finds what it looks for. NaN for a filter that is the same for all images (a dead one).
        """
        found = self.units.get(layer)
        if found is None:
            known = nearest(layer, self.units) if self.units else "none were asked for"
            raise LayerNotFound(f"no filters of {layer!r} were measured; {known}; name it in units=")
        return np.stack([_score(found.moved[kind], found.apart) for kind in self.steps])

    def ranked(self, layer: str, kind: str, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the `count` most and the `count` least invariant filters of a layer, without those of no score."""
        scores = self.per_unit(layer)[list(self.steps).index(kind)]
        order = np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]
        return order[:count], order[::-1][:count]

    def layer(self, name: str) -> int:
        """Return a layer's place; raises LayerNotFound for one that was not measured."""
        if name not in self.layers:
            raise LayerNotFound(f"layer {name!r} was not measured; {nearest(name, self.layers)}")
        return self.layers.index(name)

    def save_csv(self, path: Pathlike) -> None:
        """Write every value: a row for each kind, step, image and layer."""
        columns = ("kind", "step", "image", "output", "probability", "layer", "distance", "relative_distance")
        write_csv(path, columns, self._rows())

    def save_scores(self, path: Pathlike) -> None:
        """Write the scores: a row for each kind and layer."""
        rows = [(s.kind, s.layer, s.depth, s.score, s.low, s.high, s.area) for k in self.steps for s in self.scores(k)]
        write_csv(path, ("kind", "layer", "depth", "score", "low", "high", "mean_distance"), rows)

    def save_units(self, path: Pathlike, layer: str) -> None:
        """Write a layer's filters: a row for each, a column for each kind's score."""
        rows = [(channel, *map(float, column)) for channel, column in enumerate(self.per_unit(layer).T)]
        write_csv(path, ("filter", *self.steps), rows)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for kind, steps in self.steps.items():
            distance, relative = self.distance(kind), self.relative(kind)
            for n, image in enumerate(self.images):
                for t, step in enumerate(steps):
                    shared = (kind, float(step), image, int(self.targets[n]), float(self.probability[kind][n, t]))
                    for m, name in enumerate(self.layers):
                        yield (*shared, name, float(distance[n, t, m]), float(relative[n, t, m]))

    def __repr__(self) -> str:
        lines = [f"Invariance({len(self.images)} images, {len(self.layers)} layers); score (95 % interval), P(class)"]
        for kind, steps in self.steps.items():
            found = self.scores(kind)
            shown = [found[0], found[-1]] if len(found) > 1 else list(found)
            told = ", ".join(
                f"{s.layer} {s.score:.2f} ({s.low:.2f} to {s.high:.2f})" if np.isfinite(s.score) else f"{s.layer} none"
                for s in shown
            )
            mean = self.probability[kind][:, moving(kind, steps)].mean()
            range_ = f"{steps[0]:g} to {steps[-1]:g}"
            lines.append(f"  {kind} {range_}: {told}; P {self.untouched.mean():.2f} -> {mean:.2f} on average")
        return "\n".join(lines)


def strips(
    found: Invariance, images: Images, preprocess: Preprocess, rows: int = 5, across: int = 5
) -> dict[str, tuple[Floats, NDArray[np.uint8]]]:
    """Return the first images as they were transformed: kind -> (some steps [K], pictures uint8 [n, K, h, w, 3])."""
    shown = {}
    padding, interpolation = found.config["padding"], found.config["interpolation"]
    canvases = [canvas_of(images[i][0], preprocess, padding) for i in found.config["which"][:rows]]
    for kind, steps in found.steps.items():
        some = steps[np.unique(np.linspace(0, len(steps) - 1, across).round().astype(int))]
        maps = [inverse_map(kind, step) for step in some]
        shown[kind] = some, np.stack([[one.transformed(m, interpolation) for m in maps] for one in canvases])
    return shown


def under_curve(steps: Floats, values: Floats) -> Floats:
    """Return the area under curves [..., T] over ascending steps [T] as a share of their range; one step's value."""
    if len(steps) == 1:
        return values[..., 0]
    middles: Floats = (values[..., 1:] + values[..., :-1]) / 2
    return np.asarray(middles @ np.diff(steps) / (steps[-1] - steps[0]))


def quarter_turns(degrees: Floats, similarity: Floats) -> Floats:
    """Tell how much curves [..., T] over the angles [T] rise at 90, 180 and 270 degrees: the mean over these three of

    s(q) - (s(q - 45) + s(q + 45)) / 2, where s(q) is the mean within 5 degrees of a quarter turn and s(q +- 45) that
    within 15 degrees of the middle between two. Each peak against its own two valleys, so that a curve that only
    falls and rises again has an index near 0. NaN where an angle is missing. An index of this package.
    """

    def near(middle: float, reach: float) -> Floats:
        inside = np.abs((degrees - middle + 180) % 360 - 180) <= reach + 1e-9
        return similarity[..., inside].mean(-1) if inside.any() else np.full(similarity.shape[:-1], np.nan)

    valleys = [near(middle, 15) for middle in (45, 135, 225, 315)]
    peaks = [near(quarter, 5) for quarter in (90, 180, 270)]
    rises = [peak - (valleys[n] + valleys[n + 1]) / 2 for n, peak in enumerate(peaks)]
    return np.asarray(np.mean(rises, 0))


def _score(moved: Floats, apart: Floats, drawn: NDArray[np.int64] | None = None) -> Floats:
    """Return 1 - mean moved / mean apart over the images, both [N, M]; drawn: [B, N], how often each counts."""
    weights = np.ones((1, len(moved)), np.int64) if drawn is None else drawn
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: Floats = np.clip(1 - (weights @ moved) / (weights @ apart), 0, 1)
    return scores[0] if drawn is None else scores

"""Linear probes: what can be told from the features of each layer, by a linear classifier and a few images a class."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr  # type: ignore[import-untyped]
from tqdm import tqdm

from deconvviz.errors import DataError
from deconvviz.registry import Registry
from deconvviz.results.features import FeatureTable, known_layer
from deconvviz.results.files import Pathlike
from deconvviz.results.results import versions
from deconvviz.results.tables import write_csv

FOLDS = 3  # of the training images, to choose the cost by
CHUNK = 1024  # test images that are in memory at once
SPAN = 2000  # most training images whose span is found: for more it takes longer than it saves
Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

PROBES: Registry[Callable[[float], Any]] = Registry("probe")
# The SVM in the primal, whose solver draws nothing at random: one class against the rest. With a small cost all scores
# are small, and the softmax classifier's default tolerance would stop before their order is settled.
PROBES.add("svm", lambda cost: _library("svm").LinearSVC(C=cost, dual=False, max_iter=2000))
PROBES.add("softmax", lambda cost: _library("linear_model").LogisticRegression(C=cost, tol=1e-6, max_iter=1000))


@dataclass(frozen=True)
class ProbeSettings:
    """How layers are probed.

    probes: "svm" (linear, squared hinge), "softmax" (multinomial logistic regression), or both.
    per_class: how many training images of each class; several numbers give a curve.
    splits: how often training and test images are drawn.
    test: at most so many test images of each class, None for all that are not in the largest training set.
    costs: the weights C of the errors against the squared weights, of which cross-validation takes the best.
    seed: of the splits.
    """

    probes: tuple[str, ...] = ("svm", "softmax")
    per_class: tuple[int, ...] = (15,)
    splits: int = 5
    test: int | None = None
    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("probes", "per_class", "costs"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        object.__setattr__(self, "per_class", tuple(sorted(self.per_class)))
        for name in self.probes:
            _ = PROBES[name]
        for what, holds, expected in (
            ("probes", bool(self.probes), f"some of {', '.join(PROBES)}"),
            ("per_class", bool(self.per_class) and min(self.per_class) >= 1, "numbers of images, from 1"),
            ("splits", self.splits >= 2, "2 or more: one has no deviation"),
            ("test", self.test is None or self.test >= 1, "a number of images, or None for all"),
            ("costs", bool(self.costs) and min(self.costs) > 0, "positive numbers"),
        ):
            if not holds:
                raise DataError(f"{what} {getattr(self, what)} given; expected {expected}")
        if len(self.costs) > 1 and self.per_class[0] < FOLDS:
            raise DataError(
                f"{self.per_class[0]} images a class given; to choose among {len(self.costs)} costs they are split "
                f"into {FOLDS} folds: give {FOLDS} or more, or a single cost"
            )

    def check_library(self) -> None:
        """Raise DataError where scikit-learn, which has the probes, is not installed."""
        for name in self.probes:
            PROBES[name](self.costs[0])


@dataclass(frozen=True)
class Split:
    """train: int64 [classes, k], the first few of each row are the smaller training sets; test: int64 [T]."""

    train: Labels
    test: Labels


@dataclass(frozen=True)
class Probed:
    """What `probe` found.

    Attributes:
        layers: name -> how many values the probes saw of an image.
        settings: how it was probed; chance: accuracy of guessing, one by the number of classes.
        accuracy: float64 [layers, probes, per_class, splits], the mean over the classes of each one's accuracy.
        costs: float64 of the same shape, those that were chosen.
        tested: how many test images a split has.
        config: what was asked; sources: where it came from.
    """

    layers: dict[str, int]
    settings: ProbeSettings
    chance: float
    accuracy: NDArray[np.float64]
    costs: NDArray[np.float64]
    tested: int
    config: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the splits, [layers, probes, per_class]."""
        return np.asarray(self.accuracy.mean(-1))

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation over the splits (of a sample: n - 1), [layers, probes, per_class]."""
        return np.asarray(self.accuracy.std(-1, ddof=1))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a row's numbers in the table: accuracy and deviation for each probe and number of images."""
        names = (f"{name}_{count}" for name in self.settings.probes for count in self.settings.per_class)
        return tuple(column for name in names for column in (name, f"{name}_deviation"))

    def table(self) -> list[list[Any]]:
        """Return a row for each layer: its name, how many values, then as in `columns`."""
        numbers = np.stack([self.mean, self.deviation], -1).reshape(len(self.layers), -1)
        return [[*layer, *map(float, row)] for layer, row in zip(self.layers.items(), numbers, strict=True)]

    def save_csv(self, path: Pathlike) -> None:
        """Write the table, as fractions: the paper's table 7."""
        write_csv(path, ("layer", "values", *self.columns), self.table())

    def __repr__(self) -> str:
        head = ["layer".ljust(20), "values".rjust(7), *(name.rjust(14) for name in self.columns[::2])]
        lines = ["".join(head)]
        for name, values, *numbers in self.table():
            cells = (f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(numbers[::2], numbers[1::2], strict=True))
            lines.append("".join([name.ljust(20), str(values).rjust(7), *(cell.rjust(14) for cell in cells)]))
        told = f"Mean accuracy of a class in %, deviation over {self.settings.splits} splits"
        return "\n".join([f"{told} of {self.tested} test images; chance {100 * self.chance:.1f}", *lines])


def probe(
    features: FeatureTable, layers: Sequence[str] = (), settings: ProbeSettings | None = None, progress: bool = True
) -> Probed:
    """Train linear classifiers on each layer's features, on repeated random splits; images of no class are left out.

    Features are standardised by the training images' mean and deviation and divided by the root of their number, so
    that the same costs suit every layer. The cost is chosen among the training images alone: the mean accuracy of three
    folds, each with the same share of every class; of equal ones the smallest. Then the probe learns from all of them.

    Args:
        features: a `Features` file, or `FeatureArrays`.
        layers: names in `features.layers`, by default all.
        settings: probes, images a class, splits and costs.

    Raises:
        DataError: fewer images of a class than asked for, no labels, values that are not finite, or no scikit-learn.
        LayerNotFound: no features of such a layer.

    Source: Zeiler and Fergus 2013, section 5.3 and table 7; accuracy is the mean over the classes, as section 5.2 has
    it for Caltech-101. How features are scaled and the cost is chosen is not said there.
    """
    settings = settings or ProbeSettings()
    settings.check_library()
    names = [known_layer(name, features.layers) for name in (layers or features.layers)]
    splits = draw_splits(features.labels, settings, features.classes)
    shape = (len(names), len(settings.probes), len(settings.per_class), settings.splits)
    accuracy, costs = np.empty(shape), np.empty(shape)
    bar = tqdm(total=len(names) * settings.splits, unit="split", desc="probing", disable=not progress)
    with bar:
        for place, name in enumerate(names):
            for number, split in enumerate(splits):
                accuracy[place, ..., number], costs[place, ..., number] = _split(features, name, split, settings)
                bar.update()
    found: Any = features
    config = {**getattr(found, "config", {}), "probing": asdict(settings)}
    sources = {"versions": versions(), **getattr(found, "sources", {})}
    widths = {name: features.layers[name] for name in names}
    return Probed(widths, settings, 1 / len(splits[0].train), accuracy, costs, len(splits[0].test), config, sources)


def draw_splits(labels: Labels, settings: ProbeSettings, classes: Sequence[str] = ()) -> list[Split]:
    """Draw disjoint training and test images, the same numbers of each class that has any.

    Raises DataError where a class has too few images, or there are fewer than two classes.
    """
    most, found = settings.per_class[-1], np.unique(labels[labels >= 0])
    if len(found) < 2:
        raise DataError(f"{len(labels)} images of {len(found)} known classes given; a probe tells at least 2 apart")
    counts = {int(label): int((labels == label).sum()) for label in found}
    poorest = min(counts, key=lambda label: counts[label])
    if counts[poorest] <= most:
        name = f"{classes[poorest]!r}" if poorest < len(classes) else str(poorest)
        raise DataError(
            f"class {name} has {counts[poorest]} images; {most} to train on and at least 1 to test need {most + 1}: "
            "give fewer images a class, or leave that class out"
        )
    splits = []
    for number in range(settings.splits):
        rng = np.random.default_rng([settings.seed, number])
        shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in found]
        rest = [members[most:][: settings.test] for members in shuffled]
        splits.append(Split(np.stack([members[:most] for members in shuffled]), np.sort(np.concatenate(rest))))
    return splits


def class_accuracy(truth: Labels, predicted: Labels) -> float:
    """Return the mean over the classes of the share of a class's images that are named rightly."""
    right = truth == predicted
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _split(
    features: FeatureTable, layer: str, split: Split, settings: ProbeSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracies and chosen costs of one layer on one split, each [probes, per_class]."""
    pool = features.rows(layer, split.train.ravel()).reshape(*split.train.shape, -1)
    if not np.isfinite(pool).all():
        raise DataError(f"features of {layer} have values that are not finite; choose other layers or weights")
    shape = (len(settings.probes), len(settings.per_class))
    accuracy, costs, labels = np.empty(shape), np.empty(shape), features.labels
    for column, count in enumerate(settings.per_class):
        space, truth = _Space(pool[:, :count].reshape(-1, pool.shape[2])), labels[split.train[:, :count].ravel()]
        folds = np.tile(np.arange(count) % FOLDS, len(split.train))
        costs[:, column] = [_best(name, settings.costs, space.train, truth, folds) for name in settings.probes]
        fitted = [
            PROBES[name](cost).fit(space.train, truth)
            for name, cost in zip(settings.probes, costs[:, column], strict=True)
        ]
        guesses: list[list[Labels]] = [[] for _ in fitted]
        for start in range(0, len(split.test), CHUNK):
            rows = space.project(features.rows(layer, split.test[start : start + CHUNK]))
            for model, parts in zip(fitted, guesses, strict=True):
                parts.append(model.predict(rows))
        accuracy[:, column] = [class_accuracy(labels[split.test], np.concatenate(parts)) for parts in guesses]
    return accuracy, costs


class _Space:
    """Features, scaled by the training images; where these are fewer than the features, in the span of theirs.

    A linear classifier whose weights are kept small has them in the span of the training images: turned into a basis of
    that span it is the same classifier, and learns from a few hundred numbers an image instead of thousands.
    """

    def __init__(self, rows: Floats) -> None:
        self._scaler = _library("preprocessing").StandardScaler().fit(rows)
        self._basis: Floats | None = None
        scaled = self._scaled(rows)
        if len(rows) < min(rows.shape[1], SPAN):
            self._basis, _ = qr(scaled.T, mode="economic")
        self.train = self._turned(scaled)

    def project(self, rows: Floats) -> Floats:
        """Return features [n, D] as the probes take them."""
        return self._turned(self._scaled(rows))

    def _turned(self, scaled: Floats) -> Floats:
        # the classifiers settle in double precision only; what is before them need not have it
        return (scaled if self._basis is None else scaled @ self._basis).astype(np.float64)

    def _scaled(self, rows: Floats) -> Floats:
        scaled: Floats = self._scaler.transform(rows)
        scaled /= np.sqrt(rows.shape[1], dtype=scaled.dtype)
        return scaled


def _best(name: str, costs: Sequence[float], rows: Floats, truth: Labels, folds: Labels) -> float:
    """Return the cost with the highest mean accuracy over the folds; of equal ones the smallest."""
    if len(costs) == 1:
        return costs[0]

    def score(cost: float) -> float:
        fits = ((PROBES[name](cost).fit(rows[folds != f], truth[folds != f]), folds == f) for f in range(FOLDS))
        mean = np.mean([class_accuracy(truth[held], model.predict(rows[held])) for model, held in fits])
        return round(float(mean), 9)  # equal scores may differ in their last digit

    return max(sorted(costs), key=score)


def _library(module: str) -> Any:
    """Return a module of scikit-learn; raises DataError where it is not installed."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise DataError("probes need scikit-learn: pip install 'deconvviz[probe]'") from None

"""Linear probes: how well a linear classifier recognises the classes by each layer's features, after a few images."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr  # type: ignore[import-untyped]

from deconvviz.data.parallel import in_order
from deconvviz.errors import DataError
from deconvviz.results.features import FeatureTable, checked_layer
from deconvviz.results.results import stamped
from deconvviz.run.options import RunOptions
from deconvviz.studies.probing.result import ProbeResult
from deconvviz.studies.probing.settings import FOLDS, PROBES, ProbeSettings, scikit_learn
from deconvviz.types import Floats, Ints
from deconvviz.words import counted

CHUNK = 1024  # test images in memory at once
SPAN = 2000  # most training images whose span is computed: for more it takes longer than it saves
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A random split of the images.

    Attributes:
        train: int64 [classes, k], the training images; the first ones of each row are the smaller training sets.
        test: int64 [n], the test images, ascending.
    """

    train: Ints
    test: Ints


def probe(
    features: FeatureTable, layers: Sequence[str] = (), settings: ProbeSettings | None = None, progress: bool = True
) -> ProbeResult:
    """Train linear classifiers on each layer's features, on repeated random splits of the images.

    Images of unknown class are left out. Features are standardised by the mean and the standard deviation of the
    training images, and divided by the root of their number, so that the same costs suit every layer. The cost is
    chosen among the training images alone: the one with the highest mean accuracy over three folds, each with the same
    share of every class; of equal ones the smallest. Then the probe is trained on all training images.

    Args:
        features: a `Features` file, or `FeatureArrays`.
        layers: names in `features.layers`; by default all.
        settings: probes, images of a class, splits and costs.
        progress: whether a progress bar is shown on standard error.

    Returns:
        The accuracy of every layer, probe, number of training images and split.

    Raises:
        DataError: a class has fewer images than the settings need, there are fewer than two classes, a value is not
            finite, or scikit-learn is not installed.
        LayerNotFound: a name in `layers` has no features.

    Source: Zeiler and Fergus 2013, section 5.3 and table 7; accuracy is the mean over the classes, as section 5.2 has
    it for Caltech-101. The paper does not say how features are scaled and how the cost is chosen; that is our choice.

    >>> from deconvviz.results.features import FeatureArrays
    >>> labels = np.arange(40) % 2
    >>> separable = FeatureArrays({"fc": np.random.default_rng(0).normal(size=(40, 5)) + 9 * labels[:, None]}, labels)
    >>> settings = ProbeSettings(per_class=(10,), splits=2, probes=("svm",), costs=(1.0,))
    >>> result = probe(separable, settings=settings, progress=False)
    >>> result.mean.tolist(), result.chance
    ([[[1.0]]], 0.5)
    """
    settings = settings or ProbeSettings()
    settings.check_library()
    names = [checked_layer(name, features.layers) for name in (layers or features.layers)]
    splits = draw_splits(features.labels, settings, features.classes)
    shape = (len(names), len(settings.probes), len(settings.per_class), settings.splits)
    accuracy, costs = np.empty(shape), np.empty(shape)
    tasks = list(itertools.product(range(len(names)), range(settings.splits)))

    def probed(task: tuple[int, int]) -> tuple[Floats, Floats]:
        return _probe_split(features, names[task[0]], splits[task[1]], settings)

    with (
        RunOptions(progress=progress).bar("split", len(tasks), "probing") as bar,
        _one_thread_each(),
        contextlib.closing(in_order(probed, tasks, os.cpu_count() or 1)) as all_measured,
    ):
        for (place, number), measured in zip(tasks, all_measured, strict=True):
            accuracy[place, ..., number], costs[place, ..., number] = measured
            bar.update()
    config, sources = (getattr(features, name, {}) for name in ("config", "sources"))  # of a file; arrays have none
    return ProbeResult(
        layers={name: features.layers[name] for name in names},
        settings=settings,
        chance=1 / len(splits[0].train),
        accuracy=accuracy,
        costs=costs,
        tested=len(splits[0].test),
        config={**config, "probing": asdict(settings)},
        sources=stamped(sources),
    )


def _one_thread_each() -> AbstractContextManager[Any]:
    """Let linear algebra use one thread within a `with` block.

    The matrices of a probe have a few hundred rows: sharing one out among threads takes several times as long as it
    saves (11 s of two cores instead of 2.4 s of one, for a split of ten classes). Whole splits run side by side.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def draw_splits(labels: Ints, settings: ProbeSettings, classes: Sequence[str] = ()) -> list[Split]:
    """Draw disjoint training and test images, the same number of training images of each class.

    Args:
        labels: int64 [N], -1 where the class is unknown.
        settings: numbers of images and of splits, and the seed.
        classes: the class names, for the error; may be empty.

    Raises:
        DataError: a class has too few images, or there are fewer than two classes.

    >>> labels = np.array([0, 0, 0, 1, 1, 1, -1])
    >>> split = draw_splits(labels, ProbeSettings(per_class=(2,), splits=2, costs=(1.0,)))[0]
    >>> labels[split.train].tolist(), labels[split.test].tolist()
    ([[0, 0], [1, 1]], [0, 1])
    """
    most, numbers = settings.per_class[-1], np.unique(labels[labels >= 0])
    if len(numbers) < 2:
        raise DataError(
            f"{counted(len(labels), 'image')} of {counted(len(numbers), 'known class')} given; "
            "expected at least 2 classes to tell apart"
        )
    name, count = smallest_class(labels, classes)
    if count <= most:
        fitting = [number for number in settings.per_class if number < count]
        advice = f"such as {','.join(map(str, fitting))}" if fitting else f"at most {count - 1}"
        raise DataError(
            f"{counted(most, 'training image')} of each class asked for, and class "
            f"{name} has {counted(count, 'image')}, "
            f"which leaves none to test: give smaller numbers of training images ({advice}) with --per-class, "
            "per_class= in Python, or leave that class out"
        )
    splits = []
    for number in range(settings.splits):
        rng = np.random.default_rng([settings.seed, number])
        shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in numbers]
        test = [members[most:][: settings.test] for members in shuffled]
        splits.append(
            Split(train=np.stack([members[:most] for members in shuffled]), test=np.sort(np.concatenate(test)))
        )
    return splits


def smallest_class(labels: Ints, classes: Sequence[str] = ()) -> tuple[str, int]:
    """Return how the class with the fewest images is called in messages, and the number of its images.

    Args:
        labels: int64 [N], -1 where the class is unknown; at least one is known.
        classes: the class names; may be empty.

    >>> smallest_class(np.array([0, 1, 0, -1]), ["cat", "owl"]), smallest_class(np.array([0, 1, 1]))
    (("'owl'", 1), ('0', 1))
    """
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    place = int(np.argmin(counts))
    number = int(numbers[place])
    return (f"{classes[number]!r}" if number < len(classes) else str(number)), int(counts[place])


def class_accuracy(truth: Ints, predicted: Ints) -> float:
    """Return the mean over the classes of the share of a class's images that are classified correctly.

    >>> class_accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1]))
    0.875
    """
    correct = truth == predicted
    return float(np.mean([correct[truth == label].mean() for label in np.unique(truth)]))


def _probe_split(features: FeatureTable, layer: str, split: Split, settings: ProbeSettings) -> tuple[Floats, Floats]:
    """Return the accuracies and the chosen costs of one layer on one split, float64 [probes, per_class] each."""
    pool = features.rows(layer, split.train.ravel()).reshape(*split.train.shape, -1)
    if not np.isfinite(pool).all():
        raise DataError(f"features of {layer} have values that are not finite; choose other layers or weights")
    shape = (len(settings.probes), len(settings.per_class))
    accuracy, costs, labels = np.empty(shape), np.empty(shape), features.labels
    for column, count in enumerate(settings.per_class):
        space = FeatureSpace(pool[:, :count].reshape(-1, pool.shape[2]))
        truth = labels[split.train[:, :count].ravel()]
        folds = np.tile(np.arange(count) % FOLDS, len(split.train))
        costs[:, column] = [_best_cost(name, settings.costs, space.train, truth, folds) for name in settings.probes]
        fitted = [
            PROBES[name](cost).fit(space.train, truth)
            for name, cost in zip(settings.probes, costs[:, column], strict=True)
        ]
        predictions: list[list[Ints]] = [[] for _ in fitted]
        for start in range(0, len(split.test), CHUNK):
            rows = space.project(features.rows(layer, split.test[start : start + CHUNK]))
            for model, parts in zip(fitted, predictions, strict=True):
                parts.append(model.predict(rows))
        truth = labels[split.test]
        accuracy[:, column] = [class_accuracy(truth, np.concatenate(parts)) for parts in predictions]
    return accuracy, costs


class FeatureSpace:
    """Features scaled by the training images, and written in the span of the training images where that is smaller.

    A linear classifier whose squared weights are kept small has its weights in the span of the training images. In an
    orthonormal basis of that span it is the same classifier, and is trained on a few hundred numbers an image instead
    of thousands.

    Attributes:
        train: float64 [n, d], the training images.
    """

    def __init__(self, rows: Values) -> None:
        self._scaler = scikit_learn("preprocessing").StandardScaler().fit(rows)
        self._basis: Values | None = None
        scaled = self._scaled(rows)
        if len(rows) < min(rows.shape[1], SPAN):
            self._basis, _ = qr(scaled.T, mode="economic")
        self.train = self._in_basis(scaled)

    def project(self, rows: Values) -> Floats:
        """Return features [n, D] as the probes take them, float64 [n, d]."""
        return self._in_basis(self._scaled(rows))

    def _in_basis(self, scaled: Values) -> Floats:
        # The classifiers converge in double precision only; what comes before them does not need it.
        return (scaled if self._basis is None else scaled @ self._basis).astype(np.float64)

    def _scaled(self, rows: Values) -> Values:
        scaled: Values = self._scaler.transform(rows)
        scaled /= np.sqrt(rows.shape[1], dtype=scaled.dtype)
        return scaled


def _best_cost(name: str, costs: Sequence[float], rows: Floats, truth: Ints, folds: Ints) -> float:
    """Return the cost with the highest mean accuracy over the folds; of equal ones the smallest."""
    if len(costs) == 1:
        return costs[0]

    def score(cost: float) -> float:
        fits = ((PROBES[name](cost).fit(rows[folds != f], truth[folds != f]), folds == f) for f in range(FOLDS))
        mean = np.mean([class_accuracy(truth[held_out], model.predict(rows[held_out])) for model, held_out in fits])
        return round(float(mean), 9)  # equal scores may differ in their last digits

    return max(sorted(costs), key=score)

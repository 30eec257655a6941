"""Directions in a latent space: of a score by a linear SVM, free of others by projection, and principal axes."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from deconvviz.errors import DataError, missing_library
from deconvviz.metrics.intervals import correlation
from deconvviz.types import Floats

TRAINED = 0.7  # of the highest and lowest samples; the others test the classifier
COST = 0.01  # of errors against the squared weights: a wide margin, which many samples decide and not a few
FEWEST = 10  # samples at each end
LOST = 1e-6  # length of a unit direction after a projection, below which nothing of it is left


class Direction(NamedTuple):
    """A direction of a score.

    Attributes:
        vector: float64 [d], of length 1.
        accuracy: of the linear classifier on samples that it was not trained with, in 0..1.
    """

    vector: Floats
    accuracy: float


def semantic_direction(z: NDArray[Any], scores: NDArray[Any], *, share: float = 0.1, seed: int = 0) -> Direction:
    """Return the direction in which a score grows: the normal of a linear SVM between high and low samples.

    Args:
        z: [n, d], samples.
        scores: [n], the score of the image of each.
        share: of the samples that are taken as high, and as low; 10 of each at least.
        seed: of the split into training (70 %) and test.

    Raises:
        DataError: there are fewer than 20 samples, the score does not vary, or scikit-learn is not installed.

    Source: InterFaceGAN, Shen et al. 2020, section 3.1, who take 2 % of 500,000 samples. With some thousands 10 % is
    our choice, and so is the cost.

    >>> z = np.random.default_rng(0).standard_normal((500, 3))
    >>> found = semantic_direction(z, z @ [0.6, 0.8, 0.0])
    >>> float(found.vector @ [0.6, 0.8, 0.0]) > 0.99, found.accuracy
    (True, 1.0)
    """
    count = max(int(share * len(scores)), FEWEST)
    if len(scores) < 2 * count:
        raise DataError(f"{len(scores)} samples given; a direction needs {2 * count}: give more samples")
    order = np.argsort(scores, kind="stable")
    low, high = order[:count], order[-count:]
    if scores[high].min() <= scores[low].max():
        raise DataError("the score is the same for most samples; no direction follows from it")
    rng, trained = np.random.default_rng(seed), int(TRAINED * count)
    low, high = rng.permutation(low), rng.permutation(high)
    known = np.concatenate([low[:trained], high[:trained]])
    test = np.concatenate([low[trained:], high[trained:]])
    classifier = _svm().SVC(kernel="linear", C=COST)
    classifier.fit(np.asarray(z[known], np.float64), np.repeat([0, 1], trained))
    predicted = classifier.predict(np.asarray(z[test], np.float64))
    normal = np.asarray(classifier.coef_[0], np.float64)
    return Direction(normal / np.linalg.norm(normal), float((predicted == np.repeat([0, 1], count - trained)).mean()))


def _svm() -> Any:
    try:
        return importlib.import_module("sklearn.svm")
    except ImportError:
        raise DataError(f"no direction can be found: {missing_library('scikit-learn')}") from None


def conditional_direction(vector: Floats, others: Floats) -> Floats:
    """Return the part of a direction that is orthogonal to others, of length 1; zeros where nothing is left.

    Args:
        vector: float64 [d], of length 1.
        others: float64 [m, d].

    Source: InterFaceGAN, section 3.2, for one other direction; for several, all that they span is taken away.

    >>> conditional_direction(np.array([0.6, 0.8]), np.array([[1.0, 0.0]]))
    array([0., 1.])
    """
    if not len(others):
        return np.array(vector)
    left, lengths, _ = np.linalg.svd(others.T, full_matrices=False)
    basis = left[:, lengths > LOST * max(float(lengths.max()), LOST)]
    rest = np.asarray(vector, np.float64)
    for _ in range(2):  # the second time takes away what rounding left
        rest = rest - basis @ (basis.T @ rest)
    length = float(np.linalg.norm(rest))
    return np.asarray(rest / length if length > LOST else np.zeros_like(rest))


def cosines(vectors: Floats) -> Floats:
    """Return the cosines between unit directions [m, d], float64 [m, m]."""
    return np.asarray(vectors @ vectors.T)


class Axes(NamedTuple):
    """Principal axes of a layer, as directions of z.

    Attributes:
        vectors: float64 [p, d], of length 1.
        explained: float64 [p], share of the layer's variance along each.
        linear: float64 [p], share of the variance along it that a linear function of z explains (R squared).
    """

    vectors: Floats
    explained: Floats
    linear: Floats


def principal_axes(values: NDArray[Any], z: NDArray[Any], count: int) -> Axes:
    """Return the directions of z that move a layer along its principal axes.

    The values are centred and decomposed; z is then regressed on the coordinates along the axes. These do not
    correlate, so that each axis has its direction by itself: x . z / x . x.

    Args:
        values: [n, K], of a layer, one row a sample.
        z: [n, d], the samples.
        count: axes at most.

    Source: GANSpace, Haerkoenen et al. 2020, section 2.2, with the regression of equation 3. How well z explains each
    axis is our addition.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.standard_normal((2000, 3))
    >>> found = principal_axes(z * [1.0, 5.0, 2.0], z, 2)
    >>> np.diag(found.vectors[:, [1, 2]] > 0.99), found.linear.round(6)
    (array([ True,  True]), array([1., 1.]))
    """
    centred = np.asarray(values, np.float64) - np.mean(values, 0, dtype=np.float64)
    z = np.asarray(z, np.float64) - np.mean(z, 0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((lengths**2).sum())
    if not total:
        raise DataError("the layer is the same for all samples; it has no axes")
    count = min(count, int((lengths > LOST * lengths[0]).sum()))
    coordinates = left[:, :count]
    slopes = coordinates.T @ z
    fitted = z @ np.linalg.lstsq(z, coordinates, rcond=None)[0]
    largest = np.abs(slopes).argmax(1)
    signs = np.sign(slopes[np.arange(count), largest])  # an axis has no sign: its largest part is positive
    norms = np.linalg.norm(slopes, axis=1)
    vectors = np.divide(slopes * signs[:, None], norms[:, None], out=np.zeros_like(slopes), where=norms[:, None] > 0)
    return Axes(vectors, lengths[:count] ** 2 / total, (fitted**2).sum(0))


def monotonicity(scores: NDArray[Any]) -> float:
    """Return how steadily scores rise along walks [w, steps]: the mean of the rank correlations with the step, -1..1.

    Source: Spearman's correlation; its use here is our choice.

    >>> round(monotonicity(np.array([[0.0, 1.0, 5.0], [3.0, 2.0, 1.0]])), 6)
    0.0
    """
    steps = np.arange(scores.shape[1])
    return float(np.mean([correlation(steps, rankdata(row)) for row in scores]))

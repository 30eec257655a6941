"""Matching filters: correlations from sums against numpy's, and the assignment against every permutation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deconvviz.studies.comparison.matching import Moments, match, sharpness, sharpness_error
from deconvviz.types import Floats


def moments(a: Floats, b: Floats) -> Moments:
    """Sums over places of the responses [C, places] of two networks, in two parts."""
    total = None
    for part in (slice(0, 30), slice(30, None)):
        x, y = a[:, part], b[:, part]
        sums = (np.stack([x.sum(1), y.sum(1)]), np.stack([(x * x).sum(1), (y * y).sum(1)]), x @ y.T)
        total = sums if total is None else tuple(old + new for old, new in zip(total, sums, strict=True))
    assert total is not None
    return Moments(a.shape[1], *total)


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 1, (5, 80)), rng.normal(-1, 3, (5, 80))
    b[1] += 2 * a[3]
    expected = np.corrcoef(a, b)[:5, 5:]
    assert moments(a, b).correlations == pytest.approx(expected, abs=1e-12)
    assert moments(a, b).alive.all()


def test_filters_that_never_vary_correlate_with_none_and_are_not_alive() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (3, 80)), rng.normal(0, 1, (3, 80))
    a[0], b[2] = 0, 7.3  # zero, and a constant that the sums keep only up to rounding
    sums = moments(a, b)
    assert sums.alive.tolist() == [[False, True, True], [True, True, False]]
    assert (sums.correlations[0] == 0).all() and (sums.correlations[:, 2] == 0).all()


def test_the_matching_is_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        correlations = rng.uniform(-1, 1, (5, 5))
        best = max(itertools.permutations(range(5)), key=lambda p: sum(correlations[i, j] for i, j in enumerate(p)))
        matching = match(correlations)
        assert matching.partner.tolist() == list(best)
        assert matching.correlation.tolist() == [correlations[i, j] for i, j in enumerate(best)]
        assert matching.same.tolist() == np.diag(correlations).tolist()
        assert matching.best_before.tolist() == correlations.max(1).tolist()
        assert matching.best_after.tolist() == correlations.max(0).tolist()


def test_of_equal_matchings_filters_keep_their_numbers() -> None:
    correlations = np.full((4, 4), 0.3)
    assert match(correlations).partner.tolist() == [0, 1, 2, 3]
    correlations[0, 1] = correlations[1, 0] = 0.9  # two that changed places, two that are alike
    assert match(correlations).partner.tolist() == [1, 0, 2, 3]


def test_sharpness_is_the_gini_index_by_its_definition() -> None:
    maxima = np.random.default_rng(2).normal(0.3, 1, (12, 4))
    values = np.maximum(maxima, 0)
    for channel, found in enumerate(sharpness(maxima)):
        x = values[:, channel]  # half of the relative mean absolute difference
        assert found == pytest.approx(np.abs(x[:, None] - x).sum() / (2 * len(x) ** 2 * x.mean()))
    assert sharpness(np.array([[0.0, 5.0], [0.0, 0.0]])).tolist() == [0, 0.5]


def test_the_error_of_sharpness_leaves_each_image_out_in_turn() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.normal(0.3, 1, (11, 5)), rng.normal(0.1, 1, (11, 5)).round(1)  # with ties
    before[:, 1] = after[:, 2] = 0
    after[:, 3], after[:, 4] = 0, 2 * before[:, 4]
    after[7, 3] = 1.0  # without image 7 it never responds
    found = sharpness_error(before, after)
    without = [[sharpness(np.delete(maxima, image, 0)) for image in range(11)] for maxima in (before, after)]
    differences = np.array(without[1]) - without[0]
    expected = np.sqrt(10 / 11 * ((differences - differences.mean(0)) ** 2).sum(0))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[:4].min() > 0 and found[4] == pytest.approx(0, abs=1e-12)
    assert all(np.isnan(sharpness_error(before[:few], after[:few])).all() for few in (1, 2))


def test_the_error_of_sharpness_is_how_much_it_varies_over_samples() -> None:
    rng = np.random.default_rng(5)
    samples = rng.gamma(2.0, 1.0, (400, 60, 2))
    differences = [float((sharpness(each[:, 1:]) - sharpness(each[:, :1])).item()) for each in samples]
    errors = [float(sharpness_error(each[:, :1], each[:, 1:]).item()) for each in samples]
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.12)

"""Average precision against scikit-learn's, by hand, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest

from deconvviz.errors import DataError
from deconvviz.metrics.ranking import average_precision


@pytest.mark.parametrize("seed", range(20))
def test_it_is_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    count, labels = int(rng.integers(1, 60)), 5
    truth = rng.random((count, labels)) < rng.choice([0.1, 0.5, 0.9])
    truth[rng.integers(count)] = True
    scores = rng.normal(size=truth.shape) + truth
    if seed % 2:  # many equal scores, which come together
        scores = np.round(scores)
    expected = metrics.average_precision_score(truth, scores, average=None)
    np.testing.assert_allclose(average_precision(truth, scores), expected, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    truth = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    scores = np.array([[0.9, 0.5, 1.0], [0.8, 0.5, 2.0], [0.3, 0.5, 3.0], [0.1, 0.5, 4.0]])
    measured = average_precision(truth, scores)
    assert measured[:2].tolist() == [(1 + 2 / 3) / 2, 0.5] and np.isnan(measured[2])
    assert np.isnan(average_precision(truth[:0], scores[:0])).all()


def test_wrong_tables() -> None:
    with pytest.raises(DataError, match=r"labels \[2, 1\] and scores \[2, 2\]"):
        average_precision(np.ones((2, 1), bool), np.ones((2, 2)))
    with pytest.raises(DataError, match="finite"):
        average_precision(np.ones((1, 1), bool), np.full((1, 1), np.nan))

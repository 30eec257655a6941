"""Cosines between filters and correlations between their responses equal their definitions."""

from __future__ import annotations

import numpy as np

from deconvviz.graph.filters import Filters
from deconvviz.metrics.intervals import correlations
from deconvviz.studies.diagnosis.measures.similarity import filter_cosines


def test_cosines_are_of_filters_in_one_group() -> None:
    values = np.random.default_rng(0).standard_normal((6, 2, 3, 3))
    values[1], values[3] = -2 * values[0], 0.5 * values[0]
    got = filter_cosines(Filters(weights=values, scale=np.array([1.0, -1, 1, 1, 1, 1]), groups=2))
    flat = values.reshape(6, -1)
    want = flat[4] @ flat[5] / np.linalg.norm(flat[4]) / np.linalg.norm(flat[5])
    assert np.isclose(got[4, 5], want) and np.isclose(got[0, 1], 1)  # BatchNorm's sign turns the negative back
    assert (got[:3, 3:] == 0).all()
    assert (filter_cosines(Filters(weights=np.zeros((2, 1, 1, 1)), scale=np.ones(2))) == 0).all()


def test_correlations_are_those_of_the_columns() -> None:
    rows = np.random.default_rng(0).random((50, 5)).astype(np.float32)
    rows[:, 4] = 2
    got = correlations(rows)
    want = np.corrcoef(rows[:, :4].astype(np.float64).T) - np.eye(4)
    assert np.allclose(got[:4, :4], want) and (got[4] == 0).all()

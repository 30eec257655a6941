"""Standard errors and correlations: by hand, and against scipy and the standard library."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deconvviz.metrics.intervals import DUPLICATE, NORMAL_95, correlation, standard_error, unit_columns

seeds = st.integers(0, 10**6)


def test_the_constants() -> None:
    assert pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-6) == NORMAL_95
    assert pytest.approx(0.9, abs=0.003) == DUPLICATE**2  # the share of the variance


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 30))
def test_standard_errors(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).normal(3, 2, count)
    assert standard_error(values) == pytest.approx(statistics.stdev(values.tolist()) / math.sqrt(count))


@pytest.mark.filterwarnings("error")
def test_few_values_have_no_standard_error() -> None:
    assert math.isnan(standard_error(np.array([3.0]))) and math.isnan(standard_error(np.array([])))
    assert standard_error(np.array([2.0, 2.0])) == 0
    assert standard_error(np.array([1.0, 3.0])) == 1  # by hand: sqrt(2) / sqrt(2)


def test_unit_columns_by_hand() -> None:
    values = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 3.0], [2.0, 5.0, 0.0]])
    centred = unit_columns(values)
    root = math.sqrt(2)
    assert centred[:, 0] == pytest.approx([-1 / root, 1 / root, 0])  # less the mean 2
    assert centred[:, 1].tolist() == [0, 0, 0]  # constant
    assert centred[:, 2] == pytest.approx(np.array([-1, 2, -1]) / math.sqrt(6))
    plain = unit_columns(values, centred=False)
    assert plain[:, 1] == pytest.approx([1 / math.sqrt(3)] * 3) and plain[:, 2].tolist() == [0, 1, 0]
    assert unit_columns(np.zeros((4, 2)), centred=False).tolist() == [[0, 0]] * 4
    assert unit_columns(values.astype(np.float32)).dtype == np.float64


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(3, 20), st.integers(2, 5))
def test_products_of_unit_columns_are_correlations(seed: int, rows: int, columns: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, columns)) + 10
    unit = unit_columns(values)
    np.testing.assert_allclose(unit.T @ unit, np.corrcoef(values.T), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(3, 40))
def test_correlations(seed: int, count: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, count))
    assert correlation(first, second) == pytest.approx(stats.pearsonr(first, second)[0], abs=1e-10)
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / math.dist([0] * count, first)
    assert correlation(first, second, centred=False) == pytest.approx(cosine / math.dist([0] * count, second))
    assert correlation(torch.from_numpy(first), torch.from_numpy(second)) == correlation(first, second)


def test_correlations_by_hand() -> None:
    square = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert correlation(square, 7 - 2 * square) == pytest.approx(-1) and correlation(square, square) == pytest.approx(1)
    assert correlation(square, np.full((2, 2), 0.1)) == 0 == correlation(np.zeros((2, 2)), square, centred=False)
    assert correlation([3.0, 4.0], [4.0, 3.0], centred=False) == pytest.approx(0.96)
    assert correlation([1.0, 0.0], [0.0, 2.0], centred=False) == 0
    assert -1 <= correlation(np.array([1e-9, 2e-9, 3e-9]), np.array([1e9, 2e9, 3e9])) <= 1

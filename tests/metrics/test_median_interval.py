"""The interval of a median: by hand, by the binomial distribution, and by what it covers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from deconvviz.metrics.intervals import median_interval


def test_small_cases_by_hand() -> None:
    """One value says nothing of others; of two, the medians are a, (a + b) / 2 and b with 1/4, 1/2 and 1/4."""
    assert median_interval(np.array([7.5]))[0] == 7.5 and np.isnan(median_interval(np.array([7.5]))[1:]).all()
    assert median_interval(np.array([4.0, 2.0])) == (3.0, 2.0, 4.0)
    assert median_interval(np.array([1.0, 1.0, 1.0, 1.0])) == (1.0, 1.0, 1.0)
    assert all(math.isnan(end) for end in median_interval(np.array([])))


def test_the_resampled_medians_of_five() -> None:
    """All 5^5 samples: the 2.5 % and 97.5 % percentiles of their medians are the smallest and the largest value.

    A median is the smallest of five values where it was drawn three times or more: with 181 / 3125 = 5.8 %.
    """
    values = np.array([3.0, -1.0, 10.0, 4.0, 6.0])
    medians = np.array([np.median(values[list(drawn)]) for drawn in product(range(5), repeat=5)])
    assert (medians == -1).mean() == pytest.approx(181 / 3125)
    assert median_interval(values) == (4.0, *np.percentile(medians, [2.5, 97.5]))
    assert median_interval(values)[1:] == (-1.0, 10.0)


def test_many_values_against_the_binomial_distribution() -> None:
    """The median of a resample is at most the k-th value with the probability that more than half are."""
    values = np.random.default_rng(3).permutation(np.arange(101.0))
    middle, low, high = median_interval(values, draws=20000)
    chance = binom.sf(50, 101, np.arange(1, 102) / 101)  # that the resampled median is at most value k
    expected = np.searchsorted(chance, 0.025), np.searchsorted(chance, 0.975)
    assert middle == 50 and abs(low - expected[0]) <= 1 and abs(high - expected[1]) <= 1


def test_the_interval_covers() -> None:
    """400 samples of 30 values of a skewed distribution, with a fixed seed: about 95 % of the intervals hold ln 2."""
    generator = np.random.default_rng(11)
    intervals = [median_interval(generator.exponential(size=30), 500, seed) for seed in range(400)]
    covered = np.mean([low <= math.log(2) <= high for _, low, high in intervals])
    assert 0.92 <= covered <= 0.98
    below = np.mean([high < math.log(2) for _, _, high in intervals])
    assert abs(below - (1 - covered) / 2) < 0.03  # it misses to either side


def test_it_is_the_same_every_time() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert median_interval(values) == median_interval(values) == median_interval(list(values))  # type: ignore[arg-type]
    assert median_interval(values, seed=1)[0] == median_interval(values)[0]
    assert median_interval(values.astype(np.float32))[0] == pytest.approx(median_interval(values)[0], rel=1e-6)

"""The interval of a paired difference: by hand, by what it covers, and by its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from deconvviz.metrics.intervals import paired_interval


def test_the_interval_by_hand() -> None:
    """9 lost and 2 gained of 50: (10 - 3) / 52 +- 1.96 sqrt((13 / 52 - (7 / 52)^2) / 52)."""
    low, high = paired_interval(np.array([9, 0]), np.array([2, 0]), 50).T
    assert low[0] == pytest.approx(0.003734, abs=1e-5) and high[0] == pytest.approx(0.265496, abs=1e-5)
    assert -low[1] == high[1] == pytest.approx(1.959964 * math.sqrt(2) / 52)  # not nothing where nothing was seen


def test_the_interval_covers() -> None:
    """All outcomes of 40 images, weighed by their probability: 95 % of them cover the true difference, or nearly."""
    count = 40
    lost, gained = (a.ravel() for a in np.meshgrid(np.arange(count + 1), np.arange(count + 1)))
    lost, gained = lost[lost + gained <= count], gained[lost + gained <= count]
    low, high = paired_interval(lost, gained, count).T
    covered = []
    for p in (0.01, 0.05, 0.1, 0.2, 0.4):
        for q in (0.01, 0.05, 0.1, 0.2, 0.4):
            weights = multinomial.pmf(np.stack([lost, gained, count - lost - gained], 1), count, [p, q, 1 - p - q])
            covered.append(weights[(low <= p - q) & (p - q <= high)].sum())
    assert min(covered) > 0.935 and 0.945 < np.mean(covered) < 0.975


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_what_was_seen(count: int, a: float, b: float) -> None:
    lost = round(a * count)
    gained = round(b * (count - lost))
    low, high = paired_interval(np.array(lost), np.array(gained), count)
    assert -1 <= low <= (lost - gained) / count + 1e-12 and (lost - gained) / count - 1e-12 <= high <= 1
    mirrored = paired_interval(np.array(gained), np.array(lost), count)
    assert np.allclose(mirrored, [-high, -low])

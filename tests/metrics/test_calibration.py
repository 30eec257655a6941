"""Calibration: a case by hand, a replica from the definition, and the interval of a paired difference."""

from __future__ import annotations

import numpy as np
import pytest

from deconvviz.errors import DataError
from deconvviz.metrics.calibration import calibration_change, reliability
from deconvviz.types import Floats, Mask


def drawn(seed: int, count: int = 400, sharp: float = 1.0) -> tuple[Floats, Mask]:
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1.5, count)
    return confidence, rng.random(count) < confidence**sharp


def replica(confidence: Floats, correct: Mask, bins: int) -> float:
    """Guo et al. 2017, equation 3, image by image: (lower, upper] bins, as torchmetrics' "l1" norm sums them."""
    total = 0.0
    for m in range(bins):
        lower, upper = m / bins, (m + 1) / bins
        inside = [
            i for i in range(len(confidence)) if lower < confidence[i] <= upper or (m == 0 and confidence[i] == 0)
        ]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def test_a_case_by_hand() -> None:
    # Of ten bins: 0.95 and 0.92 are in the last (both right), 0.55 and 0.55 in the sixth (one right), 0.1 in the first
    confidence = np.array([0.95, 0.92, 0.55, 0.55, 0.1])
    result = reliability(confidence, np.array([True, True, True, False, False]), bins=10)
    assert result.count.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert result.accuracy[[0, 5, 9]].tolist() == [0, 0.5, 1] and np.isnan(result.accuracy[1])
    assert result.error == pytest.approx((2 * 0.065 + 2 * 0.05 + 0.1) / 5)
    assert result.overconfidence == pytest.approx(confidence.mean() - 0.6)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_is_the_definition(bins: int) -> None:
    for seed in range(4):
        confidence, correct = drawn(seed, 150)
        assert reliability(confidence, correct, bins).error == pytest.approx(
            replica(confidence, correct, bins), abs=1e-12
        )


def test_the_edges_of_bins_belong_to_the_lower_one() -> None:
    edges = np.linspace(0, 1, 16)
    assert reliability(edges, np.ones(16, bool)).count.tolist() == [2] + [1] * 14  # 0 is in the first one too


def test_certain_and_right_has_no_error_and_certain_and_wrong_has_all_of_it() -> None:
    assert reliability(np.ones(5), np.ones(5, bool)).error == 0
    assert reliability(np.ones(5), np.zeros(5, bool)).error == 1


def test_a_change_is_the_difference_of_both_errors_and_the_interval_that_of_resampled_images() -> None:
    before, after = drawn(0), drawn(1, sharp=3.0)
    change = calibration_change(before, after, bins=10, draws=300, seed=7)
    errors = [replica(*each, 10) for each in (before, after)]
    assert change.value == pytest.approx(errors[1] - errors[0], abs=1e-12) and change.low < change.value < change.high
    rng = np.random.default_rng(5)
    again = []
    for _ in range(300):
        some = rng.integers(0, 400, 400)
        again.append(replica(after[0][some], after[1][some], 10) - replica(before[0][some], before[1][some], 10))
    assert np.percentile(again, [2.5, 97.5]) == pytest.approx([change.low, change.high], abs=0.02)


def test_of_a_single_image_the_change_is_known_and_its_interval_is_not() -> None:
    change = calibration_change((np.array([0.9]), np.array([True])), (np.array([0.6]), np.array([False])))
    assert change.value == pytest.approx(0.6 - 0.1) and np.isnan([change.low, change.high]).all()


def test_refusals() -> None:
    with pytest.raises(DataError, match="a confidence outside"):
        reliability(np.array([1.2]), np.array([True]))
    with pytest.raises(DataError, match="as many"):
        reliability(np.array([0.5, 0.5]), np.array([True]))
    with pytest.raises(DataError, match="the same images"):
        calibration_change(drawn(0, 5), drawn(0, 6))

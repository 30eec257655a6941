"""Splits, accuracy and probes against plain scikit-learn and planted truth."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from deconvviz.errors import DataError, DeconvvizError, LayerNotFound
from deconvviz.results.features import FeatureArrays
from deconvviz.studies.probing import measure as probing
from deconvviz.studies.probing.measure import class_accuracy, draw_splits, probe
from deconvviz.studies.probing.result import ProbeResult
from deconvviz.studies.probing.settings import ProbeSettings

# --- splits and accuracy ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=5),
    per_class=st.integers(1, 6),
    test=st.one_of(st.none(), st.integers(1, 4)),
    seed=st.integers(0, 9),
)
def test_splits(counts: list[int], per_class: int, test: int | None, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat([-1, *range(len(counts))], [3, *counts]))
    asked = ProbeSettings(per_class=(per_class,), splits=3, test=test, costs=(1.0,), seed=seed)
    present = [n for n, count in enumerate(counts) if count]
    if len(present) < 2 or min(counts[n] for n in present) <= per_class:
        with pytest.raises(DataError):
            draw_splits(labels, asked)
        return
    splits = draw_splits(labels, asked)
    for split in splits:
        assert labels[split.train].tolist() == [[n] * per_class for n in present]
        everything = [*split.train.ravel(), *split.test]
        assert len(everything) == len(set(everything))
        rest = {n: counts[n] - per_class for n in present}
        expected = {n: left if test is None else min(left, test) for n, left in rest.items()}
        assert {n: int((labels[split.test] == n).sum()) for n in present} == expected
        assert len(split.test) == sum(expected.values())
    again = draw_splits(labels, asked)
    assert all(
        np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test) for a, b in zip(splits, again, strict=True)
    )
    if max(counts) > 8 and per_class > 2:
        assert any(not np.array_equal(splits[0].train, other.train) for other in splits[1:])


def test_accuracy_is_the_mean_over_the_classes() -> None:
    truth = np.array([0] * 8 + [1] * 2 + [5] * 4)
    predicted = np.array([0] * 6 + [1] * 2 + [1, 0] + [0] * 4)
    assert class_accuracy(truth, predicted) == pytest.approx((6 / 8 + 1 / 2 + 0) / 3)  # 7 of 14 would be 0.5


# --- probes ----------------------------------------------------------------------------------------------------------


def table(noise: float, counts: tuple[int, ...] = (30,) * 4, width: int = 200, seed: int = 0) -> FeatureArrays:
    """Features around a random centre for each class, with scales and offsets that the probes have to level."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = rng.normal(size=(len(counts), width))[labels] + noise * rng.normal(size=(len(labels), width))
    scaled = values * rng.lognormal(0, 2, width) + rng.normal(0, 50, width)
    order = rng.permutation(len(labels))
    return FeatureArrays({"a": scaled[order].astype(np.float32)}, labels[order], ("p", "q", "r", "s"))


@pytest.mark.slow
def test_what_is_separable_is_told_apart() -> None:
    asked = ProbeSettings(per_class=(3, 10), splits=3)
    found = probe(table(0.3), settings=asked, progress=False)
    assert found.accuracy.shape == (1, 2, 2, 3) and (found.accuracy == 1).all() and (found.deviation == 0).all()
    assert found.chance == 0.25 and found.tested == 80 and found.layers == {"a": 200}


@pytest.mark.slow
def test_noise_is_at_chance() -> None:
    """Some 4 standard errors of one split's 400 images, which several splits of the same images can only narrow."""
    rng, labels = np.random.default_rng(3), np.repeat(np.arange(10), 45)
    noise = FeatureArrays({"a": rng.normal(size=(450, 600)).astype(np.float32)}, labels)
    found = probe(noise, settings=ProbeSettings(per_class=(5,), splits=4, costs=(0.1, 10.0)), progress=False)
    assert np.abs(found.mean - 0.1).max() < 4 * math.sqrt(0.1 * 0.9 / 400)


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("width", [30, 200])  # more training images than features, and fewer: in their span
def test_probes_are_plain_scikit_learn(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same classifiers on all features in float64, splits drawn the same, costs chosen by loops; unbalanced."""
    monkeypatch.setattr(probing, "CHUNK", 7)
    features, costs = table(3.5 if width < 100 else 8, (60, 25, 40), width), (0.01, 1.0, 100.0)
    asked = ProbeSettings(per_class=(4, 15), splits=2, test=30, costs=costs, seed=5)
    found = probe(features, ["a"], asked, progress=False)
    makers: tuple[Callable[[float], Any], ...] = (
        lambda c: LinearSVC(C=c, dual=False, tol=1e-6, max_iter=10000),
        lambda c: LogisticRegression(C=c, tol=1e-6, max_iter=10000),
    )
    x, labels = features.arrays["a"].astype(np.float64), features.labels
    for s, split in enumerate(draw_splits(labels, asked)):
        for k, count in enumerate(asked.per_class):
            rows = np.concatenate([members[:count] for members in split.train])
            scaler = StandardScaler().fit(x[rows])
            inside, outside = (scaler.transform(x[r]) / math.sqrt(width) for r in (rows, split.test))
            folds = np.concatenate([np.arange(count) % 3] * 3)
            for p, make in enumerate(makers):
                scores = []
                for cost in costs:
                    fold_scores = []
                    for f in range(3):
                        guess = make(cost).fit(inside[folds != f], labels[rows][folds != f]).predict(inside[folds == f])
                        truth = labels[rows][folds == f]
                        fold_scores.append(np.mean([(guess[truth == c] == c).mean() for c in range(3)]))
                    scores.append(np.mean(fold_scores))
                best = costs[int(np.argmax(np.round(scores, 9)))]
                assert found.costs[0, p, k, s] == best
                guess = make(best).fit(inside, labels[rows]).predict(outside)
                expected = np.mean([(guess[labels[split.test] == c] == c).mean() for c in range(3)])
                assert found.accuracy[0, p, k, s] == pytest.approx(expected, abs=1e-9)
    assert found.mean.min() > 0.4 and found.mean.max() < 0.95  # neither chance nor certainty, which prove little


def test_the_table(tmp_path: pathlib.Path) -> None:
    asked = ProbeSettings(per_class=(15, 5), splits=2, costs=(1.0,))
    accuracy = np.array([0.5, 0.7, 0.8, 0.8, 0.1, 0.3, 0.2, 0.6]).reshape(1, 2, 2, 2)
    found = ProbeResult(
        layers={"conv5": 9216},
        settings=asked,
        chance=0.1,
        accuracy=accuracy,
        costs=np.ones_like(accuracy),
        tested=90,
    )
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert asked.per_class == (5, 15)
    expected = {
        "svm_5": 0.6,
        "svm_5_deviation": 0.2 / math.sqrt(2),
        "svm_15": 0.8,
        "svm_15_deviation": 0,
        "softmax_5": 0.2,
        "softmax_5_deviation": 0.2 / math.sqrt(2),
        "softmax_15": 0.4,
        "softmax_15_deviation": 0.4 / math.sqrt(2),
    }
    assert (row.pop("layer"), row.pop("values")) == ("conv5", "9216")
    assert {name: float(value) for name, value in row.items()} == pytest.approx(expected, abs=1e-6)
    assert "60.0 ± 14.1" in repr(found) and "conv5" in repr(found) and "chance 10.0" in repr(found)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"per_class": (5, 12)}, r"12 training .* class 'q' has 12 images, .*\(such as 5\) with --per-class"),
        ({"per_class": (2,)}, "2 images a class given; to choose among 5 costs they are split into 3 folds"),
        ({"per_class": ()}, r"per class \(\) given"),
        ({"per_class": (0,)}, r"per class \(0,\) given"),
        ({"splits": 1}, "splits 1 given; expected 2 or more"),
        ({"test": 0}, "test 0 given"),
        ({"costs": (0.0,)}, r"costs \(0.0,\) given; expected positive"),
        ({"probes": ()}, r"probes \(\) given; expected some of svm, softmax"),
        ({"probes": ("swm",)}, "no probe named 'swm'; nearest: svm"),
    ],
)
def test_wrong_questions(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DeconvvizError, match=complaint) as error:
        probe(table(1, (20, 12, 30)), settings=ProbeSettings(**{"per_class": (5,), **change}), progress=False)
    assert "\n" not in str(error.value)


def test_wrong_features(monkeypatch: pytest.MonkeyPatch) -> None:
    few, features = ProbeSettings(per_class=(3,), splits=2), table(1)
    with pytest.raises(LayerNotFound, match="no features of layer 'b'; nearest: a"):
        probe(features, ["b"], few, progress=False)
    for labels in (np.full(120, -1), np.zeros(120, np.int64)):
        with pytest.raises(DataError, match=r"120 images of (0 known classes|1 known class) given"):
            probe(FeatureArrays(features.arrays, labels), settings=few, progress=False)
    values = features.arrays["a"].copy()
    values[:, 4] = np.inf
    with pytest.raises(DataError, match="not finite"):
        probe(FeatureArrays({"a": values}, features.labels), settings=few, progress=False)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(DataError, match=r"pip install scikit-learn$"):
        probe(features, settings=few, progress=False)


@pytest.mark.parametrize(
    ("images", "chosen"),
    [(300, (5, 15, 30)), (45, (5, 15, 30)), (44, (5, 15)), (30, (5, 15)), (8, (5,)), (7, (4,)), (5, (3,)), (4, (3,))],
)
def test_numbers_of_training_images_leave_enough_to_test(images: int, chosen: tuple[int, ...]) -> None:
    """Worked by hand: those of 5, 15, 30 that are at most two thirds; of small classes two thirds, from 3 on."""
    asked = ProbeSettings(splits=3, seed=4)
    fitted = asked.fitted_to(images)
    assert fitted == dataclasses.replace(asked, per_class=chosen)
    labels = np.repeat([0, 1], [images, images + 3])
    assert min(len(split.test) for split in draw_splits(labels, fitted)) == 2 * (images - chosen[-1]) + 3
    with pytest.raises(DataError, match="has 3 images; expected 4 or more, 3 to train on and 1 to test"):
        asked.fitted_to(3)
    assert dataclasses.replace(asked, costs=(1.0,)).fitted_to(2).per_class == (1,)

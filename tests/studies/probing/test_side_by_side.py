"""The splits of a probe run side by side, and come out as they do one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from deconvviz.results.features import FeatureArrays
from deconvviz.studies.probing import measure
from deconvviz.studies.probing.measure import draw_splits, probe
from deconvviz.studies.probing.settings import ProbeSettings


def test_splits_run_side_by_side_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each split measures stands in its own place, and linear algebra takes no threads of its own meanwhile."""
    from threadpoolctl import threadpool_info

    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    table = FeatureArrays(
        {name: rng.normal(size=(60, 8)) + far * labels[:, None] for name, far in (("noise", 0), ("far", 9))}, labels
    )
    settings = ProbeSettings(per_class=(4, 8), splits=3, probes=("svm",), costs=(1.0,))
    expected = np.empty((2, 1, 2, 3))
    for place, name in enumerate(table.layers):
        for number, split in enumerate(draw_splits(labels, settings)):
            for column, count in enumerate(settings.per_class):
                train, truth = split.train[:, :count].ravel(), labels[split.test]
                scaler = StandardScaler().fit(table.arrays[name][train])
                svm = LinearSVC(C=1.0, dual=False).fit(
                    scaler.transform(table.arrays[name][train]) / 8**0.5, labels[train]
                )
                guess = svm.predict(scaler.transform(table.arrays[name][split.test]) / 8**0.5)
                expected[place, 0, column, number] = np.mean([(guess == truth)[truth == c].mean() for c in range(3)])
    threads: list[int] = []
    original = measure._probe_split

    def counted(*arguments: Any) -> Any:
        threads.extend(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
        return original(*arguments)

    monkeypatch.setattr(measure, "_probe_split", counted)
    result = probe(table, settings=settings, progress=False)
    assert np.allclose(result.accuracy, expected) and len(np.unique(expected)) > 3
    assert threads and set(threads) == {1}

"""What is drawn or chosen of images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvviz.data.sampling import spread


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(1, 45))
@settings(max_examples=60, deadline=None)
def test_spread(labels: list[int], count: int) -> None:
    given = np.array(labels)
    chosen = spread(given, count)
    assert len(chosen) == min(count, len(labels)) and (np.diff(chosen) > 0).all()
    times = {label: int((given[chosen] == label).sum()) for label in labels}
    for label, n in times.items():  # a class comes again only when every other one has come as often, or is used up
        assert all(n - 1 <= m or m == labels.count(other) for other, m in times.items()), times
        first = np.flatnonzero(given == label)[:n]
        assert np.array_equal(first, chosen[given[chosen] == label])


def test_spread_takes_classes_evenly() -> None:
    assert spread(np.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
    assert spread(np.array([1, 1, 0, 0]), 2).tolist() == [0, 2]
    assert spread(np.array([0, 0, 0, 1]), 1).tolist() == [0]

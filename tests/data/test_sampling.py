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
        members, rank = np.flatnonzero(given == label), sorted(set(labels)).index(label)
        places = [int((i + (rank + 0.5) / len(set(labels))) * len(members) / n) for i in range(n)]
        assert np.array_equal(members[places], chosen[given[chosen] == label])


def test_spread_takes_classes_evenly() -> None:
    assert spread(np.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
    assert spread(np.array([1, 1, 0, 0]), 2).tolist() == [1, 2]
    assert spread(np.array([0, 0, 0, 0, 1]), 1).tolist() == [1]
    assert spread(np.repeat(np.arange(10), 1000), 60).tolist()[::6] == [
        c * 1000 + int((c + 0.5) / 10 * 1000 / 6) for c in range(10)
    ]

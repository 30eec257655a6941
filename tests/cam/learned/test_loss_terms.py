"""The terms that the losses share, smoothness and area, by hand and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
import replicas_learned as rl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deconvviz.cam.learned import base

SQUARE = [[0.5, 1.0], [0.0, 0.25]]
# down .5^2 + .75^2 = .8125, across .5^2 + .25^2 = .3125, border 1.25 + .0625 + .25 + 1.0625 = 2.625, of which 0.3
OBLONG = [[0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
# down 1 + 1, across 3 + 0 + 1, border 2 + 1 + 1.25 + 1.25 = 5.5
BY_HAND = [(SQUARE, (0.8125 + 0.3125 + 0.3 * 2.625) / 2), (OBLONG, (2 + 4 + 0.3 * 5.5) / 2)]
ROOTS = {0.0: 0.102256518256357, 0.25: 0.660149530976637, 0.5: 0.812495986836937, 1.0: 1.000149973757435}  # of a+.0005


@pytest.mark.parametrize(("given", "expected"), BY_HAND)
def test_smoothness_and_area_by_hand(given: list[list[float]], expected: float) -> None:
    one = torch.tensor([given], dtype=torch.float64)
    two = torch.cat([one, one])
    assert float(base.smoothness(one)) == pytest.approx(expected, rel=1e-14)
    assert float(base.smoothness(two)) == pytest.approx(expected, rel=1e-14)  # a mean over images
    assert float(base.smoothness(two, 1)) == pytest.approx(2 * expected, rel=1e-14)
    numbers = [value for row in given for value in row]
    mean = sum(ROOTS[value] for value in numbers) / len(numbers)
    assert float(base.area(one, 0.3)) == pytest.approx(mean, rel=1e-13)
    assert float(base.area(one, 1.0)) == pytest.approx(sum(numbers) / len(numbers) + 0.0005, rel=1e-13)
    assert rl.total_variation(one.numpy()) == pytest.approx(expected) and rl.area(one.numpy()) == pytest.approx(mean)


MAPS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1))


@settings(max_examples=60, deadline=None)
@given(maps=MAPS, factor=st.floats(0.1, 3), level=st.floats(0, 1))
def test_properties_of_smoothness_and_area(maps: rl.Array, factor: float, level: float) -> None:
    a, (_, h, w) = torch.from_numpy(maps), maps.shape
    smooth, area = float(base.smoothness(a)), float(base.area(a, 0.3))
    assert smooth == pytest.approx(rl.total_variation(maps), abs=1e-12) and area == pytest.approx(rl.area(maps))
    for turned in (a.flip(1), a.flip(2), a.transpose(1, 2)):
        assert float(base.smoothness(turned)) == pytest.approx(smooth, abs=1e-12)
        assert float(base.area(turned, 0.3)) == pytest.approx(area)
    assert float(base.smoothness(a * factor)) == pytest.approx(factor**2 * smooth, abs=1e-12)
    flat = torch.full((1, h, w), level, dtype=torch.float64)
    assert float(base.smoothness(flat)) == pytest.approx(0.3 * level**2 * (h + w), abs=1e-12)  # the border alone
    assert float(base.area(torch.maximum(a, flat), 0.3)) >= area - 1e-12
    assert 0.0005**0.3 - 1e-12 <= area <= 1.0005**0.3 + 1e-12

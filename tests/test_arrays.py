"""Small rules about arrays: evenly spread numbers, and the dtype to compute in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconvviz.arrays import evenly, widened


@given(st.integers(0, 300), st.integers(1, 60))
def test_evenly_spread_numbers(count: int, most: int) -> None:
    numbers = evenly(count, most)
    assert numbers.dtype == np.int64 and len(numbers) == min(count, most)
    if count:
        assert numbers[0] == 0 and numbers[-1] == (count - 1 if most > 1 or count == 1 else 0)
        steps = np.diff(numbers)
        assert (steps > 0).all() and (not len(steps) or steps.max() - steps.min() <= 1)


def test_evenly_by_hand() -> None:
    assert evenly(101, 5).tolist() == [0, 25, 50, 75, 100] and evenly(4, 9).tolist() == [0, 1, 2, 3]
    assert evenly(10, 4).tolist() == [0, 3, 6, 9] and evenly(7, 1).tolist() == [0] and evenly(0, 3).tolist() == []


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_widened(dtype: torch.dtype, wide: torch.dtype) -> None:
    assert widened(dtype) == wide

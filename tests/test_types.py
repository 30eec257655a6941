"""A box, by hand and by the pixels that it covers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import deconvviz as dv
from deconvviz.types import Box


def test_a_box_by_hand() -> None:
    box = Box(top=2, left=3, bottom=7, right=9)
    assert box == (2, 3, 7, 9) and dv.Box is Box
    assert (box.height, box.width) == (5, 6)
    picture = np.arange(10 * 12).reshape(10, 12)
    inside = box.of(picture)
    assert inside.shape == (5, 6) and inside[0, 0] == 2 * 12 + 3 and inside[-1, -1] == 6 * 12 + 8
    inside[:] = -1  # a view: the picture changes
    assert (picture == -1).sum() == 30
    assert box.of(np.zeros((10, 12, 3))).shape == (5, 6, 3)


edges = st.integers(-6, 14)


@settings(max_examples=80, deadline=None)
@given(edges, edges, edges, edges)
def test_a_clipped_box_covers_the_pixels_inside(top: int, left: int, bottom: int, right: int) -> None:
    clipped = Box(top, left, bottom, right).clipped(8, 10)
    covered = [(y, x) for y in range(8) for x in range(10) if top <= y < bottom and left <= x < right]
    assert covered == [(y, x) for y in range(clipped.top, clipped.bottom) for x in range(clipped.left, clipped.right)]

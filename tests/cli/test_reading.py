"""The example of how a filter is read: shares on parts against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deconvviz.cli.reading import part_shares
from deconvviz.data.preprocess import Preprocess
from deconvviz.types import Box


def test_shares_of_the_energy_by_kind_of_part() -> None:
    """The picture of 12 px is cropped by 2 px all around; the window begins one pixel further down and right."""
    parts = {name: np.zeros((12, 12), bool) for name in ("front wheel", "rear wheel", "roof", "door")}
    parts["front wheel"][5, 3] = parts["rear wheel"][5, 5:7] = parts["roof"][3, 3:7] = True
    parts["door"][11, 11] = True  # which the crop takes away
    energy = np.ones((4, 4))
    energy[2, 0] = 5  # on the front wheel: row 5 - 2 - 1, column 3 - 2 - 1
    shares = part_shares(energy, Box(1, 1, 5, 5), parts, Preprocess(resize=None, crop=8))
    assert shares == {"wheel": pytest.approx(7 / 20), "roof": pytest.approx(4 / 20)}

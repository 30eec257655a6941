"""How far maps move: each measure from its definition, in numpy and float64, and cases that are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.movement import MOVES, moves
from deconvviz.types import Floats


def maps(seed: int, levels: int | None = None, count: int = 4) -> Tensor:
    values = torch.rand(count, 13, 17, generator=torch.Generator().manual_seed(seed))
    return values if levels is None else (values * levels).floor() / levels


def strongest(flat: Floats) -> set[int]:
    order = sorted(range(len(flat)), key=lambda place: (-flat[place], place))
    return {place for place in order[: round(0.15 * len(flat))] if flat[place] > 0}


def similarity(before: Floats, after: Floats) -> float:
    """SSIM of Wang et al. 2004: moments within every 11 x 11 window that fits, Gaussian with sigma 1.5, unbiased."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window, unbiased = np.outer(line, line) / line.sum() ** 2, 121 / 120
    p, q = (sliding_window_view(each, (11, 11)) for each in (before, after))
    mean_p, mean_q, square_p, square_q, product = ((window * each).sum((2, 3)) for each in (p, q, p * p, q * q, p * q))
    spread = unbiased * (square_p - mean_p**2 + square_q - mean_q**2) + 0.03**2
    together = 2 * unbiased * (product - mean_p * mean_q) + 0.03**2
    level = (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
    return float((level * together / spread).mean())


def replica(before: Floats, after: Floats) -> list[float]:
    a, b = before.ravel(), after.ravel()
    both, either = strongest(a) & strongest(b), strongest(a) | strongest(b)
    return [
        1 - similarity(before, after),
        1 - float(np.corrcoef(a, b)[0, 1]),
        1 - float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]),
        float(np.abs(a - b).mean()),
        1 - len(both) / len(either),
    ]


@pytest.mark.parametrize("levels", [None, 5])
def test_by_definition(levels: int | None) -> None:
    before, after = maps(0, levels), maps(1, levels)
    before[0] = torch.where(before[0] < (0.93 if levels is None else 0.7), 0.0, before[0])  # most pixels are 0
    found = moves(before, after)
    assert tuple(found) == MOVES and all(values.dtype == torch.float64 for values in found.values())
    pairs = zip(before.double().numpy(), after.double().numpy(), strict=True)
    expected = np.array([replica(*pair) for pair in pairs])
    assert np.abs(torch.stack([*found.values()], 1).numpy() - expected).max() < 1e-9
    flat = before[1].ravel().double(), after[1].ravel().double()
    assert float(found["spearman"][1]) == pytest.approx(1 - spearmanr(*flat)[0])


def test_the_same_map_has_not_moved() -> None:
    """Exactly: also where a map is constant, and where rounding would leave something."""
    same = torch.cat([maps(2), torch.zeros(1, 13, 17), maps(3, 3)])
    assert all(not values.any() for values in moves(same, same.clone()).values())


def test_the_largest_values() -> None:
    ramp = torch.linspace(0, 1, 20 * 20).reshape(1, 20, 20)
    turned = moves(ramp, 1 - ramp)
    assert [round(float(turned[name]), 6) for name in ("pearson", "spearman", "top_15")] == [2, 2, 1]
    others = [moves(ramp, other) for other in (ramp.mT, ramp.flip(1), ramp.roll(7, 1))]
    assert all(turned[name] >= other[name] for other in others for name in MOVES)
    vanished = moves(ramp, torch.zeros_like(ramp))
    assert [float(vanished[name]) for name in ("ssim", "pearson", "spearman", "top_15")] == [1] * 4
    assert float(vanished["l1"]) == pytest.approx(0.5)


def test_only_overlap_counts_of_maps_that_are_mostly_zero() -> None:
    """Two single points: no zeros fill up the strongest 15 %."""
    before, after = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)
    before[0, 3, 4], after[0, 8, 8] = 1, 1
    assert float(moves(before, after)["top_15"]) == 1
    after[0, 3, 4] = 0.5
    assert float(moves(before, after)["top_15"]) == 0.5


def test_bad_input() -> None:
    a = maps(0)
    with pytest.raises(DataError, match=r"after: \[3, 13, 17\] given; expected \[4, 13, 17\]"):
        moves(a, a[:3])
    with pytest.raises(DataError, match=r"before: values from .* given; expected 0 to 1"):
        moves(2 * a, a)
    with pytest.raises(DataError, match="expected 11 x 11 or more"):
        moves(a[:, :10], a[:, :10])

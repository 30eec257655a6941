"""Quantiles of a histogram of bins, against those of NumPy on all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconvviz.studies.dissection import quantiles as module
from deconvviz.studies.dissection.quantiles import BINS, ERROR, SIDE, bins_of, count, quantiles

RNG = np.random.default_rng(0)
VALUES = {
    "normal": RNG.normal(size=(6, 3, 20, 30)),
    "rectified": np.maximum(RNG.normal(size=(6, 3, 20, 30)), 0),
    "small and large": RNG.normal(size=(6, 3, 20, 30)) * np.array([1e-5, 1, 1e5])[:, None, None],
    "negative": -RNG.exponential(size=(6, 3, 20, 30)) - 0.1,
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.995, 0.9999])
def test_thresholds_are_within_the_bound_below_numpys_quantiles(kind: str, share: float) -> None:
    values = VALUES[kind].astype(np.float32)
    histogram = torch.zeros(3, BINS, dtype=torch.long)
    for batch in np.split(values, 3):
        count(histogram, torch.from_numpy(batch))
    assert histogram.sum(1).tolist() == [3600] * 3
    exact = np.quantile(values.transpose(1, 0, 2, 3).reshape(3, -1), share, axis=1, method="inverted_cdf")
    ours = quantiles(histogram.numpy(), share)
    zero = exact == 0
    assert (ours[zero] == 0).all()
    below = (exact - ours)[~zero] / np.abs(exact[~zero])
    assert (below > 0).all() and (below <= ERROR).all()


def test_channels_last_maps_and_parts_of_batches_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.from_numpy(VALUES["normal"].astype(np.float32))
    expected, ours = (torch.zeros(3, BINS, dtype=torch.long) for _ in range(2))
    count(expected, maps)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    count(ours, maps.contiguous(memory_format=torch.channels_last))
    assert torch.equal(ours, expected)
    counts = np.bincount(bins_of(maps[:, 1]).flatten().numpy(), minlength=BINS)
    assert (expected[1].numpy() == counts).all()


def test_bins_are_in_the_order_of_their_values() -> None:
    values = np.sort(np.concatenate([VALUES["small and large"].ravel(), [0, 1e-9, -1e-9, 1e30, -1e30]]))
    bins = bins_of(torch.from_numpy(values.astype(np.float32)))
    assert (bins.diff() >= 0).all() and bins[0] == 0 and bins[-1] == BINS - 1
    assert (bins_of(torch.tensor([0.0, -0.0, 1e-9, -1e-9])) == SIDE).all()


def test_a_channel_at_its_ceiling_is_above_its_threshold_there() -> None:
    maps = torch.full((1, 1, 10, 10), 6.0)
    maps[..., :5] = 0.5
    histogram = torch.zeros(1, BINS, dtype=torch.long)
    count(histogram, maps)
    threshold = float(quantiles(histogram.numpy(), 0.995)[0])
    assert 6 * (1 - ERROR) <= threshold < 6

"""The range of each channel against a plain count and a sort, and merges and resumed runs against one run."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.studies.mining.reduction import bins_of
from deconvviz.studies.mining.result import RANGES, Mined
from deconvviz.studies.mining.spread import BINS, SAMPLE, SIDE, Spread, edges, sample_of

PREPROCESS = dv.Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1))


def test_a_bin_holds_what_lies_between_its_edges() -> None:
    limits = edges()
    assert len(limits) == BINS + 1 and (np.diff(limits[1:-1]) > 0).all() and np.isinf(limits[[0, -1]]).all()
    np.testing.assert_array_equal(limits, -limits[::-1])
    random = np.random.default_rng(0)
    drawn = random.choice([-1, 1], 4000) * 2.0 ** random.uniform(-15, 19, 4000)
    inner = limits[SIDE + 1 : -1]
    values = np.concatenate([drawn, inner, -inner, [0.0, -0.0], np.nextafter(inner, 0)]).astype(np.float32)
    bins = bins_of(torch.from_numpy(values)).numpy()
    positive = np.searchsorted(inner.astype(np.float32), np.abs(values), side="right")  # edges belong to what is above
    np.testing.assert_array_equal(bins, SIDE + np.sign(values) * positive)
    assert bins.min() >= 0 and bins.max() < BINS
    wide = limits[SIDE + 2 : -1] / limits[SIDE + 1 : -2]
    assert wide.max() == pytest.approx(1.25)


def test_a_sample_is_random_and_the_same_however_images_are_divided() -> None:
    whole = np.arange(5000)
    sample = sample_of(whole, 500)
    parts = [sample_of(part, 500) for part in (whole[:70], whole[70:3000], whole[3000:])]
    np.testing.assert_array_equal(sample_of(np.concatenate(parts), 500), sample)
    in_tenths = np.histogram(sample, 10, (0, 5000))[0]
    assert len(sample) == 500 == len(set(sample.tolist())) and in_tenths.min() > 25 and in_tenths.max() < 80
    np.testing.assert_array_equal(sample_of(whole[:9]), whole[:9])


def small() -> tuple[dv.Network, InMemoryImages]:
    """Sums of pixels of 0 or 1 and weights that are multiples of 1/4 are exact in any order; channel 0 is constant."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = torch.randint(-2, 3, (5, 3, 3, 3)) / 4, 0
        model[0].weight[0], model[0].bias[0] = 0, 1
    pixels = 255 * np.random.default_rng(1).integers(0, 2, (40, 8, 8, 3), dtype=np.uint8)
    return dv.capture(model, (3, 8, 8)), InMemoryImages(pixels)


def test_histogram_and_sample_equal_a_plain_count() -> None:
    network, images = small()
    mined = dv.mine(network, images, ["0", "1"], preprocess=PREPROCESS, progress=False, batch_size=7)
    x = torch.stack([PREPROCESS(images[n][0]) for n in range(40)])
    for layer, values in network.activations(x, ["0", "1"]).items():
        maxima, spread = values.amax((2, 3)).numpy().T, mined[layer].spread
        assert spread is not None and spread.sampled.tolist() == list(range(40))
        np.testing.assert_array_equal(spread.maxima, maxima)
        for channel in range(5):
            inner = edges()[SIDE + 1 : -1]
            bins = np.sign(maxima[channel]) * np.searchsorted(inner, np.abs(maxima[channel]), side="right")
            counts = np.bincount(SIDE + bins.astype(int), minlength=BINS)
            np.testing.assert_array_equal(spread.counts[channel], counts)
            chosen, at = spread.at_quantiles(channel)
            order = sorted(range(40), key=lambda n: (maxima[channel, n], n))
            assert chosen.tolist() == [order[round(q * 39 / 8)] for q in range(9)]
            np.testing.assert_array_equal(at, maxima[channel, chosen])


def same(one: Mined, other: Mined) -> None:
    for name in one:
        for key in RANGES:
            np.testing.assert_array_equal(getattr(one[name].spread, key), getattr(other[name].spread, key))


def test_shards_and_resumed_runs_give_the_range_of_one_run(tmp_path: pathlib.Path) -> None:
    network, images = small()
    how = {"preprocess": PREPROCESS, "progress": False, "batch_size": 4}
    whole = dv.mine(network, images, ["0", "1"], **how)  # type: ignore[arg-type]
    for index in range(3):
        dv.mine(network, images, ["0", "1"], out=tmp_path / f"{index}.h5", shard=(index, 3), **how)  # type: ignore[arg-type]
    same(dv.merge([tmp_path / f"{index}.h5" for index in (2, 0, 1)], tmp_path / "all.h5"), whole)
    same(dv.load_mined(tmp_path / "all.h5"), whole)

    class Stopped(Exception):
        pass

    class Stopping(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            if index == 30:
                raise Stopped
            return super().__getitem__(index)

    pixels = np.stack([images[n][0] for n in range(40)])
    with pytest.raises(Stopped):
        dv.mine(network, Stopping(pixels), ["0", "1"], out=tmp_path / "m.h5", commit_every=2, **how)  # type: ignore[arg-type]
    begun = dv.load_mined(tmp_path / "m.h5")
    assert 0 < begun.done < 40
    same(dv.mine(network, images, ["0", "1"], out=tmp_path / "m.h5", **how), whole)  # type: ignore[arg-type]


def test_a_larger_store_is_sampled() -> None:
    one, two = (Spread.empty(2, part) for part in (np.arange(900), np.arange(900, 2500)))
    for part in (one, two):
        part.maxima[:] = [part.sampled, -part.sampled]
    both = one.merge(two)
    np.testing.assert_array_equal(both.sampled, sample_of(np.arange(2500)))
    assert len(both.sampled) == SAMPLE
    np.testing.assert_array_equal(both.maxima, [both.sampled, -both.sampled])


def test_values_that_are_not_finite_count_nowhere() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x[:, :1] - 0.5)  # NaN below, finite above, minus infinity never alone

    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    pixels[2:, 3, 3] = 255
    network = dv.capture(Broken(), (3, 8, 8))
    layer = next(name for name in network.layers if name.startswith("log"))
    spread = dv.mine(network, InMemoryImages(pixels), [layer], preprocess=PREPROCESS, progress=False)[layer].spread
    assert spread is not None and spread.counts.sum() == 4 and spread.at_quantiles(0)[0].tolist() == [2, 3, 4, 5]

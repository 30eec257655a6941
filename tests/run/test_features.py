"""Features against pooling by hand, in any batch size and precision."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamed_features import COUNT, LAYERS, PLAIN, model, noise_images, streamed
from torch import nn

import deconvviz as dv
from deconvviz.run.features import MOST_VALUES, Pooling


def pooled(maps: NDArray[np.float64], how: str, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Bins from floor(i H / g) to ceil((i + 1) H / g), one after the other."""
    channels, rows, columns = maps.shape
    found = np.empty((channels, *grid))
    for c in range(channels):
        for i in range(grid[0]):
            for j in range(grid[1]):
                top, bottom = math.floor(i * rows / grid[0]), math.ceil((i + 1) * rows / grid[0])
                left, right = math.floor(j * columns / grid[1]), math.ceil((j + 1) * columns / grid[1])
                values = maps[c, top:bottom, left:right]
                found[c, i, j] = values.max() if how == "max" else values.mean()
    return found.ravel()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "grids"),
    [
        ("max", {"1": (18, 26), "2": (9, 13)}),
        ("max 6x6", {"1": (6, 6), "2": (6, 6)}),
        ("mean 1x1", {"1": (1, 1), "2": (1, 1)}),
        ("mean 4x20", {"1": (4, 20), "2": (4, 13)}),
        ("all", {"1": (18, 26), "2": (9, 13)}),
    ],
)
def test_features_are_pooled_activations(pool: str, grids: dict[str, tuple[int, int]], tmp_path: pathlib.Path) -> None:
    """One image at a time, in float64, by the network as it was captured."""
    images, exact = noise_images(9), dv.capture(model().double(), (3, 20, 28))
    found = streamed(tmp_path / "f.h5", images, pool=pool)
    assert found.complete and len(found) == 9 and list(found.layers) == list(LAYERS)
    assert found.classes == images.classes and found.labels.tolist() == images.labels.tolist()
    for n in range(9):
        values = exact.activations(PLAIN(images[n][0])[None].double(), LAYERS)
        for layer, grid in grids.items():
            row = found.rows(layer, np.array([n]))
            assert row.dtype == np.float32 and row.shape == (1, found.layers[layer])
            expected = pooled(values[layer][0].detach().numpy(), pool.split()[0], grid)
            np.testing.assert_allclose(row[0], expected, atol=1e-5)
        np.testing.assert_allclose(found.rows("5", np.array([n]))[0], values["5"][0].detach(), atol=1e-5)


@pytest.mark.slow
def test_any_batch_size(tmp_path: pathlib.Path) -> None:
    one, every = streamed(tmp_path / "one.h5", batch_size=1), np.arange(COUNT)[::-1]
    for size, commits, workers in ((7, 1, 1), (64, 20, 3)):
        other = streamed(tmp_path / f"{size}.h5", batch_size=size, commit_every=commits, workers=workers)
        for layer in LAYERS:
            np.testing.assert_allclose(other.rows(layer, every), one.rows(layer, every), atol=1e-5)
        assert other.config == one.config


def test_chosen_images_half_precision_and_bf16(tmp_path: pathlib.Path) -> None:
    whole, chosen = streamed(tmp_path / "w.h5"), np.array([41, 3, 17])
    half = streamed(tmp_path / "h.h5", indices=chosen, dtype="float16")
    assert half.labels.tolist() == [41 % 3, 0, 17 % 3]
    rows = half.rows("2", np.array([2, 0, 1, 1]))
    assert np.array_equal(rows, whole.rows("2", chosen[[2, 0, 1, 1]]).astype(np.float16))
    rough = streamed(tmp_path / "b.h5", precision="bf16").rows("2", chosen)
    exact = whole.rows("2", chosen)
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_a_network_in_float64_stays_in_float64(tmp_path: pathlib.Path) -> None:
    """Rounded once, when they are written, its features are the exact ones; those of float32 are not all."""
    images, indices, unequal = noise_images(9), np.arange(9), {}
    exact = dv.capture(model().double(), (3, 20, 28))
    x = torch.stack([PLAIN.tensor(PLAIN.picture(images[n][0])[None], dtype=torch.float64)[0] for n in range(9)])
    expected = exact.activations(x, ["5"])["5"].detach().numpy().astype(np.float32)
    for name, network in (("double", exact), ("single", dv.capture(model(), (3, 20, 28)))):
        rows = streamed(tmp_path / f"{name}.h5", images, network=network).rows("5", indices)
        unequal[name] = int((rows != expected).sum())
    assert unequal["double"] == 0 < unequal["single"]


def test_a_convolution_before_its_batch_norm(tmp_path: pathlib.Path) -> None:
    """In a fast network both are one op, unless the convolution's own value is asked for."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    nn.init.uniform_(net[1].weight, 0.3, 3)  # type: ignore[arg-type]
    network = dv.capture(net, (3, 20, 28))
    found, x = (
        streamed(tmp_path / "f.h5", noise_images(3), network=network, layers=("0", "1")),
        PLAIN(noise_images(3)[2][0])[None],
    )
    for layer in ("0", "1"):
        expected = network.activations(x, [layer])[layer].detach().flatten()
        np.testing.assert_allclose(found.rows(layer, np.array([2]))[0], expected, atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 230), st.integers(1, 230))
def test_the_default_grid_is_the_finest_that_fits(channels: int, rows: int, columns: int) -> None:
    grid = Pooling.parse("max").bins((channels, rows, columns))
    sides = [(min(rows, g), min(columns, g)) for g in range(1, 231)]
    fitting = [side for side in sides if channels * side[0] * side[1] <= MOST_VALUES]
    assert grid == (max(fitting) if fitting else (1, 1))


def test_the_paper_s_layer_5_stays_whole() -> None:
    assert Pooling().bins((256, 6, 6)) == (6, 6) and Pooling().bins((96, 110, 110)) == (10, 10)

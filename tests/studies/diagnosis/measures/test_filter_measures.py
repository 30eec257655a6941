"""What is measured of filters equals its definition: effective weights, cosines, spectra, flatness, pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
from diagnosed import SIDE, grating, net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.studies.diagnosis.checks.spectrum import band_shares, noise_share
from deconvviz.studies.diagnosis.measures.filters import GRID, Filters, filters_of, flatness, noisy, pictures, spectra


def test_effective_weights_are_what_the_channel_computes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 3)
    )
    with torch.no_grad():
        model[1].running_var.uniform_(0.2, 3)
        model[1].weight.uniform_(-2, 2)
    network = dv.capture(model.double().eval(), (3, SIDE, SIDE))
    for name in ("1", "2"):
        got = filters_of(network, name)
        assert got is not None and got.first and got.stride == (2, 2) and got.groups == 1
        pair = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
        before = network.activations(pair, ["1"])["1"].detach().numpy()[:, :, 0, 0]
        window = (pair[0] - pair[1])[:, :5, :5].numpy()
        assert np.allclose(before[0] - before[1], (got.effective * window).sum((1, 2, 3)))
    pooled = filters_of(network, "3")
    assert pooled is not None and np.array_equal(pooled.weights, model[0].weight.detach().numpy())
    second = filters_of(dv.capture(net(filters=3), (3, 24, 24)), "3")  # reads three maps, no image
    assert second is not None and not second.first and not second.of_image
    linear = filters_of(network, "5")
    assert linear is not None and linear.weights.shape == (3, 150, 1, 1) and not linear.first
    assert filters_of(dv.capture(Computed().eval(), (3, 8, 8)), "add") is None


class Computed(nn.Module):
    """A value that no one filter makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv(x.flip(2))


def test_cosines_are_of_filters_in_one_group() -> None:
    values = np.random.default_rng(0).standard_normal((6, 2, 3, 3))
    values[1], values[3] = -2 * values[0], 0.5 * values[0]
    got = Filters(values, np.array([1.0, -1, 1, 1, 1, 1]), groups=2).cosines
    flat = values.reshape(6, -1)
    want = flat[4] @ flat[5] / np.linalg.norm(flat[4]) / np.linalg.norm(flat[5])
    assert np.isclose(got[4, 5], want) and np.isclose(got[0, 1], 1)  # BatchNorm's sign turns the negative back
    assert (got[:3, 3:] == 0).all()
    assert (Filters(np.zeros((2, 1, 1, 1)), np.ones(2)).cosines == 0).all()


def test_spectra_equal_the_sum_of_waves() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    got = spectra(values)
    place, cycles = np.arange(5), np.fft.fftfreq(GRID)
    waves = np.exp(-2j * np.pi * cycles[:, None] * place)
    power = (np.abs(np.einsum("fy,ncyx,gx->ncfg", waves, values, waves)) ** 2).sum(1)
    assert np.allclose(got, power / power.sum((1, 2), keepdims=True)) and np.allclose(got.sum((1, 2)), 1)
    assert np.isclose(power.sum() / GRID**2, (values**2).sum())  # Parseval
    assert (spectra(np.zeros((1, 3, 5, 5))) == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(7, 2), (11, 4), (5, 1), (9, 3)]), st.integers(0, 9))
def test_bands_partition_the_energy_and_a_dot_has_their_areas(shape: tuple[int, int], seed: int) -> None:
    kernel, stride = shape
    values = np.random.default_rng(seed).standard_normal((3, 3, kernel, kernel))
    values[1], values[2] = 0, 0
    values[2, :, 1, 3] = 1  # a dot: all frequencies alike
    shares = band_shares(Filters(values, np.ones(3), (stride, stride)))
    assert np.allclose(shares.sum(1), [1, 0, 1])
    carried = min(1 / stride, 1) ** 2  # the square of frequencies up to half the sampling rate, of all
    low = math.pi / kernel**2  # the disc of fewer cycles than one a kernel
    assert np.allclose(shares[2], [low, carried - low, 1 - carried], atol=0.03)
    assert np.isclose(noise_share(Filters(values, np.ones(3), (stride, stride))), shares[2, 1])


def test_flatness_by_hand_and_of_noise() -> None:
    dot = np.zeros((1, 1, 5, 5))
    dot[0, 0, 2, 2] = 1  # a flat spectrum: the means are equal; noise has exp(-Euler's constant) of that
    assert np.isclose(flatness(dot)[0], math.exp(np.euler_gamma))
    even = np.zeros((1, 1, 4, 4))
    even[0, 0, 1, 1] = 1  # 3 of 15 frequencies are their own mirror: one degree of freedom, another factor of 2
    assert np.isclose(flatness(even)[0], math.exp(np.euler_gamma + 0.2 * math.log(2)))
    assert flatness(np.ones((1, 3, 7, 7)))[0] == 0
    rng = np.random.default_rng(0)
    some = rng.standard_normal((5, 3, 7, 7))
    assert np.allclose(flatness(some), flatness(some + 2)) and np.allclose(flatness(some), flatness(9 * some))
    for inputs, kernel in ((3, 5), (3, 8), (1, 7), (3, 11)):
        noise = rng.standard_normal((3000, inputs, kernel, kernel))
        assert abs(flatness(noise).mean() - 1) < 0.05
        assert noisy(noise).mean() > 0.95
        assert noisy(noise + 0.5).mean() > 0.9 and not noisy(noise + 2).any()  # then it is a filter of that colour
    assert not noisy(dot).any() and not noisy(rng.standard_normal((9, 3, 3, 3))).any()
    shapes = [grating(9, c, a, p) for c in (0.05, 0.15, 0.3) for a in (0, 1, 2) for p in (0, 1.5)]
    assert not noisy(np.stack(shapes)).any()


def test_pictures_are_grey_at_zero_and_symmetric() -> None:
    values = np.zeros((2, 3, 2, 2))
    values[0, 0, 0, 0], values[0, 1, 1, 1] = 2, -2
    shown = pictures(values)
    assert shown.shape == (2, 2, 2, 3) and shown[0, 0, 0].tolist() == [255, 128, 128]
    assert shown[0, 1, 1].tolist() == [128, 0, 128] and (shown[1] == 128).all()
    assert pictures(values[:, :1]).shape == (2, 2, 2, 3)

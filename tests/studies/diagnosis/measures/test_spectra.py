"""Spectra, bands of frequencies and flatness of filters equal their definitions."""

from __future__ import annotations

import math

import numpy as np
from diagnosed import grating
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvviz.graph.filters import Filters
from deconvviz.studies.diagnosis.measures.spectra import GRID, band_shares, flatness, noise_share, noisy, spectra


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
    filters = Filters(weights=values, scale=np.ones(3), stride=(stride, stride))
    shares = band_shares(filters)
    assert np.allclose(shares.sum(1), [1, 0, 1])
    carried = min(1 / stride, 1) ** 2  # the square of frequencies up to half the sampling rate, of all
    low = math.pi / kernel**2  # the disc of fewer cycles than one a kernel
    assert np.allclose(shares[2], [low, carried - low, 1 - carried], atol=0.03)
    assert np.isclose(noise_share(filters), shares[2, 1])


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

"""Lateral inhibition: the kernel, its response to planted maps, and the method on networks that are not plain."""

from __future__ import annotations

import numpy as np
import pytest
import replicas as r
import replicas_attribution as ra
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.inhibition import laplacian_of_gaussian, lateral_response
from deconvviz.errors import CamError, DataError


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0, 11.0])
@pytest.mark.parametrize("centred", [True, False])
def test_the_kernel_is_the_laplacian_of_a_gaussian(sigma: float, centred: bool) -> None:
    kernel = laplacian_of_gaussian(sigma, centred)
    assert np.abs(kernel - ra.hat(sigma, centred)).max() < 1e-15
    assert np.abs(kernel - kernel.T).max() < 1e-15


def test_one_kernel_inhibits_and_the_released_one_blurs() -> None:
    hat, released = laplacian_of_gaussian(), laplacian_of_gaussian(11, centred=False)
    assert hat[2, 2] == pytest.approx(-0.318, abs=1e-3) and hat[1, 2] < 0 < hat[0, 2]
    assert (released < 0).all() and released.sum() == pytest.approx(-1.5e-5, rel=0.05)
    assert released.min() == pytest.approx(-1.05e-6, rel=0.01) and released.max() == pytest.approx(-4.5e-7, rel=0.01)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf"), True])
def test_a_sigma_that_is_none(sigma: float) -> None:
    with pytest.raises(DataError, match="expected a positive number"):
        laplacian_of_gaussian(sigma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_maps(dtype: torch.dtype) -> None:
    """A constant map gives nothing; a peak stands out and silences what is two places away; half of noise passes."""
    kernel = laplacian_of_gaussian()
    for value in (1e-20, 0.1, 3.7, 1e20):
        response, rounding = lateral_response(torch.full((1, 9, 9), value, dtype=dtype), kernel)
        assert not (response > rounding).any()
    assert not torch.greater(*lateral_response(torch.zeros(1, 9, 9, dtype=dtype), kernel)).any()
    noise = torch.randn(400, 16, 16, generator=torch.Generator().manual_seed(3), dtype=dtype)
    kept = torch.greater(*lateral_response(noise, kernel)).double().mean((1, 2))
    assert abs(float(kept.mean()) - 0.5) < 3 * float(kept.std()) / 20  # zero-mean kernel, symmetric noise
    peak = 0.1 * noise.abs()
    peak[:, 8, 8] = 5
    stands_out = torch.greater(*lateral_response(peak, kernel))
    assert stands_out[:, 8, 8].all() and not stands_out[:, [6, 10], 8].any() and not stands_out[:, 8, [6, 10]].any()


class Residual(nn.Module):
    """The sum before the last rectifier is read by two ops: what one rectifier passes on is not the whole gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.silu, self.relu = nn.SiLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        total = stem + self.conv(self.silu(stem))
        return self.head((total.square() + self.relu(total)).mean((2, 3)))


def test_each_rectifier_counts_by_its_own_gradient() -> None:
    torch.manual_seed(0)
    model = Residual().double().eval()
    x = torch.randn(2, 3, 10, 9, dtype=torch.float64)
    inputs: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()) or (inputs[-1],))
        for module in (model.silu, model.relu)
    ]
    gradients = torch.autograd.grad(model(x)[:, 1].sum(), inputs)
    for handle in handles:
        handle.remove()
    expected = np.zeros((2, 10, 9))
    for gradient in gradients:
        for image, strength in enumerate(gradient.norm(dim=1).numpy()):
            expected[image] += np.maximum(r.resize(-ra.correlated(strength, ra.hat(1.0, True)), (10, 9)), 0)
    found = dv.cam("lateral-inhibition", dv.capture(model, (3, 10, 9)))(x, 1, raw=True)
    assert np.abs(found.numpy() - expected).max() < 1e-12 and expected.max() > 0


def test_networks_that_it_cannot_explain() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3), nn.ReLU(), nn.Linear(3, 3))
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(CamError, match="no rectifier with maps of at least 3 x 3"):
        dv.cam("lateral-inhibition", dv.capture(plain, (3, 8, 8)))(x, 0)
    with pytest.raises(CamError, match="needs its graph"):
        dv.cam("lateral-inhibition", plain)(x, 0)

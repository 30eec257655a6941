"""The filters behind a layer are the weights that its channels compute with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.graph.filters import Filters, filters_of

SIDE = 24


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
    assert np.array_equal(pooled.as_pictures, model[0].weight.detach().permute(0, 2, 3, 1).numpy())
    deeper = nn.Sequential(nn.Conv2d(3, 3, 5), nn.ReLU(), nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    second = filters_of(dv.capture(deeper, (3, SIDE, SIDE)), "3")  # it reads three maps, not an image
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


def test_batch_norm_behind_a_rectifier_is_no_factor_of_the_filter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 5, groups=3), nn.ReLU(), nn.BatchNorm2d(6))
    with torch.no_grad():
        model[2].weight.uniform_(-2, 2)
    filters = filters_of(dv.capture(model.eval(), (3, 8, 8)), "2")
    assert filters is not None and (filters.scale == 1).all() and filters.groups == 3


def test_the_rms_counts_the_factor_of_batch_norm() -> None:
    weights = np.random.default_rng(0).standard_normal((4, 3, 5, 5))
    scale = np.array([1.0, -2.0, 0.0, 0.5])
    expected = [np.sqrt(np.mean((weights[n] * scale[n]) ** 2)) for n in range(4)]
    assert np.allclose(Filters(weights=weights, scale=scale).rms, expected)

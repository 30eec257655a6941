"""Networks as people write them: views, slices that are written to, filters that follow from the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv


class LeNet(nn.Module):
    """With the `view` of every tutorial, in one of its forms."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        scores: Tensor = self.fc2(functional.relu(self.fc1(self.view(x))))
        return scores


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(x.size(0), -1),
    "contiguous": lambda x: x.contiguous().view(-1, 400),
    "view_as": lambda x: x.view_as(torch.zeros(x.shape[0], 400)),
    "capsules": lambda x: x.view(x.shape[0], -1, 4).view(x.shape[0], -1),
}
PRE = dv.Preprocess(32, 32)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_of_values_in_any_order(view: str) -> None:
    torch.manual_seed(0)
    network = dv.capture(LeNet(VIEWS[view]).eval(), (3, 32, 32))
    flat = dv.capture(LeNet(lambda x: x.flatten(1)).eval(), (3, 32, 32))
    flat = flat.replaced(flat.graph, dict(network.tensors))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x.contiguous(memory_format=torch.channels_last)), network(x))
    mined = [dv.mine(each, dv.Scenes(6), ["fc1"], k=2, preprocess=PRE, progress=False) for each in (network, flat)]
    np.testing.assert_array_equal(mined[0]["fc1"].values, mined[1]["fc1"].values)
    for method in ("score-cam", "rise", "lrp-epsilon", "grad-cam"):
        options: dict[str, Any] = {"masks": 20} if method == "rise" else {}
        maps = [dv.cam(method, each, **options)(x, 1) for each in (network, flat)]
        np.testing.assert_allclose(maps[0], maps[1], atol=1e-5, err_msg=method)
    assert dv.occlude(network, np.zeros((1, 32, 32, 3), np.uint8), preprocess=PRE, progress=False) is not None


class Spectral(nn.Module):
    """A filter of frequencies, GFNet's, whose weights are pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.weight = nn.Parameter(torch.randn(4, 32, 17, 2))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(torch.relu(self.conv(x)), norm="ortho") * torch.view_as_complex(self.weight)
        y = torch.relu(torch.fft.irfft2(spectrum, s=(32, 32), norm="ortho"))
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


def test_weights_that_are_no_filters_keep_their_order() -> None:
    torch.manual_seed(0)
    network, x = dv.capture(Spectral().eval(), (3, 32, 32)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(network.fast()(x), network(x), atol=1e-5)
    mined = dv.mine(network, dv.Scenes(4), ["conv", "head"], k=2, preprocess=PRE, progress=False)
    assert np.isfinite(mined["head"].values).all()
    assert np.isfinite(dv.cam("score-cam", network)(x, 1)).all()


class Shift(nn.Module):
    """Slices are written to, as networks that shift channels do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deeper, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        shifted = torch.zeros_like(y)
        shifted[:, :2, :, 1:] = y[:, :2, :, :-1]
        shifted[:, 2:] = y[:, 2:]
        shifted[:, 3] += y[:, 0, :1]
        scores: Tensor = self.head(torch.relu(self.deeper(shifted)).mean((2, 3)))
        return scores


class Conditional(nn.Module):
    """Filters are mixed by what the image holds, CondConv's, and so is a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.routes, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), nn.Linear(5, 4)
        self.experts = nn.Parameter(torch.randn(3, 5 * 4 * 9))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        images, channels, height, width = y.shape
        filters = (torch.sigmoid(self.routes(y.mean((2, 3)))) @ self.experts).view(images * 5, 4, 3, 3)
        joined = functional.conv2d(y.reshape(1, images * channels, height, width), filters, padding=1, groups=images)
        scores: Tensor = self.head(torch.relu(joined.view(images, 5, height, width)).mean((2, 3)))
        return scores


def halves() -> nn.Module:
    """A part that computes in float32 between parts in half precision."""

    class Island(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deeper = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            both = torch.cat([(y + torch.sigmoid(y.float())), y], 1)
            scores: Tensor = self.deeper(both.to(y.dtype)).mean((2, 3))
            return scores

    return Island().half()


@pytest.mark.parametrize(
    ("made", "dtype"),
    [(Shift, torch.float64), (Conditional, torch.float64), (halves, torch.float16)],
)
def test_gradients_are_those_of_autograd(made: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = made().eval().to(dtype)
    x = torch.randn(1, 3, 8, 8, dtype=dtype)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[0, 1], leaf)
    network = dv.capture(model, (3, 8, 8))
    last = list(network.layers)[-1]
    projected = dv.project(network, x, last, 1, rule="gradient").full()
    assert torch.allclose(projected.to(dtype), wanted[0], atol=1e-9 if dtype == torch.float64 else 3e-2)
    if made is not halves:
        for method in ("gradient", "guided", "lrp-epsilon", "deeplift", "full-grad"):
            assert np.isfinite(dv.cam(method, network)(x, 1)).all(), method


def test_relevance_of_filters_that_follow_from_the_image_is_shared_by_both() -> None:
    """A product of two values has one relevance, half for each; that of the filters ends in the gates that mix them."""
    torch.manual_seed(0)
    model = Conditional().eval().double()
    for layer in (model.conv, model.routes, model.head):
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    network = dv.capture(model, (3, 8, 8))
    total = dv.project(network, x, "head", 1, rule="lrp-epsilon").full().sum()
    assert float(total) == pytest.approx(0.5, rel=1e-3)

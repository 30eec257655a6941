"""The frozen network that a training reads: its tail equals the model, and what cannot be made is told."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest
import replicas_learned as rl
import torch
from tiny_explainers import TINY_PREPROCESS, TINY_SIZE, batch_of, class_maps, tiny_images, tiny_net
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import Phase
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import (
    CamError,
    CaptureError,
    DataError,
    DeconvvizError,
)
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer


class Residual(nn.Module):
    """A value passes the layer by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def rest(self, value: Tensor, beside: Tensor) -> Tensor:
        return self.head((value.relu() + beside).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        beside = self.norm(self.stem(x)).relu()
        return self.rest(self.conv(beside), beside)


class Patches(nn.Module):
    """A class token before a grid of patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 6, 2, 2), nn.Parameter(torch.randn(1, 1, 6))
        self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def before(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1))

    def rest(self, value: Tensor) -> Tensor:
        return self.head(value[:, 0].relu() + value.tanh().mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.before(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # float32 runs accelerated
def test_the_tail_at_mask_one_is_the_model(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Residual().to(dtype).eval()
    nn.init.uniform_(model.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    network, tolerance = dv.capture(model, (3, *TINY_SIZE)), 1e-12 if dtype == torch.float64 else 1e-5
    x = tiny_images(3)[1].to(dtype)
    with torch.no_grad():
        whole, beside = model(x), model.norm(model.stem(x)).relu()
        value = model.conv(beside)
    batch = FrozenNetwork(network, ["conv"], TINY_PREPROCESS, "fp32").batch(x, None, torch.Generator())
    assert torch.allclose(batch.values["conv"], value, atol=tolerance) and (value < 0).any()  # before its ReLU
    assert batch.classes.tolist() == whole.argmax(1).tolist() and batch.real.all()
    for _ in range(2):  # what passes the layer by is still there the second time
        assert torch.allclose(batch.after(batch.values["conv"]), whole, atol=tolerance)
        assert torch.allclose(batch.whole(x), whole, atol=tolerance)
    half = 0.5 * value
    assert torch.allclose(batch.after(half), model.rest(half, beside), atol=tolerance)
    explainer = new_explainer(
        "l-cam-fm", FrozenNetwork(network, ["conv"], TINY_PREPROCESS, "fp32"), {"ce_only": True}, 0
    )
    with torch.no_grad():
        explainer.attention.weight.zero_()
        explainer.attention.bias.fill_(60.0)
    terms, right = explainer.terms(batch, "")
    assert right.all()
    top = rl.cross_entropy(whole.double().numpy(), batch.classes.numpy())
    assert terms["cross_entropy"].item() == pytest.approx(top, rel=1e-5)


def test_the_tail_of_a_token_layer() -> None:
    """Patches become maps and go back; the class token stays its own."""
    torch.manual_seed(0)
    model = Patches().double().eval()
    network = dv.capture(model, (3, *TINY_SIZE))
    _, x = tiny_images(3)
    frozen = FrozenNetwork(network, ["block"], TINY_PREPROCESS, "fp32")
    batch = frozen.batch(x, None, torch.Generator())
    with torch.no_grad():
        value, whole = model.before(x), model(x)
    maps = value[:, 1:].transpose(1, 2).reshape(3, 6, 5, 4)
    assert frozen.shapes == {"block": (6, 5, 4)} and torch.allclose(batch.values["block"], maps)
    assert torch.allclose(batch.after(batch.values["block"]), whole)
    changed = torch.cat([value[:, :1], 0.3 * value[:, 1:]], 1)
    assert torch.allclose(batch.after(0.3 * maps), model.rest(changed))
    explainer = new_explainer("l-cam-fm", frozen, {}, 0)
    found = cam("l-cam-fm", network, explainer=explainer)(x, 2, raw=True)
    np.testing.assert_allclose(found.numpy(), class_maps(explainer, maps.numpy())[:, 2], atol=1e-12)


def test_a_black_pixel_is_black() -> None:
    """What L-CAM-Img leaves out becomes what a black pixel is once normalised."""
    batch = batch_of("l-cam-img", tiny_images(1)[1], [0])
    assert batch.black.flatten().tolist() == [-2.0, -0.5, -3.0]  # (0 - mean) / std


def test_making_one(tmp_path: pathlib.Path) -> None:
    """Wrong layers, options and images are told before anything is written."""
    network = tiny_net()[1]
    frozen = FrozenNetwork(network, ["4"], TINY_PREPROCESS, "fp32")
    two = FrozenNetwork(network, ["1", "4"], TINY_PREPROCESS, "fp32")
    for name, reads, options, complaint in (
        ("l-cam-fm", frozen, {"colour": 1}, "no option 'colour'"),
        ("l-cam-fm", two, {}, "reads one layer"),
        ("l-cam-img", frozen, {"area": -1.0}, "area -1.0"),
        ("l-cam-img", frozen, {"area": math.nan}, "area nan"),
        ("real-time-masking", frozen, {}, "two to four"),
        ("l-cam", frozen, {}, "l-cam-fm"),
    ):
        with pytest.raises(DeconvvizError, match=complaint):
            new_explainer(name, reads, options, 0)
    with pytest.raises(CaptureError, match="preprocessing"):
        FrozenNetwork(network, ["4"], Preprocess(), "fp32")
    with pytest.raises(CamError, match="rows and columns"):
        FrozenNetwork(network, ["6"], TINY_PREPROCESS, "fp32")
    for wrong in (
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.inf},
        {"decay": 1.1},
        {"weight_decay": -1},
    ):
        with pytest.raises(DataError, match=next(iter(wrong)).replace("_", " ") + ".* given"):
            Phase("x", **wrong)

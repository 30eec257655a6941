"""Directions as layers: their values, receptive fields and projections against a network that has them as a module."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from networks import build
from oracle import RULES, project_by_autograd
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CaptureError, DataError, LayerNotFound, MismatchError
from deconvviz.graph.directions import directions_in
from deconvviz.results.directions import Directions
from deconvviz.run.directions import with_named_directions


def trunk() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
    ]
    model = nn.Sequential(*layers).double().eval()
    nn.init.uniform_(model[1].running_mean, -0.3, 0.3)  # type: ignore[arg-type]
    return model


WEIGHTS = np.random.default_rng(0).normal(size=(4, 6))
BIAS = np.array([0.5, -0.25, 0.0, 1.0])


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 16, 18, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def network() -> dv.Network:
    return dv.with_directions(dv.capture(trunk(), (3, 16, 18)), "5", WEIGHTS, BIAS, "5[axes]")


def test_the_value_is_the_weighted_sum_of_the_channels(network: dv.Network, image: Tensor) -> None:
    values = network.activations(image, ["5", "5[axes]"])
    expected = np.einsum("dc,nchw->ndhw", WEIGHTS, values["5"].numpy()) + BIAS[:, None, None]
    np.testing.assert_allclose(values["5[axes]"].numpy(), expected, atol=1e-12)
    layer, read = network.layers["5[axes]"], network.layers["5"]
    assert layer.shape == (4, 6, 7) and layer.receptive_field == read.receptive_field
    assert directions_in(network)["5[axes]"].layer == "5"
    np.testing.assert_array_equal(directions_in(network)["5[axes]"].weights, WEIGHTS)
    without = dv.capture(trunk(), (3, 16, 18))
    assert torch.equal(network(image), without(image)) and [n for n in network.layers if n != "5[axes]"] == [
        *without.layers
    ]


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient", "lrp-epsilon"])
def test_a_projection_goes_back_through_the_transposed_product(network: dv.Network, image: Tensor, rule: str) -> None:
    product = nn.Conv2d(6, 4, 1).double()
    with torch.no_grad():
        product.weight[:], product.bias[:] = torch.tensor(WEIGHTS)[:, :, None, None], torch.tensor(BIAS)
    model = nn.Sequential(*trunk(), product).eval()
    whole = dv.capture(model, (3, 16, 18))
    for channel, position in ((0, (2, 3)), (3, (0, 6))):
        ours = dv.project(network, image, "5[axes]", channel, position, rule=rule)
        module = dv.project(whole, image, "6", channel, position, rule=rule)
        assert ours.value == pytest.approx(module.value) and ours.window == module.window
        torch.testing.assert_close(ours.full(), module.full(), atol=1e-12, rtol=0)
        if rule in RULES:
            by_autograd = project_by_autograd(model, image, "6", channel, position, rule)
            one = dv.project(network, image, "5[axes]", channel, position, rule=rule, seed="one").full()
            torch.testing.assert_close(one, by_autograd, atol=1e-10, rtol=0)


def test_a_gradient_is_the_weighted_sum_of_the_gradients(network: dv.Network, image: Tensor) -> None:
    model, x = trunk(), image.clone().requires_grad_()
    reading = (model(x)[0, :, 2, 3] * torch.tensor(WEIGHTS[1])).sum()
    (gradient,) = torch.autograd.grad(reading, x)
    ours = dv.project(network, image, "5[axes]", 1, (2, 3), rule="gradient").full()
    torch.testing.assert_close(ours / ours.abs().max(), gradient[0] / gradient.abs().max(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("layer", ["layer2.0.conv1", "layer2.0.bn1", "layer2.0"])
def test_folded_networks_keep_them(layer: str) -> None:
    network = dv.capture(build("resnet18").float(), (3, 64, 64))
    weights = np.random.default_rng(0).normal(size=(3, 128))
    with_axes = dv.with_directions(network, layer, weights, name="axes")
    assert [name for name in with_axes.layers if name != "axes"] == [*network.layers]  # also names of inner layers
    x = torch.rand(2, 3, 64, 64)
    expected = torch.einsum("dc,nchw->ndhw", torch.tensor(weights).float(), network.activations(x, [layer])[layer])
    for fast in (with_axes.fast(keep=["axes"]), with_axes.without_norms(keep=["axes"])):
        values = fast.activations(x, ["axes"])["axes"]
        torch.testing.assert_close(values, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_tokens_and_vectors_are_read_along_their_last_dimension() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1)

    network = dv.capture(Tokens().eval(), (3, 16, 16))
    x, weights = torch.rand(2, 3, 16, 16), np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    for layer in ("block", "mean"):
        values = dv.with_directions(network, layer, weights, name="axes").activations(x, [layer, "axes"])
        torch.testing.assert_close(values["axes"], values[layer] @ torch.tensor(weights).T)


def test_equal_directions_have_one_fingerprint_whatever_they_are_called(network: dv.Network) -> None:
    bare = dv.capture(trunk(), (3, 16, 18))
    assert dv.with_directions(bare, "5", WEIGHTS, BIAS, "other").fingerprint == network.fingerprint
    assert dv.with_directions(bare, "5", WEIGHTS, BIAS + 1e-9, "5[axes]").fingerprint != network.fingerprint
    assert bare.fingerprint != network.fingerprint


def test_what_does_not_fit_is_refused(network: dv.Network, image: Tensor, tmp_path: pathlib.Path) -> None:
    bad = np.full((2, 6), np.nan)
    for arguments in (("5", WEIGHTS[:, :5]), ("5", WEIGHTS[0]), ("5", bad), ("5", WEIGHTS, BIAS[:2])):
        with pytest.raises(CaptureError):
            dv.with_directions(network, *arguments)
    with pytest.raises(CaptureError, match="exists already"):
        dv.with_directions(network, "5", WEIGHTS, BIAS, "5[axes]")
    with pytest.raises(LayerNotFound):
        with_named_directions(network, ["9[axes.npy]"])
    with pytest.raises(DataError, match="no file"):
        with_named_directions(network, [f"5[{tmp_path}/axes.npy]"])
    with pytest.raises(DataError, match="learned from images"):
        with_named_directions(network, ["5[nmf:3]"])
    for source in ("nmf", "ica:3"):
        with pytest.raises(DataError, match=rf"no file {source}; .* nmf:COUNT or pca:COUNT, such as '5\[nmf:10\]'"):
            with_named_directions(network, [f"5[{source}]"])
    (tmp_path / "text.npz").write_text("no array")
    np.savez(tmp_path / "other.npz", a=1, b=2)
    np.savez(tmp_path / "objects.npz", weights=np.array([{}], object))
    np.save(tmp_path / "row.npy", WEIGHTS[0])
    for file, message in (
        ("text.npz", "holds no directions: it is no NumPy file of numbers"),
        ("other.npz", r"holds no directions but other arrays \(a, b\)"),
        ("objects.npz", "holds no directions: it is no NumPy file of numbers"),
        ("row.npy", r"an array of float64 of shape \[6\]; give a matrix"),
    ):
        with pytest.raises(DataError, match=message) as refused:
            with_named_directions(network, [f"5[{tmp_path}/{file}]"])
        assert "pickle" not in str(refused.value)
    Directions(weights=WEIGHTS, bias=BIAS, layer="2").save(tmp_path / "axes.npz")
    with pytest.raises(MismatchError, match="of layer '2'"):
        with_named_directions(network, [f"5[{tmp_path}/axes.npz]"])
    Directions(weights=WEIGHTS, bias=BIAS, layer="5", about={"model_fingerprint": "0"}).save(tmp_path / "axes.npz")
    with pytest.raises(MismatchError, match="another network"):
        with_named_directions(network, [f"5[{tmp_path}/axes.npz]"])
    classifier = nn.Sequential(*trunk(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with_axes = dv.with_directions(dv.capture(classifier.eval(), (3, 16, 18)), "5", WEIGHTS, name="axes")
    with pytest.raises(dv.DeconvvizError, match="does not follow from this layer"):
        dv.cam("grad-cam", with_axes, "axes")(image)

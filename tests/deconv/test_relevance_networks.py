"""Relevance on whole networks: without biases none is lost, and the window of a unit holds all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
import torchvision
from networks import build, by_weight
from sent_back import relevance
from torch import Tensor, nn
from torch.nn import functional as f

import deconvviz as dv
from deconvviz.choices import RULES
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.project import project_by_rules
from deconvviz.errors import LayerNotFound

Made = Callable[[str, int], tuple[nn.Module, dv.Network]]
LOW, HIGH = torch.tensor([-2.1, -2.0, -1.8]).double(), torch.tensor([2.2, 2.4, 2.6]).double()


def unbiased(model: nn.Module) -> nn.Module:
    """The same without anything that adds a constant."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] in ("bias", "in_proj_bias", "class_token", "pos_embedding"):
            nn.init.zeros_(parameter)
    return model


def image(size: int, count: int = 1) -> Tensor:
    low, high = (bound[:, None, None] for bound in (LOW, HIGH))
    drawn = torch.rand(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return low + (high - low) * drawn


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model.double().eval()


# Network and the places that are looked at, in the strongest channel: borders and the head are among them.
PLACES: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "resnet18": [("layer1.1.conv2", (0, 0)), ("layer3.0.relu", (3, 3)), ("fc", ())],
    "squeezenet1_0": [("features.3", (0, 6)), ("features.9", (2, 2))],
    "mobilenet_v3_small": [("features.2", (0, 3)), ("features.5", (1, 0)), ("classifier.3", ())],
    "efficientnet_b0": [("features.2", (0, 3)), ("features.4", (1, 0))],
    "densenet121": [("features.denseblock1", (15, 0)), ("classifier", ())],
    "vit": [("conv_proj", (0, 3)), ("heads", ())],
}
CASES = [
    (name, rule)
    for name, rule in product(PLACES, ("epsilon", "gamma", "z+", "composite"))
    if rule != "z+" or name not in ("mobilenet_v3_small", "efficientnet_b0")
]


@cache
def conserving(name: str) -> dv.Network:
    size = 32 if name == "vit" else 64
    return dv.capture(unbiased(transformer() if name == "vit" else build(name)), (3, size, size))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule"), CASES)
@pytest.mark.parametrize("bounded", [False, True])
def test_relevance_is_conserved(name: str, rule: str, bounded: bool) -> None:
    """Without biases the relevance of the pixels sums to the activation, to 1e-6 of the sum of its absolute values.

    Epsilon is 1e-18, so that it loses nothing to speak of. BatchNorm that stands alone (DenseNet) hands it through. z+
    loses what arrives where nothing positive came in, behind SiLU and its like: networks with these are left out.
    """
    network = conserving(name)
    x = image(network.input_shape[1])
    for layer, place in PLACES[name]:
        index = (0, slice(None), *place)
        channel = int(network.activations(x, [layer])[layer][index].argmax())
        found, value = relevance(network, x, layer, (channel, *place), rule, bounds(bounded))
        assert value > 1e-12, "a silent unit tells nothing"
        assert abs(float(found.sum()) - value) <= 1e-6 * float(found.abs().sum()), (layer, value, float(found.sum()))


def bounds(given: bool) -> tuple[Tensor, Tensor] | None:
    return (LOW, HIGH) if given else None


def test_relevance_of_a_bias_is_lost() -> None:
    """With a bias the pixels get what the bias does not: in one linear map, the activation less the bias."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 3).double()
    network, x = dv.capture(model, (3, 8, 8)), image(8)
    for channel in range(2):
        found, value = relevance(network, x, "conv2d", (channel, 2, 5), "epsilon")
        expected = value - float(model.bias[channel].detach())
        assert float(found.sum()) == pytest.approx(expected, rel=1e-9)


# --- windows ---

NETWORKS = ("alexnet", "squeezenet1_0", "resnet18", "mobilenet_v3_small", "convnext_tiny")


def positions(rows: int, columns: int) -> list[tuple[int, int]]:
    """Corners, borders, and the interior."""
    return list(dict.fromkeys(product((0, rows // 2, rows - 1), (0, columns // 2, columns - 1))))


def check_windows(network: dv.Network, layer: str, images: Tensor, rules: Sequence[str], **options: Any) -> None:
    """Compare a unit in each corner, at each border and in the middle, on windows and whole, to 1e-10."""
    channels, rows, columns = network.layer(layer).units
    units = [(n % len(images), layer, (5 * n + 1) % channels, at) for n, at in enumerate(positions(rows, columns))]
    windowed = project_by_rules(network, images, units, rules, bounds=(LOW, HIGH), **options)
    whole = project_by_rules(network, images, units, rules, bounds=(LOW, HIGH), windowed=False, **options)
    for rule in rules:
        for a, b in zip(windowed[rule], whole[rule], strict=True):
            scale = float(b.full().abs().max())
            assert float((a.full() - b.full()).abs().max()) <= 1e-10 * scale, (rule, a)
            assert a.value == pytest.approx(b.value, rel=1e-10, abs=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_windows_hold_every_rule(name: str) -> None:
    """Every rule, in three layers of each network: the deepest one with a window, and two before it."""
    network, images = dv.capture(build(name), (3, 64, 64)), image(64, 2)
    local = [
        layer
        for layer in {item.node: key for key, item in network.layers.items()}.values()
        if network.image in make_plan(network, layer).windows
    ]
    assert len(local) >= 3
    for layer in (local[-1], local[len(local) // 2], local[len(local) // 4]):
        check_windows(network, layer, images, RULES)


class Bordered(nn.Module):
    """A border of its own before a strided convolution; pooling that counts its border, or does not, at the end."""

    def __init__(self, mode: str, padding: int, count_include_pad: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mode, self.first = mode, nn.Conv2d(3, 6, 5, stride=2, padding=padding)
        self.norm, self.second = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=count_include_pad)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(f.pad(x, (3, 0, 1, 2), self.mode))).relu()
        return self.last(self.pool(self.second(x).relu()))


@pytest.mark.parametrize("count_include_pad", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("mode", "padding"), [("constant", 0), ("constant", 2), ("reflect", 0), ("replicate", 0)])
def test_windows_with_borders_and_pooling(mode: str, padding: int, count_include_pad: bool) -> None:
    """Every position of layers with windows, and of those behind a reflected border, which have none."""
    network = dv.capture(Bordered(mode, padding, count_include_pad).double().eval(), (3, 25, 25))
    images = image(25, 2)
    for layer in ("first", "second", "pool", "last"):
        check_windows(network, layer, images, RULES)


@pytest.mark.parametrize("rule", RULES)
def test_units_of_one_image_together_and_alone(
    rule: str, network: Callable[[str, int], tuple[Any, dv.Network]]
) -> None:
    """Units that share the forward pass of an image, on windows and whole, get what each gets alone."""
    _, net = network("squeezenet1_0", 64)
    images = image(64, 2)
    units = [
        (1, "features.6", 3, (1, 2)),
        (0, "features.6", 9, (0, 0)),
        (1, "features.6", 3, (6, 6)),
        (0, "features.0", 2, (14, 28)),
    ]
    together = dv.project_units(net, images, units, rule, bounds=(LOW, HIGH))
    for found, (number, layer, channel, at) in zip(together, units, strict=True):
        alone = dv.project(net, images[number : number + 1], layer, channel, at, rule, bounds=(LOW, HIGH))
        assert torch.allclose(found.full(), alone.full(), rtol=1e-10, atol=1e-14)


# --- networks without norms ---


def norms(network: dv.Network) -> int:
    return sum("batch_norm.default" in str(node.target) for node in network.graph.nodes)


@pytest.mark.parametrize("name", by_weight(["resnet18", "mobilenet_v2"], light=()))
def test_without_norms_is_equal(name: str, network: Made) -> None:
    """The output and every layer that is left are those of the model, and no norm behind a convolution is left."""
    model, net = network(name, 64)
    x = image(64, 2)
    folded = net.without_norms()
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), rtol=1e-10, atol=1e-12)
    assert not norms(folded) and norms(net)
    shared = [name for name in folded.layers if name in net.layers][::7]
    before, after = net.activations(x, shared), folded.activations(x, shared)
    for layer in shared:
        assert torch.allclose(after[layer], before[layer], rtol=1e-9, atol=1e-11), layer
    assert folded.dtype == torch.float64 and net.without_norms() is folded


def test_without_norms_keeps_what_is_asked_for(network: Made) -> None:
    """A convolution that is kept still gives its own value, and its norm stays."""
    _, net = network("resnet18", 64)
    x = image(64)
    assert "layer1.0.conv1" not in net.without_norms().layers
    kept = net.without_norms(["layer1.0.conv1"])
    value = net.activations(x, ["layer1.0.conv1"])["layer1.0.conv1"]
    assert torch.allclose(kept.activations(x, ["layer1.0.conv1"])["layer1.0.conv1"], value, rtol=1e-9, atol=1e-12)
    assert norms(kept) == 1
    with pytest.raises(LayerNotFound):
        net.without_norms(["layer9"])

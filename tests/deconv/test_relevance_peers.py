"""Relevance from units of middle layers against zennit 0.5 and captum, in float64.

zennit's conventions are those of the package: epsilon with the sign of z and + at zero, z+ and gamma of inputs of both
signs, z^B without the bias, rectifiers and BatchNorm alone passed through, sums and means by epsilon, max pooling to
the winner. Three things differ. Its composites know the kind of a layer, not its depth, so the composite by depth is
spelled out by names here. A sum is shared only where a canonizer makes a module of it. And merged norms keep their eps:
they go on dividing by sqrt(1 + eps), 5e-6 each, so norms have the eps 0 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from captum.attr import LRP
from networks import build
from sent_back import relevance
from torch import Tensor, nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus, LayerMapComposite, NameLayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Gamma, Norm, Pass, ZBox
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Convolution

import deconvviz as dv

pytestmark = pytest.mark.peers
LOW, HIGH = -2.2, 2.7
BOUNDS = (torch.full((3,), LOW).double(), torch.full((3,), HIGH).double())
BASE: list[Any] = [(Activation, Pass()), (BatchNorm, Pass()), ((AvgPool, Sum), Norm())]


def plain(norms: bool = False) -> nn.Sequential:
    """Convolutions with every argument, both poolings, and linear maps at the end."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 12, 3, padding=2, dilation=2, bias=False), nn.ReLU()),
        *(nn.AvgPool2d(3, 1, 1), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 16), nn.ReLU()),
        nn.Linear(16, 5),
    ]
    if norms:
        layers.insert(6, nn.BatchNorm2d(12))
        layers.insert(1, nn.BatchNorm2d(8))
    model = nn.Sequential(*layers)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            nn.init.uniform_(module.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.double().eval()


def theirs(model: nn.Module, x: Tensor, place: tuple[int, ...], composite: Any) -> Tensor:
    """zennit's relevance of the pixels, started from one unit's activation."""
    leaf = x.clone().requires_grad_()
    with composite.context(model) as modified:
        out = modified(leaf)
        seed = torch.zeros_like(out)
        index = (0, *place)
        seed[index] = out[index].detach()
        (found,) = torch.autograd.grad(out, leaf, seed)
    return found[0]


def conv_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def composites(rule: str, model: nn.Module, canonizers: Sequence[Any] = ()) -> Any:
    """zennit's composite for a rule of the package's."""
    given: dict[str, Any] = {"canonizers": list(canonizers)}
    if rule == "lrp-epsilon":
        rules = [*BASE, (Convolution, Epsilon(1e-6)), (nn.Linear, Epsilon(1e-6))]
        return LayerMapComposite(layer_map=rules, **given)
    if rule == "lrp-zplus":
        return EpsilonPlus(epsilon=1e-6, **given)
    if rule == "lrp-gamma":
        return EpsilonGammaBox(low=LOW, high=HIGH, epsilon=1e-6, gamma=0.25, **given)
    names = conv_names(model)
    half = (len(names) + 1) // 2
    by_name = [((names[0],), ZBox(LOW, HIGH)), (tuple(names[half:]), Epsilon(1e-6))]
    rules = [*BASE, (Convolution, Gamma(0.25)), (nn.Linear, Epsilon(1e-6))]
    return NameLayerMapComposite(name_map=[pair for pair in by_name if pair[0]], layer_map=rules, **given)


def image(size: int) -> Tensor:
    drawn = torch.rand(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return LOW + (HIGH - LOW) * drawn


def assert_agreement(
    model: nn.Sequential, layer: int, x: Tensor, place: tuple[int, ...], rule: str, canonizers: Sequence[Any] = ()
) -> None:
    """Compare one unit of the layer of this number; zennit runs the network up to it."""
    found = ours(model, str(layer), x, place, rule)
    cut = model[: layer + 1]
    expected = theirs(cut, x, place, composites(rule, cut, canonizers))
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def ours(model: nn.Module, layer: str, x: Tensor, place: tuple[int, ...], rule: str) -> Tensor:
    """The package's, with the rule for pixels where zennit's composite has one."""
    network, (channel, y, column) = dv.capture(model, tuple(x.shape[1:])), (*place, 0, 0)[:3]
    bounds = BOUNDS if rule in ("lrp-gamma", "lrp-composite") else None
    return dv.project(network, x, layer, channel, (y, column), rule, seed="activation", bounds=bounds).full()


RULES = ("lrp-epsilon", "lrp-zplus", "lrp-gamma", "lrp-composite")
UNITS = [(2, (3, 0, 0)), (5, (7, 2, 3)), (8, (1, 1, 1)), (11, (4,)), (13, (2,))]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("layer", "place"), UNITS)
def test_zennit_on_a_plain_network(rule: str, layer: int, place: tuple[int, ...]) -> None:
    assert_agreement(plain(), layer, image(16), place, rule)


@pytest.mark.parametrize("rule", RULES)
def test_zennit_with_norms_merged(rule: str) -> None:
    """Its canonizer merges BatchNorm into the convolution, as the package folds it."""
    assert_agreement(plain(norms=True), 10, image(16), (1, 1, 0), rule, [SequentialMergeBatchNorm()])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("layer", "place"), [(3, (9, 0, 15)), (13, (100, 1, 3)), (18, (40, 1, 1))])
def test_zennit_on_vgg11(rule: str, layer: int, place: tuple[int, ...]) -> None:
    model = build("vgg11").features
    assert isinstance(model, nn.Sequential)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    assert_agreement(model, layer, image(32), place, rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["lrp-epsilon", "lrp-zplus", "lrp-gamma"])
def test_zennit_on_resnet18(rule: str) -> None:
    """Its canonizer makes the residual sums modules of their own, which take its rule `Norm`: epsilon of a sum."""
    model, x = build("resnet18"), image(64)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    found = ours(model, "fc", x, (17,), rule)
    expected = theirs(model, x, (17,), composites(rule, model, [ResNetCanonizer()]))
    assert (found - expected).abs().max() <= 1e-8 * expected.abs().max()


@pytest.mark.parametrize(("layer", "place"), UNITS[:3])
def test_captum_from_a_middle_layer(layer: int, place: tuple[int, ...]) -> None:
    """Its rule epsilon has 1e-9; it starts from the unit's activation."""
    model, x = plain(), image(16)
    found, _ = relevance(dv.capture(model, (3, 16, 16)), x, str(layer), place, "epsilon", epsilon=1e-9)
    expected = LRP(model[: layer + 1]).attribute(x.clone().requires_grad_(), target=place).detach()[0]
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()

"""Convolutions that take their sum and rectifier along give what the ops give one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.graph.fast import with_folded_norms
from deconvviz.graph.fused import conv_relu, fuses, with_fused_rectifiers


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.one, self.two = (
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        )
        self.grouped, self.read_twice = nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1)
        self.unbiased, self.relu = nn.Conv2d(4, 2, 1, bias=False), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.two(torch.relu(self.one(x))))  # both can be fused, one with the sum
        twice = self.read_twice(torch.relu(self.grouped(x)))
        out: Tensor = torch.relu(self.unbiased(torch.relu(twice) + twice))
        return out


def test_what_is_fused_and_that_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = with_folded_norms(dv.capture(Blocks().eval(), (3, 12, 10)), [])
    fused, x = with_fused_rectifiers(network, frozenset()), torch.randn(2, 3, 12, 10)
    with torch.inference_mode():
        assert torch.equal(fused(x), network(x))
    calls = [node for node in fused.graph.nodes if node.target is conv_relu]
    assert len(calls) == 5 and sum(node.args[7] is not None for node in calls) == 1
    for name, layer in fused.layers.items():
        assert layer.receptive_field == network.layer(name).receptive_field, name


def test_values_that_are_read_stay() -> None:
    network = dv.capture(Blocks().eval(), (3, 12, 10))
    kept = with_fused_rectifiers(network, frozenset({network.layer("one").node.name}))
    x = torch.randn(1, 3, 12, 10)
    with torch.inference_mode():
        assert torch.equal(kept.activations(x, ["one"])["one"], network.activations(x, ["one"])["one"])
        assert kept.activations(x, ["one"])["one"].min() < 0  # before its rectifier


def test_a_filter_that_is_not_finite_is_not_hidden_by_a_fused_rectifier() -> None:
    blocks = Blocks().eval()
    with torch.no_grad():
        blocks.one.weight[1, 0, 0, 0] = torch.nan
    fused = with_fused_rectifiers(with_folded_norms(dv.capture(blocks, (3, 12, 10)), []), frozenset())
    weights = {str(node.args[1].target) for node in fused.graph.nodes if node.target is conv_relu}
    assert len(weights) == 4 and not any("one" in name for name in weights)


class Small(nn.Module):
    """A strided stem, a depthwise convolution without a bias, and a convolution with a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.cut = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU6()
        self.depthwise, self.tanh = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.Hardtanh(0.0, 1.5)
        self.middle, self.last = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tanh(self.depthwise(self.cut(self.norm(self.stem(x)))))
        return torch.relu(self.last(torch.relu(self.middle(x))) + x)


def _replica(network: dv.Network, x: Tensor) -> Tensor:
    """The same in float64, rounded where the maps are written: behind each rectifier."""
    weights = [
        [network.constant(part) for part in node.args[1:3] if isinstance(part, fx.Node)] for node in _fused(network)
    ]
    stem, depthwise, middle, last = ([part.double() for part in parts if part is not None] for parts in weights)
    x = _convolved(x.double(), stem, stride=2, padding=1).clamp(0, 6).bfloat16().double()
    x = _convolved(x, depthwise, padding=1, groups=16).clamp(0, 1.5).bfloat16().double()
    inner = _convolved(x, middle).clamp(min=0).bfloat16().double()
    return (_convolved(inner, last) + x).clamp(min=0)


def _convolved(x: Tensor, parts: list[Tensor], **options: int) -> Tensor:
    return functional.conv2d(x, parts[0], parts[1] if len(parts) > 1 else None, **options)


def _fused(network: dv.Network) -> list[fx.Node]:
    return [node for node in network.graph.nodes if node.target is conv_relu]


@pytest.mark.skipif(not fuses(torch.device("cpu"), torch.bfloat16), reason="this processor does not compute bfloat16")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bf16_is_fused_and_rounded_once_for_each_convolution(layout: torch.memory_format) -> None:
    torch.manual_seed(1)
    network = dv.capture(Small().eval(), (3, 20, 22))
    fast, x = network.fast("bf16"), torch.randn(3, 3, 20, 22).bfloat16().contiguous(memory_format=layout)
    assert len(_fused(fast)) == 4
    with torch.inference_mode():
        ours = fast(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), _replica(fast, x), rtol=2**-8, atol=2**-9)


@pytest.mark.skipif(not fuses(torch.device("cpu"), torch.bfloat16), reason="this processor does not compute bfloat16")
def test_no_images_and_gradients_take_the_plain_ops() -> None:
    fast = dv.capture(Small().eval(), (3, 20, 22)).fast("bf16")
    with torch.inference_mode():
        assert fast(torch.zeros(0, 3, 20, 22).bfloat16()).shape == (0, 16, 10, 11)
    x = torch.randn(1, 3, 20, 22).bfloat16().requires_grad_()
    fast(x).sum().backward()
    assert x.grad is not None and x.grad.any()

"""Convolutions that take their sum and rectifier along give what the ops give one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.graph.fast import with_folded_norms
from deconvviz.graph.fused import conv_relu, with_fused_rectifiers


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
        x = torch.relu(x + self.two(torch.relu(self.one(x))))  # two that can be fused, one with a sum before it
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
    assert len(calls) == 3 and sum(node.args[6] is not None for node in calls) == 1
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
    assert len(weights) == 2 and not any("one" in name for name in weights)

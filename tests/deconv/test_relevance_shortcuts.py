"""Relevance of decisions by fewer convolutions and with memory used again: equal to the rules as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.choices import RELEVANCE_RULES
from deconvviz.deconv import rules
from deconvviz.deconv.decision import Decisions
from deconvviz.deconv.memory import EVERYTHING_STAYS
from deconvviz.deconv.relevance import LRP, never_negative, only_rectified
from deconvviz.deconv.switches import unpool
from deconvviz.deconv.totals import total_of

SIZE = (3, 20, 20)


class Fire(nn.Module):
    """A squeeze, two expansions side by side, pooling with overlap, a skip connection and a convolution to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 4, 1)
        self.narrow, self.wide = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.around, self.dropout, self.classes = nn.Conv2d(10, 10, 3, padding=1), nn.Dropout(), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.max_pool2d(self.stem(x).relu(), 3, 2)
        b = self.squeeze(a).relu()
        c = torch.cat([self.narrow(b).relu(), self.wide(b).relu()], 1)
        d = (self.around(c) + c).relu()
        return self.classes(self.dropout(d)).relu().mean((2, 3))


def captured(model: nn.Module) -> dv.Network:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.4)  # biases too
    return dv.capture(model.double().eval(), SIZE)


@pytest.mark.parametrize("rule", RELEVANCE_RULES)
def test_shortcuts_change_nothing(rule: str) -> None:
    generator = torch.Generator().manual_seed(1)
    network, x = captured(Fire()), torch.randn(5, *SIZE, dtype=torch.float64, generator=generator)
    layers = ["stem", "max_pool2d", "wide", "cat"]
    short, plain = Decisions(network, layers, rule), Decisions(network, layers, rule)
    plain._memory = EVERYTHING_STAYS
    if isinstance(short._policy, LRP) and isinstance(plain._policy, LRP):
        names = {node.name for node in short._policy.rectified}
        assert names == {"conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "conv2d_5"}
        plain._policy = replace(plain._policy, rectified=frozenset())
    written = {node.all_input_nodes[0].name for node in short._memory.overwriting}
    assert {"conv2d_1", "conv2d_2", "conv2d_5"} <= written  # not the stem and `wide`, whose values are asked for
    assert not {"conv2d", "conv2d_3"} & written
    found, expected = short.of(x), plain.of(x)
    values = network.activations(x, layers)
    for layer in layers:
        torch.testing.assert_close(found.values[layer], values[layer], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.relevance[layer], expected.relevance[layer], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.parts[layer], expected.parts[layer], rtol=1e-10, atol=1e-10)


def test_only_where_a_zero_has_no_relevance() -> None:
    """A BatchNorm hands relevance to zeros, and a product may; a sum reads what is below zero."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = self.norm(self.one(x).relu())
            b = self.two(a)
            c = self.three(b.relu() + b)
            return self.last(c.relu() * c.relu().sigmoid()).mean((2, 3))

    network = captured(Shifted())
    steps = [node for node in network.graph.nodes if node.meta["data"] and node.op != "output"]
    assert not only_rectified(steps)


def test_concatenated_rectified_values_are_never_negative() -> None:
    network = captured(Fire())
    by_name = {node.name: node for node in network.graph.nodes}
    assert [never_negative(by_name[f"conv2d_{n}"]) for n in (1, 2, 4, 5)] == [True] * 4
    assert not never_negative(by_name["conv2d"])


def test_unpooling_keeps_the_order_of_memory() -> None:
    x = torch.randn(2, 3, 7, 9)
    _, switches = functional.max_pool2d(x, 3, 2, return_indices=True)
    signal = torch.randn(switches.shape)
    for overlap in ("sum", "last"):
        plain = unpool(signal, switches, 7, 9, overlap)
        channels_last = [each.contiguous(memory_format=torch.channels_last) for each in (signal, switches)]
        turned = unpool(channels_last[0], channels_last[1], 7, 9, overlap)
        assert turned.is_contiguous(memory_format=torch.channels_last) and torch.allclose(turned, plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_totals(layout: torch.memory_format) -> None:
    signal = torch.randn(3, 64, 50, 50, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = signal.double().sum((1, 2, 3))
    assert total_of(signal).dtype == torch.float64
    assert torch.allclose(total_of(signal), expected, rtol=0, atol=1e-7 * float(signal.abs().sum((1, 2, 3)).max()))


@pytest.mark.parametrize("rule", ["lrp-gamma", "lrp-composite", "lrp-epsilon", "lrp-zplus"])
def test_units_take_the_shortcuts_too(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a unit of zero among them, which a seed of one starts from although nothing contributed to it."""
    network, x = (
        captured(Fire()),
        torch.randn(1, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    layer = "cat"
    maps = network.activations(x, [layer])[layer][0]
    alive, dead = ((maps > 0).nonzero()[::17].tolist(), (maps == 0).nonzero()[:2].tolist())
    for places, seed, shortcut in (
        (alive, "one", True),
        (alive + dead, "one", False),
        (alive + dead, "activation", True),
    ):
        asked: list[int] = []

        def counted(steps: Sequence[fx.Node], asked: list[int] = asked) -> frozenset[fx.Node]:
            asked.append(len(steps))
            return only_rectified(steps)

        units = [(0, layer, channel, (row, column)) for channel, row, column in places]
        monkeypatch.setattr(rules, "only_rectified", counted)
        found = dv.project_units(network, x, units, rule, seed=seed)
        assert bool(asked) is shortcut
        monkeypatch.setattr(rules, "only_rectified", lambda steps: frozenset())
        for one, other in zip(found, dv.project_units(network, x, units, rule, seed=seed), strict=True):
            torch.testing.assert_close(one.full(), other.full(), rtol=1e-9, atol=1e-12)

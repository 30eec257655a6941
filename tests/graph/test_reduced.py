"""Values of layers that are reduced as soon as they are there."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CaptureError, LayerNotFound
from deconvviz.graph.memory import bytes_of_one


class Branches(nn.Module):
    """A block whose value is read twice, and one whose last part has the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(self.block(x) + x)


@pytest.fixture(scope="module")
def network() -> dv.Network:
    torch.manual_seed(0)
    return dv.capture(Branches().eval(), (3, 8, 8))


@pytest.mark.parametrize("precision", ["as captured", "fp32", "bf16"])
def test_they_are_the_values_of_the_layers(network: dv.Network, precision: str) -> None:
    layers = ["last", "block", "first", "block.1"]
    ran = network if precision == "as captured" else network.fast(precision, keep=layers)
    x = torch.randn(2, 3, 8, 8).to(ran.dtype)
    with torch.inference_mode():
        kept: dict[str, Tensor] = {}
        made = ran.reduced(x, layers, lambda name, value: (kept.setdefault(name, value), value.sum())[1])
        expected = ran.activations(x, layers)
    assert list(made) == layers
    for name, value in expected.items():
        assert torch.equal(kept[name], value), "no later op writes into what was handed over"
        assert torch.equal(made[name], value.sum())


def test_a_value_that_nothing_needs_is_released(network: dv.Network) -> None:
    handed: dict[str, weakref.ref[Tensor]] = {}
    gone: list[str] = []

    def reduce(name: str, value: Tensor) -> None:
        gone.extend(other for other, reference in handed.items() if reference() is None and other not in gone)
        handed[name] = weakref.ref(value)

    with torch.no_grad():
        network.reduced(torch.randn(2, 3, 8, 8), ["first", "block", "last"], reduce)
    assert gone == ["first", "block"]
    assert bytes_of_one(network, ["first", "block"], kept=False) < bytes_of_one(network, ["first", "block"])


def test_what_is_wrong_is_told(network: dv.Network) -> None:
    with pytest.raises(LayerNotFound, match="no layer 'firts'"):
        network.reduced(torch.zeros(1, 3, 8, 8), ["firts"], lambda *_: None)
    with pytest.raises(CaptureError):
        network.reduced(torch.zeros(1, 3, 9, 8), ["first"], lambda *_: None)

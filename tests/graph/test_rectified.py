"""Whether the values of a layer come from rectifiers, through pools, sums and joins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.graph.ops import is_rectified


class Branches(nn.Module):
    """A block of two branches, joined once behind rectifiers and once in front of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)
        self.second, self.norm, self.gelu = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        a = self.pool(self.relu(self.first(x)))
        linear = self.norm(self.second(a))
        b = self.gelu(linear)
        return torch.cat([a + b, b], 1) - torch.cat([linear, a], 1)


def test_what_is_rectified() -> None:
    network = dv.capture(Branches().eval(), (3, 16, 16))
    found = {name: is_rectified(network.layer(name).node) for name in network.layers}
    assert {name: found[name] for name in found if name not in ("", "sub")} == {
        **{"first": False, "relu": True, "pool": True, "second": False, "norm": False, "gelu": True},
        **{"add": True, "cat": True, "cat_1": False},
    }

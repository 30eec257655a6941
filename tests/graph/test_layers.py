"""What the layer table says of an op: where it stands, and which of its kind it is there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import deconvviz as dv


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return torch.relu(self.second(y) + x).sigmoid()


def test_functional_layers_say_where_they_stand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network = dv.capture(model, (3, 8, 8))
    functional = [(layer.kind, layer.where) for layer in network.layers.values() if layer.functional]
    of_a_block = [("relu", "first relu"), ("add", "add"), ("relu", "second relu")]
    assert functional == [(kind, f"{block}, {place}") for block in "12" for kind, place in of_a_block]
    assert not any(layer.where for layer in network.layers.values() if not layer.functional)
    assert "2, second relu" in network.table(modules_only=False) and "second relu" not in network.table(
        modules_only=True
    )


def test_an_op_outside_of_all_modules() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y.relu().mean((2, 3))

    network = dv.capture(Outside().eval(), (3, 6, 6))
    assert network.layer("relu").where == "the network itself, relu"

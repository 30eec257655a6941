"""What an image takes is what a run of the network keeps alive."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import deconvviz as dv
from deconvviz.graph.memory import bytes_of_one, fitting


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all storages that are alive, as they come and go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most, self.storages = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.storages:
                    self.storages.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.fc = nn.Conv2d(8, 4, 3, 2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x) + x)
        return self.fc(torch.relu(self.c(x)).mean((2, 3)))


@pytest.mark.parametrize("fast", [False, True])
def test_the_estimate_is_what_a_run_keeps_alive(fast: bool) -> None:
    network = dv.capture(Branches().eval(), (3, 32, 32))
    network = network.fast() if fast else network
    x = torch.zeros(4, 3, 32, 32)
    with torch.inference_mode():
        network(x)
        with Alive() as alive:
            network(x)
    estimate = 4 * bytes_of_one(network)
    measured = alive.most + (0 if fast else x.nbytes)  # which only the fast network hands on through an op
    assert 0.999 * measured <= estimate <= 1.05 * measured


def test_fewer_images_are_taken_where_more_would_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dv.capture(Branches().eval(), (3, 32, 32))
    one = bytes_of_one(network)
    monkeypatch.setattr("deconvviz.graph.memory.free_bytes", lambda device: 10 * one)
    assert fitting(network, 8) == 8 and not capsys.readouterr().err
    assert fitting(network, 100) == 8 and "100 images at once take about" in capsys.readouterr().err
    monkeypatch.setattr("deconvviz.graph.memory.free_bytes", lambda device: None)
    assert fitting(network, 100) == 100

"""Capture on any device: the graph is that of the CPU, and the model stays where it is.

A GPU is not needed for most of it: torch's fake tensors say that they are on one, and an exporter believes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import deconvviz as dv
from deconvviz.graph.exporting import Exported, export

BATCH_OF_ANY_SIZE = "VR[0, int_oo]"


class Places(nn.Module):
    """A weight in two places, a buffer, a constant in a list, and tensors that are made on the input's device."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.first
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("shift", torch.full((3, 1, 1), 0.5), persistent=False)
        self.scales = [torch.tensor([2.0]), torch.tensor([3.0])]

    def forward(self, x: Tensor) -> Tensor:
        row = torch.arange(x.shape[-1], device=x.device)
        values = self.again(self.norm(self.first(x))) + self.shift.to(x.device)
        return values * self.scales[1] + row + torch.tensor([1.0], device=x.device)


def on_fake_gpu(make: Callable[[], nn.Module], size: int) -> Exported:
    """Export a module whose weights and images are, as far as torch knows, on a GPU."""
    with FakeTensorMode(), torch.device("cuda"):
        model = make().eval()
        images = torch.empty(2, 3, size, size)
        return export(model, images, model(images))


def text(exported: Exported) -> str:
    return str(exported.program.graph)


def test_the_batch_norm_of_a_gpu_is_what_limits_the_batch() -> None:
    """The reason for exporting on the CPU: where it is, a module with BatchNorm cannot be exported for any batch."""
    batch = {0: torch.export.Dim("batch")}
    with FakeTensorMode(), torch.device("cuda"):
        pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2))
        images = torch.empty(2, 3, 8, 8)
        torch.export.export(pooled.eval(), (images,), strict=False, dynamic_shapes=(batch,))
        with pytest.raises(Exception, match="65535"):
            torch.export.export(nn.BatchNorm2d(3).eval(), (images,), strict=False, dynamic_shapes=(batch,))


@pytest.mark.parametrize("make", [Places, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())])
def test_a_graph_from_a_gpu_is_that_of_the_cpu(make: Callable[[], nn.Module]) -> None:
    model, images = make().eval(), torch.randn(2, 3, 8, 8)
    exported, there = export(model, images, model(images)), on_fake_gpu(make, 8)
    assert text(there) == text(exported)
    assert [str(limits) for limits in there.program.range_constraints.values()] == [BATCH_OF_ANY_SIZE]
    assert {tensor.device.type for tensor in there.weights.values()} == {"cuda"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "efficientnet_b0"])
def test_networks_with_batch_norm_are_exported_from_a_gpu(name: str) -> None:
    import torchvision

    exported = on_fake_gpu(lambda: torchvision.models.get_model(name, weights=None), 64)
    assert [str(limits) for limits in exported.program.range_constraints.values()] == [BATCH_OF_ANY_SIZE]


def test_a_model_that_names_its_device_is_exported_where_it_is() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ones = torch.ones(3, device="cuda")
            return nn.functional.batch_norm(x, ones, ones)

    exported = on_fake_gpu(Named, 8)
    assert "batch_norm" in text(exported)


def test_a_model_on_the_device_meta_has_a_graph_and_no_values() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    twin, model = dv.capture(layers, (3, 8, 8)), layers.to("meta")
    network = dv.capture(model, (3, 8, 8))
    assert network.table() == twin.table()
    assert network.device.type == "meta" and next(model.parameters()).is_meta
    assert network(torch.empty(3, 3, 8, 8, device="meta")).shape == (3, 5)


def test_the_model_gets_back_what_the_export_replaced() -> None:
    model = Places().to("meta").eval()
    model.scales = [scale.to("meta") for scale in model.scales]

    def contents() -> list[Any]:
        return [id(tensor) for tensor in (*model.parameters(), *model.buffers(), *model.scales)]

    before = contents()
    network = dv.capture(model, (3, 8, 8))
    assert contents() == before
    assert network.tensors["first.weight"].is_meta and {t.device.type for t in network.tensors.values()} == {"meta"}


def test_a_network_that_is_moved_makes_its_tensors_where_it_is() -> None:
    network = dv.capture(Places(), (3, 8, 8)).to("meta")
    assert network(torch.empty(2, 3, 8, 8, device="meta")).device.type == "meta"

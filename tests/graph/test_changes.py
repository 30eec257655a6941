"""Passes over what a box changes, held against whole passes of the changed images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build, by_weight
from torch import Tensor, nn
from torch.nn import functional as f
from torch.utils._python_dispatch import TorchDispatchMode

import deconvviz as dv
from deconvviz.cam import occluder as module
from deconvviz.cam.captured import Captured
from deconvviz.cam.occluder import Occluder, UnderWindows
from deconvviz.graph.changed_parts import changed_parts, readers
from deconvviz.graph.changes import Changes, patches
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import Interval
from deconvviz.types import Ints

NETWORKS = (
    "alexnet",
    "squeezenet1_0",
    "resnet18",
    "mobilenet_v2",
    "shufflenet_v2_x1_0",
    "densenet121",
    "googlenet",
    "convnext_tiny",
    "efficientnet_b0",
    "swin_t",
)


def boxes_of(size: tuple[int, int], height: int, width: int, beyond: int = 0) -> Ints:
    """Boxes in all corners, at the borders and within; some reach beyond the image."""
    rows = (-beyond, size[0] // 2 - 3, size[0] - height + beyond)
    columns = (-beyond, size[1] // 3 + 1, size[1] - width + beyond)
    places = np.array([(row, column) for row in rows for column in columns], np.int64)
    return np.concatenate([places, places + np.array([height, width])], 1)


def changed(x: Tensor, box: Ints, other: Tensor) -> Tensor:
    """An image with what another one has in a box."""
    top, left, bottom, right = (max(int(end), 0) for end in box)
    out = x.clone()
    out[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return out


def check(net: dv.Network, layers: list[str], boxes: Ints, most: float = 1e-11) -> Changes:
    """Compare the output and layers of two images under every box with whole passes."""
    generator = torch.Generator().manual_seed(1)
    x, other = (torch.randn(2, *net.input_shape, dtype=net.dtype, generator=generator) for _ in range(2))
    x, other = (part.to(net.device) for part in (x, other))
    nodes = [net.layer(name).node for name in layers]
    changes = Changes(net, [*net.output_nodes(), *nodes], boxes)
    pairs = [(image, box) for image in range(2) for box in range(len(boxes))]
    images, numbers = torch.tensor(pairs, device=net.device).T
    whole = torch.stack([changed(x[image], boxes[box], other[image]) for image, box in pairs])
    parts = patches(whole, torch.arange(len(whole), device=net.device), changes.positions(numbers))
    values = changes.run(changes.unchanged(net.checked(x)), parts, images, numbers)
    expected = net.run({net.image: net.checked(whole)}, changes.reads, len(whole))
    for node in changes.reads:
        scale = expected[node].abs().max()
        assert (values[node] - expected[node]).abs().max() <= most * scale, node
    return changes


@pytest.mark.parametrize("name", by_weight(NETWORKS))
def test_networks(name: str, device: torch.device) -> None:
    size = (96, 112)
    net = dv.capture(build(name).to(device), (3, *size))
    spatial = [layer for layer in net.layers if len(net.layers[layer].shape) == 3]
    layers = [spatial[1], spatial[len(spatial) // 4], spatial[-1]]
    changes = check(net, layers, boxes_of(size, 12, 9, beyond=5))
    assert len(changes.parts) > 3 and 0 < changes.share <= 1


class Odd(nn.Module):
    """Borders, pools that reach beyond them, blocks, slices, skips of other parts, and channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 6, (3, 5), 1, (1, 2)), nn.Conv2d(6, 6, 3, 1, 2, dilation=2, groups=2)
        self.strided, self.skipping = nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1, 3)
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.inside = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> Any:
        y = f.relu(self.first(f.pad(x, (1, 2, 0, 1))))
        z = y + self.wide(y) + f.max_pool2d(y, 3, 1, 1)
        a = self.strided(f.max_pool2d(z, (3, 2), 2, 1, ceil_mode=True)[:, :, 2:]) + f.avg_pool2d(
            self.skipping(z), 1
        ).mean((2, 3), keepdim=True)
        b = self.inside(torch.cat([f.max_pool2d(z, 2), f.pixel_unshuffle(z[:, :2], 2)], 1))
        c = self.mix(self.norm(self.strided(z).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        shuffled = z.view(z.shape[0], 2, 3, *z.shape[2:]).transpose(1, 2).reshape(z.shape)
        return (
            a.mean((2, 3)),
            b.amax((2, 3)),
            c,
            self.skipping(shuffled).flatten(1),
            f.adaptive_avg_pool2d(z[..., :39], (10, 13)),
        )


def odd() -> nn.Module:
    torch.manual_seed(0)
    return Odd().double().eval()


@pytest.mark.parametrize("beyond", [0, 4])
@pytest.mark.parametrize("height", [1, 5, 13])
def test_ops_of_all_kinds(height: int, beyond: int, device: torch.device) -> None:
    net = dv.capture(odd().to(device), (3, 39, 39))
    changes = check(net, [], boxes_of((39, 39), height, 6, beyond))
    ops = {op_name(node) for node in changes.parts if node.op == "call_function"}
    assert ops >= {"conv2d", "max_pool2d", "avg_pool2d", "pad", "cat", "layer_norm", "linear", "permute", "slice"}


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_chain_of_windows(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    torch.manual_seed(0)
    steps: list[nn.Module] = []
    for _ in range(draw(1, 4)):
        kernel, stride, dilation = draw(1, 4), draw(1, 3), draw(1, 2)
        if draw(0, 1):
            steps.append(nn.Conv2d(3, 3, kernel, stride, draw(0, 3), dilation))
        else:
            steps.append(nn.MaxPool2d(kernel, stride, draw(0, kernel // 2), ceil_mode=bool(draw(0, 1))))
    model = nn.Sequential(*steps).double().eval()
    size = (draw(24, 40), draw(24, 40))
    try:
        net = dv.capture(model, (3, *size))
    except dv.errors.CaptureError:  # nothing is left of the map
        return
    height, width = draw(1, 12), draw(1, 12)
    assert net.image in check(net, [], boxes_of(size, height, width, draw(0, min(height, width) - 1))).parts


def test_the_part_by_hand() -> None:
    """A convolution of 3 x 3 with a stride of 2 and a border of 1: position a reads 2a - 1 to 2a + 1."""
    net = dv.capture(nn.Conv2d(3, 4, 3, 2, 1).eval(), (3, 64, 64))
    (node,) = net.output_nodes()
    parts = changed_parts(net.image, [node], np.array([[4, 8], [60, 64]]), np.array([[5, 9], [0, 4]]))
    # Rows 4 to 7: 2a + 1 >= 4 and 2a - 1 <= 7, a = 2 .. 4. Columns 5 to 8: 2 .. 4. Rows 60 to 63: 30 and 31 (32 is no
    # row), with the row before them, since all parts are of one size; columns 0 to 3: 0 .. 2.
    assert parts[node].size == (3, 3)
    assert [start.tolist() for start in parts[node].starts] == [[2, 29], [2, 0]]
    first, last = readers(Interval(3, 0, 1), np.array([1]), 1)  # every third position is read: nobody reads 1
    assert (first.item(), last.item()) == (1, 0)


def test_only_the_part_is_computed() -> None:
    """The convolutions of a pass see windows, and the first one that sees the map has all of it."""
    net = dv.capture(build("vgg11"), (3, 96, 96))
    seen = list[int]()

    class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "convolution" in func.name():
                seen.append(args[0].shape[-1])
            return func(*args, **(kwargs or {}))

    changes = Changes(net, net.output_nodes(), np.array([[32, 32, 40, 40]]))
    zero = torch.zeros(1, dtype=torch.int64)
    unchanged = changes.unchanged(net.checked(torch.zeros(1, 3, 96, 96, dtype=torch.float64)))
    with Convolutions():  # type: ignore[no-untyped-call]
        changes.run(unchanged, torch.ones(1, 3, 8, 8, dtype=torch.float64), zero, zero)
    # 8 columns change 10 after a convolution, which reads 12; pooled they are 6 (15 to 20), then 8, which reads 10;
    # pooled 4 (7 to 10), then 6 and 8, which read 8 and 10; pooled 5, then 7 and 9 of 12, which read 9 and 11; pooled 5
    # of 6, and all 6 at last.
    assert seen == [12, 10, 8, 10, 9, 11, 6, 6]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("border", ["flush", "beyond"])
def test_an_occluder_sees_the_same_either_way(border: str, precision: Any, device: torch.device) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net = dv.capture(model.eval().to(device), (3, 48, 48)).forward_only(precision)
    occluder, forward = Occluder((48, 48), (9, 7), (6, 5), border), Captured(net)
    x, fill = torch.randn(2, 3, 48, 48, device=device), torch.randn(1, 3, 48, 48, device=device)
    partly, wholly = (UnderWindows(forward, occluder, 16, x.device) for _ in range(2))
    assert partly.changes is not None
    wholly.changes = None
    numbers = torch.arange(len(occluder), device=device)
    for filled in (0.0, 0.25, fill):
        got, expected = (under.of(net.checked(x), filled)(numbers * 0 + 1, numbers) for under in (partly, wholly))
        assert (got - expected).abs().max() <= (2e-6 if precision == "fp32" else 0.02) * expected.abs().max()
    assert (got - got[:1]).abs().max() > 0.1  # the windows differ


def test_many_images_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose unchanged values do not fit in memory together: the same maps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net, x = dv.capture(model.double().eval(), (3, 32, 32)), torch.randn(5, 3, 32, 32, dtype=torch.float64)
    explain = dv.cam("occlusion", net, square=6, stride=6)
    together = explain(x, target=[0, 1, 2, 3, 0])
    groups, of = list[int](), UnderWindows.of
    monkeypatch.setattr(module, "budget", lambda device: 2 * 8 * (3 * 32 * 32 + 8 * 30 * 30) + 1)
    monkeypatch.setattr(UnderWindows, "of", lambda self, x, fill: (groups.append(len(x)), of(self, x, fill))[1])
    torch.testing.assert_close(explain(x, target=[0, 1, 2, 3, 0]), together, atol=1e-14, rtol=1e-12)
    assert groups == [2, 2, 1]

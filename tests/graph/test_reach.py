"""Receptive fields against brute force, and intervals against their definition."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from networks import by_weight
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.graph import reach
from deconvviz.graph.reach import Interval


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    return Interval(draw(st.integers(1, 4)), draw(st.integers(-5, 5)), draw(st.integers(1, 7)))


def read(interval: Interval, positions: range) -> set[int]:
    """The definition, position by position."""
    return {interval.low + a * interval.jump + i for a in positions for i in range(interval.size)}


@given(intervals(), intervals(), st.integers(-3, 9))
def test_two_ops_in_a_row(outer: Interval, inner: Interval, position: int) -> None:
    middle = read(outer, range(position, position + 1))
    joined = read(outer.then(inner), range(position, position + 1))
    exact = set().union(*(read(inner, range(m, m + 1)) for m in middle))
    assert (min(joined), max(joined)) == (min(exact), max(exact))  # an interval holds the gaps of a dilation too


@given(intervals(), intervals(), st.integers(0, 9))
def test_union_holds_both_and_no_more(first: Interval, second: Interval, position: int) -> None:
    length = 64
    union = first.union(second, length)
    if first.jump != second.jump:
        assert union == Interval(0, 0, length)
        return
    at = range(position, position + 1)
    both = read(first, at) | read(second, at)
    assert (min(read(union, at)), max(read(union, at))) == (min(both), max(both))


def positive(name: str) -> nn.Module:
    """The network with every weight positive and max pooling made a mean: then a gradient is nowhere zero by chance."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    for module in list(model.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, child_name, pool)
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(module, child_name, nn.Identity())
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    return model.double().eval()


NETWORKS = ("alexnet", "vgg11", "squeezenet1_0", "resnet18", "googlenet", "mobilenet_v2")


@pytest.mark.slow
@pytest.mark.parametrize("name", by_weight(NETWORKS))
def test_receptive_fields_equal_the_support_of_the_gradient(name: str) -> None:
    size = (3, 80, 112)
    model = positive(name)
    layers = dv.capture(model, size).layers
    values: dict[str, Tensor] = {}

    def keep(path: str, value: Tensor) -> None:  # returns nothing: what a hook returns would replace the value
        values.setdefault(path, value)

    for path, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, path=path: keep(path, o))
    x = torch.ones(1, *size, dtype=torch.float64, requires_grad=True)
    model(x)
    exact = 0
    for number, (path, value) in enumerate(values.items()):
        if path not in layers or value.dim() != 4:
            continue
        position = [[0, n // 2, n - 1][(number + axis) % 3] for axis, n in enumerate(value.shape[2:])]
        (gradient,) = torch.autograd.grad(value[0, :, position[0], position[1]].sum(), x, retain_graph=True)
        support, seen = gradient[0].abs().sum(0) > 0, layers[path].receptive_field
        for axis in (0, 1):
            found = support.any(1 - axis).nonzero()
            first = seen.offset[axis] + position[axis] * seen.stride[axis]
            last = first + seen.size[axis] - 1
            if first >= 0 and last < size[1 + axis] and seen.stride[axis]:
                assert (int(found.min()), int(found.max())) == (first, last), (path, axis)
                exact += 1
            else:  # a strided op may leave an image's last pixels unread
                assert first <= int(found.min()) and int(found.max()) <= last, (path, axis)
    assert exact >= 2


def test_a_functional_identity_has_the_reach_of_its_input() -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 5, stride=3, dilation=2, padding=1)
            self.last = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            n, c, h, w = y.shape
            return self.last(y.view(n, 2, 2, h, w).transpose(1, 2).reshape(n, c, h, w)[:, :, 1:])

    layers = dv.capture(Shuffle(), (3, 40, 44)).layers
    assert layers["conv"].receptive_field == ((9, 9), (3, 3), (-1, -1))
    assert layers["last"].receptive_field == ((9, 15), (3, 3), (2, -4))  # one row further down, wider by two strides


def test_local_needs_axes_and_every_interval() -> None:
    """An op is computed on windows only where it has rows and columns and reads an interval of every input."""
    known = (reach.SAME, reach.SAME)
    for axes, entries, local in (
        ((2, 3), (known,), True),
        ((2, 3), (known, None), False),
        ((2, 3), (), True),
        (None, (known,), False),
        (None, (None,), False),
    ):
        assert reach.Geometry(axes, entries).local is local

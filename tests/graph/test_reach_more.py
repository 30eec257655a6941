"""Receptive fields of strided slices, pixel unshuffling and nearest reduction, against the support of a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconvviz as dv

SIZE = (24, 30)
Moved = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Two convolutions around an op that moves rows and columns."""

    def __init__(self, op: Moved, channels: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.op = op
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(channels, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.op(self.first(x)))


def focus(y: Tensor) -> Tensor:
    """The four phases of rows and columns as channels, as YOLOv5's first layer has them."""
    return torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1)


# op -> (what it does, channels behind it, the pixels between neighbours, whether the table knows the field)
OPS: dict[str, tuple[Moved, int, tuple[int, int], bool]] = {
    "every second": (lambda y: y[:, :, ::2, ::2], 4, (2, 2), True),
    "every third row": (lambda y: y[:, :, ::3], 4, (3, 1), True),
    "every fourth column": (lambda y: y[..., ::4], 4, (1, 4), True),
    "an offset": (lambda y: y[:, :, 1::2, 3::2], 4, (2, 2), True),
    "from the end": (lambda y: y[:, :, -9::2, -11:], 4, (2, 1), True),
    "an end": (lambda y: y[:, :, 2:17:3, :-3:2], 4, (3, 2), True),
    "before the beginning": (lambda y: y[:, :, -100::2, -100:20], 4, (2, 1), True),
    "two in a row": (lambda y: y[:, :, 1::2, ::2][:, :, 1::2, 1:], 4, (4, 2), True),
    "channels too": (lambda y: y[:, 1::2, ::2, 1::2], 2, (2, 2), True),
    "channels alone": (lambda y: y[:, ::2], 2, (1, 1), True),
    "focus": (focus, 16, (2, 2), True),
    "unshuffled": (lambda y: F.pixel_unshuffle(y, 2), 16, (2, 2), True),
    "unshuffled by three": (lambda y: F.pixel_unshuffle(y, 3), 36, (3, 3), True),
    "unshuffled twice": (lambda y: F.pixel_unshuffle(F.pixel_unshuffle(y, 2), 3), 144, (6, 6), True),
    "nearest to a half": (lambda y: F.interpolate(y, (12, 15)), 4, (2, 2), True),
    "nearest by a factor": (lambda y: F.interpolate(y, scale_factor=1 / 3), 4, (3, 3), True),
    "nearest of columns": (lambda y: F.interpolate(y, (24, 10)), 4, (1, 3), True),
    "nearest and a slice": (lambda y: F.interpolate(y, (12, 15))[:, :, 1:, ::2], 4, (2, 4), True),
    "nearest by no whole factor": (lambda y: F.interpolate(y, (10, 15)), 4, (0, 0), False),
    "nearest to twice": (lambda y: F.interpolate(y, scale_factor=2), 4, (0, 0), False),
    "nearest-exact": (lambda y: F.interpolate(y, (12, 15), mode="nearest-exact"), 4, (0, 0), False),
    "chunks of columns": (lambda y: y.chunk(2, 3)[1], 4, (0, 0), False),
    "flipped": (lambda y: y.flip(2), 4, (0, 0), False),
}
KNOWN = [name for name, entry in OPS.items() if entry[3]]


def built(name: str) -> tuple[Between, dv.Network]:
    op, channels, _, _ = OPS[name]
    model = Between(op, channels).double().eval()
    return model, dv.capture(model, (3, *SIZE))


def support(model: Between, position: tuple[int, int]) -> list[tuple[int, int]]:
    """First and last row, and first and last column, that a unit of the last layer depends on; every weight is one."""
    for conv in (model.first, model.last):
        nn.init.ones_(conv.weight)
    x = torch.ones(1, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0, :, position[0], position[1]].sum(), x)
    seen = gradient[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return [(int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))]


def positions(network: dv.Network) -> list[tuple[int, int]]:
    _, rows, columns = network.layers["last"].shape
    return [(0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1), (1, columns - 2)]


@pytest.mark.parametrize("name", OPS)
def test_the_field_is_where_the_gradient_is(name: str) -> None:
    model, network = built(name)
    stride, known = OPS[name][2:]
    seen = network.layers["last"].receptive_field
    assert seen.stride == stride
    for position in positions(network):
        for axis, (first, last) in enumerate(support(model, position)):
            begin = seen.offset[axis] + position[axis] * seen.stride[axis]
            end = begin + seen.size[axis] - 1
            assert max(begin, 0) <= first and last <= min(end, SIZE[axis] - 1), (position, axis)
            within = 0 < position[axis] < network.layers["last"].shape[1 + axis] - 1  # no padding of the convolution
            if known and within:
                assert (first, last) == (max(begin, 0), min(end, SIZE[axis] - 1)), (position, axis)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "lrp-epsilon"])
def test_a_window_gives_what_the_whole_image_gives(name: str, rule: str) -> None:
    _, network = built(name)
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for channel, position in enumerate(positions(network)):
        window, whole = (
            dv.project(network, x, "last", channel, position, rule, windowed=windowed) for windowed in (True, False)
        )
        assert torch.allclose(window.full(), whole.full(), atol=1e-10), position
        assert window.value == pytest.approx(whole.value) and whole.pixels.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_the_window_is_the_field_and_the_gradient_is_autograds(name: str) -> None:
    model, network = built(name)
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    seen = network.layers["last"].receptive_field
    for position in positions(network):
        (wanted,) = torch.autograd.grad(model(x)[0, 2, position[0], position[1]], x)
        got = dv.project(network, x.detach(), "last", 2, position, "gradient")
        assert torch.allclose(got.full(), wanted[0], atol=1e-10), position
        low = [max(seen.offset[axis] + position[axis] * seen.stride[axis], 0) for axis in (0, 1)]
        assert (got.window.top, got.window.left) == tuple(low)


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((24, 30), (0.5, 0.5)),
        ((24, 30), (0.34, 0.34)),  # 8 x 10 positions, though 1 / 0.34 is less than 3
        ((25, 31), (0.5, 0.5)),
        ((24, 30), (0.49, 0.31)),
        ((25, 31), (0.4, 0.34)),
    ],
)
def test_reduction_by_a_factor_that_the_sizes_do_not_tell(size: tuple[int, int], factor: tuple[float, float]) -> None:
    """Where the sizes have a whole ratio, the op may still use the factor that it was given."""
    model = Between(lambda y: F.interpolate(y, scale_factor=factor), 4).double().eval()
    network = dv.capture(model, (3, *size))
    x = torch.randn(1, 3, *size, dtype=torch.float64).requires_grad_()
    for position in ((2, 3), (5, 7)):
        (wanted,) = torch.autograd.grad(model(x)[0, 2, position[0], position[1]], x)
        got = dv.project(network, x.detach(), "last", 2, position, "gradient").full()
        assert torch.allclose(got, wanted[0], atol=1e-10), position


class Shortcut(nn.Module):
    """A residual block whose shortcut is a slice with new channels of zeros, as small ResNets have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.same, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        short = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.last((self.same(self.down(y).relu()) + short).relu())


def test_a_shortcut_of_a_slice_and_zeros_keeps_the_field_small() -> None:
    network = dv.capture(Shortcut().eval(), (3, *SIZE))
    assert network.layers["last"].receptive_field.size == (9, 9)


def test_a_shortcut_of_a_slice_and_zeros_projects_rightly() -> None:
    model = Shortcut().double().eval()
    network = dv.capture(model, (3, *SIZE))
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64).requires_grad_()
    for position in ((0, 0), (5, 6), (11, 14)):
        (wanted,) = torch.autograd.grad(model(x)[0, 1, position[0], position[1]], x)
        got = dv.project(network, x.detach(), "last", 1, position, "gradient").full()
        assert torch.allclose(got, wanted[0], atol=1e-10), position


@pytest.mark.parametrize(
    "joined",
    [
        torch.logical_or,
        torch.bitwise_or,
    ],
)
def test_selections_and_comparisons_are_local(joined: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Point by point: they read no more than the values that they choose from."""

    def op(y: Tensor) -> Tensor:
        z = torch.where(y > 0.1, y, -y).masked_fill(joined(y < -0.2, y == 0), 0.5)
        return torch.where(torch.logical_not(y.ge(0)), z, z.detach() * 2 + y)

    model = Between(op, 4).double().eval()
    network = dv.capture(model, (3, *SIZE))
    assert network.layers["last"].receptive_field.size == (5, 5)
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64).requires_grad_()
    (wanted,) = torch.autograd.grad(model(x)[0, 2, 7, 9], x)
    assert torch.allclose(dv.project(network, x.detach(), "last", 2, (7, 9), "gradient").full(), wanted[0], atol=1e-10)

"""Means over shifts and noise, against loops that shift, add noise and shift back by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.choices import RULES
from deconvviz.errors import ProjectionError

slow = pytest.mark.slow
SIZE = (2, 24, 20)


def image(count: int = 1) -> Tensor:
    return torch.randn(count, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def network(stride: int, rectified: bool = True) -> dv.Network:
    """Two convolutions without padding; the map of the second has the given stride."""
    torch.manual_seed(2)
    middle = nn.ReLU() if rectified else nn.Identity()
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=stride), middle, nn.Conv2d(4, 3, 3))
    return dv.capture(model.double(), SIZE)


def shifted(picture: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """The picture [C, H, W] moved down and right, its border repeated."""
    height, width = picture.shape[1:]
    out = np.empty_like(picture)
    for y, x in product(range(height), range(width)):
        out[:, y, x] = picture[:, min(max(y - rows, 0), height - 1), min(max(x - columns, 0), width - 1)]
    return out


def moved_back(signal: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """The signal [C, H, W] of a shifted picture on the picture as it is; what lies outside is lost."""
    height, width = signal.shape[1:]
    out = np.zeros_like(signal)
    for y, x in product(range(height), range(width)):
        if 0 <= y + rows < height and 0 <= x + columns < width:
            out[:, y, x] = signal[:, y + rows, x + columns]
    return out


def by_hand(
    net: dv.Network,
    picture: Tensor,
    channel: int,
    position: tuple[int, int],
    rule: str,
    offsets: list[int],
    stride: int,
    noise: list[NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """The mean over all pairs of offsets, and over the noise that is added in turn to each shifted picture."""
    rows, columns = net.layer("2").units[1:]
    total, copies, draws = np.zeros(SIZE), 0, iter(noise or [])
    each = len(noise) // len(offsets) ** 2 if noise else 1
    for down, right in product(offsets, offsets):
        y, x = position[0] + round(down / stride), position[1] + round(right / stride)
        at = (min(max(y, 0), rows - 1), min(max(x, 0), columns - 1))
        for _ in range(each):
            changed = shifted(picture.numpy(), down, right) + (next(draws) if noise else 0.0)
            found = dv.project(net, torch.from_numpy(changed)[None], "2", channel, at, rule, windowed=False)
            total += moved_back(found.full().numpy(), down, right)
            copies += 1
    return total / copies


@pytest.mark.parametrize(
    "rule", ["deconvnet", *(pytest.param(name, marks=slow) for name in RULES if name != "deconvnet")]
)
def test_shifts_change_nothing_at_stride_one(rule: str) -> None:
    """The interior of a network of stride 1 moves with its image: the mean over shifts is the projection, to 1e-12."""
    net, x = network(1), image()
    for position in ((8, 8), (6, 9)):
        plain = dv.project(net, x, "2", 1, position, rule).full()
        for shifts in (4, 9, 16):
            mean = dv.project(net, x, "2", 1, position, rule, shifts=shifts)
            assert (mean.full() - plain).abs().max() <= 1e-12 * plain.abs().max()
            assert mean.position == position


OFFSETS = {  # (stride, shifts): what a grid over one stride, or 4 pixels where that is more, holds
    (1, 4): [-2, 0],
    (2, 9): [-1, 0, 1],
    (2, 16): [-2, -1, 0, 1],
    (5, 4): [-2, 0],  # -2.5 is rounded to even
    (6, 9): [-2, 0, 2],
    (8, 4): [-4, 0],
}


@pytest.mark.parametrize(("stride", "shifts"), OFFSETS)
@pytest.mark.parametrize("rule", ["lrp-gamma", *(pytest.param(name, marks=slow) for name in ("gradient", "deconvnet"))])
def test_shifts_by_hand(stride: int, shifts: int, rule: str) -> None:
    """Strided convolutions, units in corners and at borders too, whose position stays on the map."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    net, x = dv.capture(model, SIZE), image()
    rows, columns = net.layer("2").units[1:]
    for position in ((0, 0), (rows // 2, columns - 1), (rows // 2, columns // 2)):
        expected = by_hand(net, x[0], 2, position, rule, OFFSETS[stride, shifts], stride)
        found = dv.project(net, x, "2", 2, position, rule, shifts=shifts)
        assert np.abs(found.full().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()
        assert found.value == dv.project(net, x, "2", 2, position, rule).value  # of the image as it is
        assert found.position == position


def test_shifts_of_a_linear_strided_filter_fill_its_gaps() -> None:
    """A transposed convolution of stride 2 and kernel 1 leaves three of four pixels empty; shifts by one fill them."""
    model = nn.Conv2d(1, 1, 1, stride=4, bias=False).double()
    nn.init.ones_(model.weight)
    net = dv.capture(model, (1, 16, 16))
    x = torch.zeros(1, 1, 16, 16).double()
    found = dv.project(net, x, "conv2d", 0, (2, 2), "gradient", shifts=16).full()[0]
    expected = np.zeros((16, 16))
    for down, right in product([-2, -1, 0, 1], repeat=2):
        at = (2 + round(down / 4), 2 + round(right / 4))  # the unit itself: half a stride is rounded to even, 0
        expected[4 * at[0] - down, 4 * at[1] - right] += 1 / 16
    assert np.array_equal(found.numpy(), expected)
    assert np.count_nonzero(expected) == 16


def test_shifts_that_make_no_sense() -> None:
    """A number that is no square, and a shift as large as the image, are refused in one clear line."""
    net, x = network(1), image()
    for shifts in (0, 2, 3, 5, 8, -4):
        with pytest.raises(ProjectionError, match="shifts") as error:
            dv.project(net, x, "2", 0, (3, 3), shifts=shifts)
        assert "\n" not in str(error.value) and "square" in str(error.value)
    pool = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1, stride=64)).double()
    small = dv.capture(pool, SIZE)
    with pytest.raises(ProjectionError, match="of 24 px") as error:
        dv.project(small, x, "1", 0, (0, 0), shifts=4)
    assert "\n" not in str(error.value) and "32 px" in str(error.value)
    for options in ({"noise": -0.1}, {"noise": float("nan")}, {"noise": float("inf")}, {"noise": 0.1, "samples": 0}):
        with pytest.raises(ProjectionError, match=next(reversed(options))):
            dv.project(net, x, "2", 0, (3, 3), **options)  # type: ignore[arg-type]


def draws(count: int) -> list[Tensor]:
    """The noise of the copies in turn, of a seed that is always 0."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SIZE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("rule", ["gradient", "gradient-x-input", "lrp-epsilon", "lrp-zplus"])
@pytest.mark.parametrize("shifts", [1, 4])
def test_noise_by_hand(rule: str, shifts: int) -> None:
    """The mean over the exact draws, of a standard deviation that is a share of this image's range."""
    net, x = network(2), image()
    spread = 0.2 * (float(x.max()) - float(x.min()))
    noise = [spread * drawn.numpy() for drawn in draws(3 * shifts)]
    expected = by_hand(net, x[0], 1, (4, 3), rule, {1: [0], 4: [-2, 0]}[shifts], 2, noise)
    found = dv.project(net, x, "2", 1, (4, 3), rule, shifts=shifts, noise=0.2, samples=3)
    assert np.abs(found.full().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()
    assert found.value == dv.project(net, x, "2", 1, (4, 3), rule).value
    plain = dv.project(net, x, "2", 1, (4, 3), rule).full().numpy()
    assert np.abs(expected - plain).max() > 1e-3 * np.abs(plain).max()  # else nothing was tested


def test_noise_does_not_depend_on_the_batch() -> None:
    """An image gets the same alone, in a batch of others with other ranges, and with units of other layers beside."""
    net = network(2)
    images = image(3) * torch.tensor([1.0, 3.0, 0.5])[:, None, None, None].double()
    units = [(2, "2", 0, (3, 3)), (0, "0", 1, (2, 5)), (1, "2", 2, (0, 0)), (0, "2", 1, (8, 6))]
    together = dv.project_units(net, images, units, "lrp-gamma", shifts=4, noise=0.3, samples=2)
    for found, (number, layer, channel, position) in zip(together, units, strict=True):
        assert (found.image, found.layer, found.channel, found.position) == (number, layer, channel, position)
        alone = dv.project(
            net, images[number : number + 1], layer, channel, position, "lrp-gamma", shifts=4, noise=0.3, samples=2
        )
        assert torch.allclose(found.full(), alone.full(), rtol=1e-11, atol=1e-15)
        assert found.value == pytest.approx(alone.value, rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_asked_for_is_the_plain_projection(rule: str) -> None:
    """One shift and no noise, whatever the number of samples."""
    net, x = network(2), image()
    plain = dv.project(net, x, "2", 1, (4, 3), rule)
    same = dv.project(net, x, "2", 1, (4, 3), rule, shifts=1, noise=0.0, samples=7)
    assert torch.equal(plain.pixels, same.pixels) and plain.window == same.window and plain.value == same.value


def test_the_window_of_a_mean_holds_all_copies() -> None:
    """It is clipped to the image, and holds every pixel that any copy sees."""
    net, x = network(1), image()
    found = dv.project(net, x, "2", 0, (7, 7), "gradient", shifts=16)
    assert tuple(found.window) == (7, 7, 12, 12)  # at stride 1 the unit moves along, and the copies see the same
    corner = dv.project(net, x, "2", 0, (0, 0), "gradient", shifts=4)
    assert tuple(corner.window) == (0, 0, 7, 7)  # shifted up by 2 the unit stays, and sees the pixels 2 to 6
    for projection in (found, corner):
        assert tuple(projection.pixels.shape[1:]) == (projection.window.height, projection.window.width)

"""Where a gradient ends, or passes what is no real number: choices, indices, spectra, detached values, steep roots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import ProjectionError

SIZE = (12, 13)
UNIT = (2, (4, 5))
Op = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """A convolution, an op, a convolution."""

    def __init__(self, op: Op, channels: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.op, self.first, self.last = op, nn.Conv2d(3, 4, 3), nn.Conv2d(channels, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.op(self.first(x)))


def picture(seed: int = 6) -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(op: Op) -> tuple[Through, dv.Network]:
    with torch.no_grad():
        channels = op(torch.rand(2, 4, 10, 11)).shape[1]
    model = Through(op, channels).double().eval()
    return model, dv.capture(model, (3, *SIZE))


def by_autograd(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    channel, position = UNIT
    return torch.autograd.grad(model(leaf)[0, channel, position[0], position[1]], leaf)[0][0]


def by_differences(model: nn.Module, x: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of the unit's value, pixel by pixel; right where no choice changes within the step."""
    channel, position = UNIT
    out = torch.zeros_like(x[0])
    with torch.no_grad():
        for index in torch.cartesian_prod(*[torch.arange(n) for n in x.shape[1:]]).tolist():
            near = x.repeat(2, 1, 1, 1)
            near[0][tuple(index)] += step
            near[1][tuple(index)] -= step
            plus, minus = model(near)[:, channel, position[0], position[1]]
            out[tuple(index)] = (plus - minus) / (2 * step)
    return out


def swish_by_choice(y: Tensor) -> Tensor:
    return torch.where(y.abs() > 0.3, y * y.sigmoid(), y / 4)


def hard_tanh_by_hand(y: Tensor) -> Tensor:
    y = torch.where(y > 0.4, torch.full_like(y, 0.4), y)
    return torch.where(y < -0.4, -0.4 * torch.ones_like(y), y)


def shrunk(y: Tensor) -> Tensor:
    """Soft shrinking: two comparisons as numbers."""
    return (y - 0.1) * (y > 0.1) + (y + 0.1) * (y < -0.1).to(y.dtype)


def strongest_channel(y: Tensor) -> Tensor:
    best = y.argmax(1, keepdim=True)
    return torch.cat([y.gather(1, best), y], 1)


def by_position(y: Tensor) -> Tensor:
    """Integer indices that depend on the image: the channels in the order of their strength, image by image."""
    order = y.mean((2, 3)).argsort(1)
    return torch.stack([y[:, 0], y[torch.arange(y.shape[0]), order[:, 1]]], 1)


def kept_above_the_mean(y: Tensor) -> Tensor:
    return y.masked_fill(y <= y.mean((2, 3), keepdim=True), 0.0) * 1.5


def top_two(y: Tensor) -> Tensor:
    """Winners take all, over channels."""
    least = y.topk(2, 1).values[:, -1:]
    return y * (y >= least)


def low_frequencies(y: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(y)
    keep = torch.zeros(spectrum.shape[-2:], dtype=y.dtype)
    keep[:3, :3] = 1
    return torch.fft.irfft2(spectrum * keep, s=(10, 11))


def filtered_in_frequency(y: Tensor) -> Tensor:
    """As global filter networks do: a complex weight."""
    rows = torch.arange(10 * 6, dtype=y.dtype).reshape(10, 6)
    weight = torch.complex(rows.cos(), rows.sin())
    return torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho") * weight, s=(10, 11), norm="ortho")


def power_spectrum(y: Tensor) -> Tensor:
    spectrum = torch.fft.fft2(y)
    return (spectrum.real**2 + spectrum.imag**2 + 1).log()


CHOICES: dict[str, Op] = {
    "where": lambda y: torch.where(y > 0.05, y, 0.2 * y),
    "where of a number": lambda y: torch.where(y < 0, -0.3, y),
    "where of two branches": swish_by_choice,
    "where twice": hard_tanh_by_hand,
    "product with a comparison": lambda y: y * (y > 0),
    "product with a float mask": lambda y: y * (y >= -0.1).double() + 0.2 * y,
    "comparison of two values": lambda y: y * (y > y.flip(1)),
    "soft shrinking": shrunk,
    "masked_fill": lambda y: y.masked_fill(y < -0.1, -0.1),
    "masked_fill by the mean": kept_above_the_mean,
    "in place by a mask": lambda y: (y * 2).masked_fill_(y > 0.6, 0.6),
    "joined masks": lambda y: y.masked_fill((y > 0.4) | ((y < 0) & ~(y < -0.4)), 0.0),
    "clamp": lambda y: y.clamp(-0.2, 0.5),
    "clamp by tensors": lambda y: torch.clamp(y, min=-0.5 * y.abs()),
    "maximum": lambda y: torch.maximum(y, 0.1 * y),
    "minimum and maximum": lambda y: torch.minimum(torch.maximum(y, -y / 2), y.square() + 0.1),
    "gather": strongest_channel,
    "top": top_two,
    "index of images": by_position,
    "index of channels": lambda y: y[:, torch.tensor([3, 0, 0, 2])],
    "index_select": lambda y: y.index_select(3, torch.arange(10, -1, -1)),
    "sorted": lambda y: y.sort(1).values,
    "cumulative": lambda y: y.cumsum(2) / 5,
    "spectrum cut": low_frequencies,
    "spectrum weighted": filtered_in_frequency,
    "spectrum's power": power_spectrum,
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_gradient_behind_a_choice(name: str) -> None:
    model, network = made(CHOICES[name])
    x = picture()
    wanted = by_autograd(model, x)
    for windowed in (True, False):
        got = dv.project(network, x, "last", *UNIT, "gradient", windowed=windowed).full()
        assert torch.allclose(got, wanted, atol=1e-9), windowed
    assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["where twice", "comparison of two values", "gather", "sorted", "spectrum weighted"])
def test_it_is_the_slope_of_the_units_value(name: str) -> None:
    model, network = made(CHOICES[name])
    x = picture()
    got = dv.project(network, x, "last", *UNIT, "gradient").full()
    assert torch.allclose(got, by_differences(model, x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["deconvnet", "guided", "lrp-epsilon", "lrp-zplus", "lrp-composite"])
@pytest.mark.parametrize("name", CHOICES)
def test_other_rules_pass_it_too(name: str, rule: str) -> None:
    _, network = made(CHOICES[name])
    if name.startswith("spectrum") and rule.startswith("lrp"):  # no relevance has a phase
        with pytest.raises(ProjectionError, match="choose a layer before it"):
            dv.project(network, picture(), "last", *UNIT, rule)
        return
    projection = dv.project(network, picture(), "last", *UNIT, rule)
    assert projection.pixels.isfinite().all() and projection.pixels.abs().max() > 0


def test_what_comes_from_comparisons_alone_hands_nothing_back() -> None:
    model, network = made(lambda y: torch.cat([(y > 0).to(y.dtype), y[:, :1] * 0.5], 1))
    x = picture()
    got = dv.project(network, x, "last", *UNIT, "gradient").full()
    assert torch.allclose(got, by_autograd(model, x), atol=1e-10) and got.abs().max() > 0
    _, only = made(lambda y: (y > 0).to(y.dtype))
    assert not dv.project(only, x, "last", *UNIT, "gradient").full().any()


# --- detached values -------------------------------------------------------------------------------------------------


DETACHED: dict[str, Op] = {
    "straight through": lambda y: y + (y.sign() - y).detach(),
    "the other way round": lambda y: (y.round() - y).detach() + y,
    "a gate": lambda y: y * y.sigmoid().detach(),
    "one of two branches": lambda y: y.relu() + 2 * y.detach().abs(),
    "through a module's data": lambda y: y * (1 + y.detach().mean(1, keepdim=True)),
    "in a concatenation": lambda y: torch.cat([y, y.detach()], 1),
    "normalised by a detached norm": lambda y: y / (y.norm(dim=1, keepdim=True).detach() + 0.1),
}


@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_value_hands_no_gradient_back(name: str) -> None:
    model, network = made(DETACHED[name])
    x = picture()
    assert torch.allclose(network(x), model(x), atol=1e-12)
    wanted = by_autograd(model, x)
    for windowed in (True, False):
        got = dv.project(network, x, "last", *UNIT, "gradient", windowed=windowed).full()
        assert torch.allclose(got, wanted, atol=1e-9), windowed
    assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_rules_of_what_a_unit_sees_go_on_behind_it(rule: str) -> None:
    """Zeiler's projection asks what the unit was computed from; to detach changes no value."""
    _, network = made(lambda y: y.relu().detach())
    _, plain = made(lambda y: y.relu())
    x = picture()
    got, wanted = (dv.project(each, x, "last", *UNIT, rule).full() for each in (network, plain))
    assert torch.equal(got, wanted) and wanted.abs().max() > 0
    assert not dv.project(network, x, "last", *UNIT, "gradient").full().any()


def test_a_map_of_the_layer_and_one_of_pixels_agree_that_it_ends_there() -> None:
    inner, _ = made(DETACHED["one of two branches"])
    model, x = nn.Sequential(inner, nn.Flatten()).eval(), picture()
    network = dv.capture(model, (3, *SIZE))
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[0, 3], leaf)
    assert torch.allclose(dv.cam("gradient", network)(x, 3, raw=True)[0], wanted[0].abs().amax(0), atol=1e-10)


# --- steep functions at zero -----------------------------------------------------------------------------------------


def mean_of_powers(y: Tensor) -> Tensor:
    return (F.avg_pool2d(y.relu() ** 3, 2, 1) * 4) ** (1 / 3)


STEEP: dict[str, Op] = {
    "sqrt": lambda y: y.relu().sqrt(),
    "pow": lambda y: y.relu().pow(0.3),
    "pow after clamp": lambda y: y.clamp(min=0).pow(0.5),
    "norm pooling": lambda y: F.lp_pool2d(y.relu(), 2, 2, 1),
    "mean of powers": mean_of_powers,
    "logarithm": lambda y: (y.relu() + 0).log().clamp(min=-5),
    "reciprocal of the root": lambda y: y.relu() * (y.relu() + 1e-300).rsqrt(),
    "norm over channels": lambda y: y.relu().norm(dim=1, keepdim=True),
    "relu6": lambda y: F.relu6(y).sqrt(),
}
INFINITE = ("relu6", "pow after clamp", "logarithm", "reciprocal of the root")  # where autograd has 0 * inf


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gradient", "guided", "deconvnet", "gradient-x-input"])
@pytest.mark.parametrize("name", STEEP)
def test_steep_functions_behind_a_rectifier_give_numbers(name: str, rule: str) -> None:
    _, network = made(STEEP[name])
    for seed in range(3):
        for position in ((0, 0), UNIT[1]):
            projection = dv.project(network, picture(seed), "last", 1, position, rule)
            assert projection.pixels.isfinite().all(), (seed, position)


@pytest.mark.parametrize("name", [name for name in STEEP if name not in INFINITE])
def test_their_gradient_is_autograds(name: str) -> None:
    model, network = made(STEEP[name])
    x = picture()
    wanted = by_autograd(model, x)
    assert wanted.isfinite().all()
    assert torch.allclose(dv.project(network, x, "last", *UNIT, "gradient").full(), wanted, atol=1e-9)


def test_a_masked_infinity_is_nothing_in_a_map() -> None:
    inner, _ = made(STEEP["sqrt"])
    network = dv.capture(nn.Sequential(inner, nn.Flatten()).eval(), (3, *SIZE))
    for method in ("gradient", "guided", "smoothgrad", "gradient-x-input"):
        maps = dv.cam(method, network)(picture(), 5)
        assert maps.isfinite().all() and maps.max() == 1, method


def test_an_image_that_does_not_exist_is_named_with_those_that_do() -> None:
    _, network = made(STEEP["sqrt"])
    x = torch.cat([picture(seed) for seed in range(3)])
    with pytest.raises(dv.DeconvvizError, match="image 3 given; expected 0 to 2"):
        dv.project_units(network, x, [(3, "last", 0, (0, 0))])

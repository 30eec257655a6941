"""torch.autograd.Function in captured networks: the backward that its author wrote is the one that signals take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

import deconvviz as dv

SHAPE, UNIT = (3, 14, 12), (2, (3, 4))


class Rounded(Function):
    """Rounds to quarters; backwards as if it were tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        (x,) = ctx.saved_tensors
        return signals[0] * (1 - x.tanh() ** 2)


class Reversed(Function):
    """Hands its input on and the gradient back with another sign and strength, as for adversarial domains."""

    @staticmethod
    def forward(x: Tensor, strength: float, name: str) -> Tensor:
        assert name == "domain"
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return -ctx.strength * signals[0], None, None


class Gated(Function):
    """Two inputs with a number between them; the second one's gradient is invented."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: int, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.power = power
        return x * (gate > 0) ** power

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        x, gate = ctx.saved_tensors
        return signals[0] * (gate > 0), None, signals[0] * x.abs() * ctx.power


class Halves(Function):
    """Two outputs of one input, each with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.clamp(min=0), x.clamp(max=0)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return signals[0] * 2 - signals[1] * 0.5


class WithBuffer(Function):
    """Takes a tensor that has nothing to do with the images, as thresholds are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(x, threshold)
        return (x > threshold[:, None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        x, threshold = ctx.saved_tensors
        near = 1 / (1 + (x - threshold[:, None, None]).abs() * 5) ** 2  # as in networks of spikes
        return signals[0] * near, None


class InPlace(Function):
    """Overwrites its input and says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.clamp_(min=-0.25)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return signals[0] * 3


class Listed(Function):
    """Takes its tensors in a list, which the marks do not reach."""

    @staticmethod
    def forward(ctx: Any, tensors: list[Tensor]) -> Tensor:
        return tensors[0] * 2 + tensors[1]

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return (None,)


class Applied(nn.Module):
    """A convolution before the function, one behind it."""

    def __init__(self, op: Callable[[Applied, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.op = op
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.register_buffer("threshold", torch.tensor([-0.1, 0.0, 0.1, 0.2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.op(self, self.first(x)))


def gated_by_itself(model: Applied, y: Tensor) -> Tensor:
    return Gated.apply(y, 3, y.flip(1) - 0.05)


def halves(model: Applied, y: Tensor) -> Tensor:
    positive, negative = Halves.apply(y)
    return positive - 0.3 * negative


def only_the_second_half(model: Applied, y: Tensor) -> Tensor:
    return Halves.apply(y)[1]


def chained(model: Applied, y: Tensor) -> Tensor:
    """One function called three times, and its results in others."""
    y = Rounded.apply(Rounded.apply(y) + y)
    return Reversed.apply(WithBuffer.apply(y, model.threshold) + Rounded.apply(y * 2), 1.5, "domain")


FUNCTIONS: dict[str, Callable[[Applied, Tensor], Tensor]] = {
    "ctx": lambda model, y: Rounded.apply(y),
    "setup_context": lambda model, y: Reversed.apply(y, 0.7, "domain"),
    "two inputs": gated_by_itself,
    "two outputs": halves,
    "one of two outputs": only_the_second_half,
    "a buffer": lambda model, y: WithBuffer.apply(y, model.threshold),
    "several calls": chained,
}


def differentiated(model: nn.Module, x: Tensor, channel: int, position: tuple[int, int]) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[0, channel, position[0], position[1]], leaf)[0][0]


def picture() -> Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_takes_the_functions_own_backward(name: str) -> None:
    model, x = Applied(FUNCTIONS[name]).double().eval(), picture()
    network = dv.capture(model, SHAPE)
    assert torch.allclose(network(x), model(x), atol=1e-12) and network(x.repeat(3, 1, 1, 1)).shape[0] == 3
    wanted = differentiated(model, x, *UNIT)
    for windowed in (True, False):
        got = dv.project(network, x, "last", *UNIT, "gradient", windowed=windowed).full()
        assert torch.allclose(got, wanted, atol=1e-10), windowed
    assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_map_of_pixels_and_a_map_of_a_layer_agree_on_it(name: str) -> None:
    """Methods on a layer run the ops as they are, methods on pixels send a signal back through the graph."""
    inner = Applied(FUNCTIONS[name])
    model, x = nn.Sequential(inner, nn.Flatten(1)).double().eval(), picture()
    network = dv.capture(model, SHAPE)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[0, 7], leaf)
    got = dv.cam("gradient", network)(x, 7, raw=True)[0]
    assert torch.allclose(got, wanted[0].abs().amax(0), atol=1e-10)
    value = inner.first(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(inner.last(inner.op(inner, value)).flatten(1)[0, 7], value)
    got = dv.cam("hirescam", network, "0.first")(x, 7, raw=True)[0]
    assert torch.allclose(got.relu(), (value * gradient).sum(1)[0].relu(), atol=1e-10)


def test_the_function_is_named_where_it_is_linearised() -> None:
    network = dv.capture(Applied(FUNCTIONS["ctx"]).double().eval(), SHAPE)
    assert "Rounded" in " ".join(dv.project(network, picture(), "last", *UNIT, "gradient").linearised)
    assert any(layer.kind == "Rounded" for layer in network.layers.values())


def test_two_outputs_are_two_layers() -> None:
    network = dv.capture(Applied(halves).double().eval(), SHAPE)
    kinds = [layer.kind for layer in network.layers.values() if layer.functional]
    assert {"Halves_0", "Halves_1"} <= set(kinds) or kinds.count("Halves") == 2


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_other_rules_take_it_as_one_op_between_convolutions(rule: str) -> None:
    model, x = Applied(FUNCTIONS["setup_context"]).double().eval(), picture()
    got = dv.project(dv.capture(model, SHAPE), x, "last", *UNIT, rule).full()
    assert torch.allclose(got, differentiated(model, x, *UNIT), atol=1e-10)  # nothing there rectifies


@pytest.mark.parametrize("function", [InPlace, Listed])
def test_a_function_that_cannot_be_marked_is_captured_by_its_ops(function: type[Function]) -> None:
    def op(model: Applied, y: Tensor) -> Tensor:
        return InPlace.apply(y * 1) if function is InPlace else Listed.apply([y, y.flip(1)])

    model, x = Applied(op).double().eval(), picture()
    network = dv.capture(model, SHAPE)
    assert torch.allclose(network(x), model(x), atol=1e-12)
    assert dv.project(network, x, "last", *UNIT, "gradient").pixels.isfinite().all()


def test_the_function_itself_is_as_it_was_afterwards() -> None:
    kinds = (Rounded, Reversed, Gated, Halves, WithBuffer, InPlace, Listed)
    before = [vars(kind)["forward"] for kind in kinds]
    dv.capture(Applied(chained).eval(), SHAPE)
    assert [vars(kind)["forward"] for kind in kinds] == before

    def refused(model: Applied, y: Tensor) -> Tensor:
        return Rounded.apply(y) if float(y.sum()) > 0 else y

    with pytest.raises(dv.DeconvvizError):
        dv.capture(Applied(refused).eval(), SHAPE)
    assert [vars(kind)["forward"] for kind in kinds] == before


def test_a_function_that_inherits_its_forward() -> None:
    class Softer(Rounded):
        @staticmethod
        def backward(ctx: Any, *signals: Any) -> Any:
            return signals[0] * 0.125

    model, x = Applied(lambda model, y: Softer.apply(y)).double().eval(), picture()
    got = dv.project(dv.capture(model, SHAPE), x, "last", *UNIT, "gradient").full()
    assert torch.allclose(got, differentiated(model, x, *UNIT), atol=1e-10)


def test_a_function_of_weights_alone_is_computed_once_and_for_all() -> None:
    """Weights that are rounded by a function, as in training for few bits."""

    class Binary(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return torch.conv2d(x, Rounded.apply(self.weight), self.bias)

    torch.manual_seed(5)
    model = nn.Sequential(Binary(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)).double().eval()
    network, x = dv.capture(model, SHAPE), picture()
    assert torch.allclose(network(x), model(x), atol=1e-12)
    assert network.layers["0"].receptive_field.size == (3, 3)
    got = dv.project(network, x, "3", *UNIT, "gradient").full()
    assert torch.allclose(got, differentiated(model, x, *UNIT), atol=1e-10)
    assert torch.allclose(network.without_norms()(x), model(x), atol=1e-9)


def test_fast_networks_keep_the_function() -> None:
    model, x = Applied(chained).eval(), picture().float()
    network = dv.capture(model, SHAPE)
    with torch.no_grad():
        assert torch.allclose(network.fast()(x), model(x), atol=1e-4)

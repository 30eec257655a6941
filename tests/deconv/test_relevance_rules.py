"""Relevance from a unit against NumPy replicas: each op and rule on small networks, on windows and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from relevance_tape import Tape, Value
from torch import Tensor, nn
from torch.nn import functional as f

import deconvviz as dv

SIZE = (3, 11, 9)
LOW, HIGH = torch.tensor([-1.5, -2.0, -1.0]).double(), torch.tensor([2.0, 1.5, 2.5]).double()
RULES = {"lrp-epsilon": "epsilon", "lrp-gamma": "gamma", "lrp-zplus": "z+", "lrp-composite": "gamma"}
slow = pytest.mark.slow
Replica = Callable[[Tape, Value], Value]
Some = TypeVar("Some", bound=nn.Module)


def lively(module: Some) -> Some:
    """The same in float64 and eval mode, with biases and statistics that are felt."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.4, 0.4)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.4, 0.4)
    return module.double().eval()


def image(seed: int = 5) -> Tensor:
    """Pixels of both signs, all within the bounds."""
    low, high = (bound[:, None, None] for bound in (LOW, HIGH))
    drawn = torch.rand(1, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * drawn


def assert_equal(
    model: nn.Module, replica: Replica, rule: str, bounded: bool = False, upper: tuple[int, ...] = ()
) -> None:
    """Compare several units of the layer "last" with a replica of the network, on windows and whole."""
    network, x = dv.capture(model, SIZE), image()
    boxes = (LOW.numpy(), HIGH.numpy()) if bounded else None
    tape = Tape(RULES[rule], boxes, upper if rule == "lrp-composite" else ())
    target = replica(tape, tape.start(x[0].numpy()))
    value = network.activations(x, ["last"])["last"][0]
    assert np.allclose(target.array, value.numpy(), rtol=1e-10, atol=1e-12)  # the replica is the same network
    for place in places(target.array):
        expected, (channel, y, x_at) = tape.relevance(target, place), (*place, 0, 0)[:3]
        for windowed in (True, False):
            found = dv.project(
                network,
                x,
                "last",
                channel,
                (y, x_at),
                rule,
                seed="activation",
                windowed=windowed,
                bounds=(LOW, HIGH) if bounded else None,
            )
            assert found.value == pytest.approx(target.array[place], rel=1e-10)
            error = np.abs(found.full().numpy() - expected).max()
            assert error <= 1e-9 * np.abs(expected).max(), (rule, place, windowed, error)


def places(array: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """Two corners, an edge and the interior in several channels, and the largest and the smallest value of a layer."""
    ends = [tuple(int(i) for i in np.unravel_index(at, array.shape)) for at in (array.argmax(), array.argmin())]
    if array.ndim == 1:
        return ends
    channels, rows, columns = array.shape
    corners = [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3), (0, columns // 2)]
    return list(dict.fromkeys([*ends, *((n % channels, *at) for n, at in enumerate(corners))]))


class Two(nn.Module):
    """Two convolutions with a rectifier between: any stride, padding, dilation and groups."""

    def __init__(self, **first: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Conv2d(3, 6, **first), nn.Conv2d(6, 4, (2, 3), padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0), "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 3},
    {"kernel_size": 4, "stride": 3, "padding": 3},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(
    "geometry", [pytest.param(geometry, marks=() if n in (1, 3) else slow) for n, geometry in enumerate(GEOMETRIES)]
)
def test_convolutions(rule: str, bounded: bool, geometry: dict[str, Any]) -> None:
    """Pixels and pre-activations of both signs, biases, every argument of a convolution; z^B where there are bounds.

    The composite of two convolutions has the second in its upper half. "lrp-epsilon" has no rule for pixels.
    """
    model = lively(Two(**geometry))
    assert_equal(
        model,
        lambda t, v: t.conv(t.relu(t.conv(v, model.first)), model.last),
        rule,
        bounded and rule != "lrp-epsilon",
        (1,),
    )


def test_epsilon_has_no_rule_for_pixels() -> None:
    """Bounds change every rule but epsilon, as the table of rules says."""
    model, x = lively(Two(kernel_size=3)), image()
    network = dv.capture(model, SIZE)
    for rule in RULES:
        plain, bounded = (
            dv.project(network, x, "last", 0, (3, 3), rule, bounds=bounds).pixels for bounds in (None, (LOW, HIGH))
        )
        assert torch.equal(plain, bounded) == (rule == "lrp-epsilon"), rule


@pytest.mark.parametrize("rule", RULES)
def test_negative_values_of_middle_layers(rule: str) -> None:
    """Without a rectifier between, a convolution reads values of both signs: a < 0 goes with the other weights."""
    torch.manual_seed(8)
    first, second, last = (lively(nn.Conv2d(*shape)) for shape in ((3, 5, 3), (5, 5, 3), (5, 4, 2)))
    model = nn.Sequential(first, second)
    model.add_module("last", last)
    assert_equal(model, lambda t, v: t.conv(t.conv(t.conv(v, first), second), last), rule, False, (2,))


class Pools(nn.Module):
    """Overlapping max pooling with padding, and average pooling that counts its padding or does not."""

    def __init__(self, count_include_pad: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.max, self.avg = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.avg(self.max(self.first(x))))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_pools(rule: str, count_include_pad: bool) -> None:
    """The winner of each window takes its relevance, summed where windows overlap; a mean shares like a linear map."""
    model = lively(Pools(count_include_pad))

    def replica(t: Tape, v: Value) -> Value:
        return t.conv(t.avg_pool(t.max_pool(t.conv(v, model.first), 3, 2, 1), 3, 1, 1, count_include_pad), model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", (1,))


class Branches(nn.Module):
    """A residual sum, a concatenation, BatchNorm behind convolutions, and one BatchNorm that stands alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.inner, self.inner_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.side, self.alone = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem_norm(self.stem(x)).relu()
        b = (self.inner_norm(self.inner(a)) + a).relu()
        return self.last(self.alone(torch.cat([b, self.side(a)], 1)))


@pytest.mark.parametrize("rule", RULES)
def test_branches_and_norms(rule: str) -> None:
    """BatchNorm behind a convolution counts as part of it, with its shift as bias; alone it hands relevance through."""
    model = lively(Branches())

    def replica(t: Tape, v: Value) -> Value:
        a = t.relu(t.conv(v, model.stem, norm=model.stem_norm))
        b = t.relu(t.add(t.conv(a, model.inner, norm=model.inner_norm), a))
        return t.conv(t.norm(t.cat(b, t.conv(a, model.side)), model.alone), model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", (2, 3))


class Gates(nn.Module):
    """Squeeze-and-excitation, x sigmoid(x), a product without a gate, and a quotient, one after the other."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.hard = hard
        self.first, self.squeeze, self.excite = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.left, self.right, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu())
        x = x * (f.hardsigmoid(gate) if self.hard else gate.sigmoid())
        x = x.sigmoid() * x
        y = self.left(x) * self.right(x)
        return self.last(y / (1 + y.mean(1, keepdim=True).relu()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hard", [False, True])
def test_gates_products_and_quotients(rule: str, hard: bool) -> None:
    """A gate takes nothing, factors take half each, a denominator is held constant."""
    model = lively(Gates(hard))

    def replica(t: Tape, v: Value) -> Value:
        v = t.conv(v, model.first)
        mean = t.keep(v.array.mean((1, 2), keepdims=True))
        gate = t.conv(t.relu(t.conv(mean, model.squeeze)), model.excite)
        v = t.times(v, t.sigmoid(gate, hard))
        v = t.times(t.sigmoid(v), v)
        y = t.times(t.conv(v, model.left), t.conv(v, model.right))
        return t.conv(t.over(y, t.keep(1 + np.maximum(y.array.mean(0, keepdims=True), 0))), model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", (3, 4, 5))


class Choice(nn.Module):
    """Two branches, weighed by a softmax that is cut in two (SKNet), and a gate behind a view of half the channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.left, self.right, self.choose = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.choose(x.mean((2, 3), keepdim=True)).reshape(-1, 2, 4, 1, 1).softmax(1)
        y = weights[:, 0] * self.left(x) + self.right(x) * weights[:, 1]
        return self.last(y[:, :2] * y.sigmoid()[:, 2:])


@pytest.mark.parametrize("rule", RULES)
def test_a_gate_is_known_behind_views(rule: str) -> None:
    """A slice of a gate is a gate, and takes nothing."""
    model = lively(Choice())

    def replica(t: Tape, v: Value) -> Value:
        both = t.conv(t.keep(v.array.mean((1, 2), keepdims=True)), model.choose).array.reshape(2, 4, 1, 1)
        weights = np.exp(both) / np.exp(both).sum(0)
        parts = [
            t.times(t.keep(w, gate=True), t.conv(v, m)) for w, m in zip(weights, (model.left, model.right), strict=True)
        ]
        y = t.add(*parts)
        return t.conv(t.times(t.moved(y, lambda a: a[:2]), t.moved(t.sigmoid(y), lambda a: a[2:])), model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", (2, 3))


class Attention(nn.Module):
    """Tokens from a convolution, LayerNorm, one head of attention with a residual sum, and a mean of the tokens."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.fused = fused
        self.patches, self.norm = nn.Conv2d(3, 6, 3, stride=3), nn.LayerNorm(6)
        self.query, self.key, self.value = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.after, self.last = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        q, k, v = self.query(y), self.key(y), self.value(y)
        if self.fused:
            out = f.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            out = torch.softmax(q @ k.transpose(1, 2) / 6**0.5, -1) @ v
        return self.last(self.after(tokens + out).mean(1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fused", [False, True])
def test_attention_and_layer_norm(rule: str, fused: bool) -> None:
    """The weights of attention are a gate, written out or in one op; LayerNorm is linear, its deviation a constant."""
    model = lively(Attention(fused))

    def replica(t: Tape, v: Value) -> Value:
        tokens = t.moved(t.conv(v, model.patches), lambda a: a.reshape(6, -1).T)
        y = t.layer_norm(tokens, model.norm)
        q, k, v = t.linear(y, model.query), t.linear(y, model.key), t.linear(y, model.value)
        weights = t.softmax(t.keep(q.array @ k.array.T / 6**0.5))
        normed = t.layer_norm(t.add(tokens, t.matmul(weights, v)), model.after)
        count = len(tokens.array)
        mean = t.affine(normed, np.kron(np.full((1, count), 1 / count), np.eye(6)), 0.0, (6,), "epsilon")
        return t.linear(mean, model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", ())


class Bilinear(nn.Module):
    """A matrix product of two values of which neither is a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.left, self.right, self.last = nn.Conv2d(3, 4, 3, stride=3), nn.Conv2d(3, 5, 3, stride=3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.left(x).flatten(2) @ self.right(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("rule", RULES)
def test_a_matrix_product_of_two_values(rule: str) -> None:
    """Each product of two numbers takes its share of the sum, and gives half of it to either number."""
    model = lively(Bilinear())

    def replica(t: Tape, v: Value) -> Value:
        left = t.moved(t.conv(v, model.left), lambda a: a.reshape(4, -1))
        right = t.moved(t.conv(v, model.right), lambda a: a.reshape(5, -1).T)
        both = t.matmul(left, right)
        return t.linear(t.affine(both, np.kron(np.full((1, 4), 0.25), np.eye(5)), 0.0, (5,), "epsilon"), model.last)

    assert_equal(model, replica, rule, rule != "lrp-epsilon", (1,))


class Bordered(nn.Module):
    """A border of its own before a strided first convolution that has padding as well."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mode = mode
        self.first, self.last = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(f.pad(x, (0, 3, 2, 1), self.mode)).relu())  # left, right, top, bottom


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("rule", RULES)
def test_borders_are_no_pixels(mode: str, rule: str) -> None:
    """z^B gives zeros around the image no bounds, whoever puts them there; reflected pixels are pixels.

    The replica of zeros has one convolution of the image with the sum of both paddings; that of reflection has a
    border of pixels that the convolution reads with bounds, and its padding around them.
    """
    model = lively(Bordered(mode))
    bounded = rule != "lrp-epsilon"

    def zeros(t: Tape, v: Value) -> Value:
        return t.conv(t.relu(t.conv(v, model.first, (3, 2, 1, 4))), model.last)

    def reflected(t: Tape, v: Value) -> Value:
        border = t.moved(v, lambda a: np.pad(a, ((0, 0), (2, 1), (0, 3)), mode="reflect"))
        original, t.image = t.image, border  # what the first convolution reads counts as pixels
        first = t.conv(border, model.first)
        t.image = original
        return t.conv(t.relu(first), model.last)

    assert_equal(model, zeros if mode == "constant" else reflected, rule, bounded, (1,))


def test_a_start_of_one() -> None:
    """By default relevance starts at one, whatever the unit's activation is: the result scales with the start."""
    model = lively(Two(kernel_size=3))
    network, x = dv.capture(model, SIZE), image()
    for rule in RULES:
        one = dv.project(network, x, "last", 2, (4, 4), rule)
        activation = dv.project(network, x, "last", 2, (4, 4), rule, seed="activation")
        assert torch.allclose(one.pixels * one.value, activation.pixels, rtol=1e-12, atol=1e-15)


def test_gradient_times_input() -> None:
    """The gradient by autograd, times the pixels."""
    model = lively(Two(kernel_size=3, stride=2, padding=1))
    network, x = dv.capture(model, SIZE), image()
    for position in ((0, 0), (3, 4)):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf)[0, 1, position[0], position[1]], leaf)
        for windowed in (True, False):
            found = dv.project(network, x, "last", 1, position, "gradient-x-input", windowed=windowed).full()
            assert torch.allclose(found, (gradient * x)[0], rtol=1e-12, atol=1e-15)

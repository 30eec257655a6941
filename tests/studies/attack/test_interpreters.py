"""Maps as tensors with a graph: each against its definition, and its gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attacked import PLAIN, SIDE, images
from skimage.filters import sobel
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CamError, DeconvvizError, LayerNotFound
from deconvviz.studies.attack.edges import edge_weights
from deconvviz.studies.attack.fooling import maps_of, pass_of, towards
from deconvviz.studies.attack.interpreters import INTERPRETERS
from deconvviz.studies.attack.interpreters.base import Explained
from deconvviz.studies.attack.interpreters.gradient import softened, softened_step
from deconvviz.studies.attack.interpreters.mask import OptimisedMask, _Descent
from deconvviz.studies.attack.pixels import PixelNetwork, PixelScale
from deconvviz.studies.attack.registry import interpreter_declarations


def pooled(seed: int = 0) -> nn.Sequential:
    """A network that ends in a mean over the positions and a linear layer, with a limited rectifier in it."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double().eval()


def pixels(model: nn.Module) -> PixelNetwork:
    return PixelNetwork(dv.capture(model, (3, SIDE, SIDE)), PixelScale(PLAIN))


def scaled(maps: Any) -> Any:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


def test_cam_is_the_weighted_sum_of_the_maps() -> None:
    model, x = pooled(), images(3, dtype=torch.float64)
    network, classes = pixels(model), torch.tensor([0, 2, 3])
    inputs = network.scale.inputs(x)
    values = model[:4](inputs).detach().numpy()
    weights = model[6].weight.detach().numpy()[classes]
    expected = scaled(np.einsum("nk,nkhw->nhw", weights, values))
    ours = maps_of(network, INTERPRETERS["cam"](Explained(network=network, layer="3")), x, classes)
    assert np.allclose(ours.numpy(), expected, atol=1e-12)


def by_hand(model: Any, x: Tensor, classes: Tensor) -> Any:
    """The gradient of the cross-entropy, sent back step by step with the softened derivatives."""
    mean, std = (np.array(row)[:, None, None] for row in (PLAIN.mean, PLAIN.std))
    u = torch.from_numpy((x.numpy() - mean) / std)
    first = model[0](u)
    second = model[2](first.relu())
    scores = model[6](second.clamp(0, 6).mean((2, 3)))
    signal = scores.softmax(1) - nn.functional.one_hot(classes, 4)
    signal = (signal @ model[6].weight)[:, :, None, None] / second[0, 0].numel() * torch.ones_like(second)
    signal = signal * (step_of(second) - step_of(second - 6))
    signal = nn.functional.conv_transpose2d(signal, model[2].weight) * step_of(first)
    signal = nn.functional.conv_transpose2d(signal, model[0].weight).detach().numpy() / std
    return scaled(np.abs(signal).max(1).reshape(len(x), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4)))


def step_of(u: Tensor) -> Tensor:
    slope = u / torch.sqrt(u**2 + 1e-4)
    return slope + (u < 0)


def test_gradient_is_the_pooled_largest_colour_with_softened_rectifiers() -> None:
    model, x = pooled(), images(3, dtype=torch.float64)
    network, classes = pixels(model), torch.tensor([0, 2, 3])
    ours = maps_of(network, INTERPRETERS["gradient"](Explained(network=network)), x, classes)
    assert np.allclose(ours.numpy(), by_hand(model, x, classes), atol=1e-10)


def test_softened_derivative_is_that_of_its_integral_and_values_stay() -> None:
    u = torch.cat([torch.linspace(-0.1, -1e-4, 50), torch.linspace(1e-4, 0.1, 50)]).double()
    ends = [torch.where(t >= 0, 0.0, t) + (t**2 + 1e-4).sqrt() for t in (u + 1e-7, u - 1e-7)]  # of its integral
    slope = (ends[0] - ends[1]) / 2e-7
    assert torch.allclose(softened_step(u), slope, atol=1e-6)
    network, x = pixels(pooled()), images(3, dtype=torch.float64)
    soft = PixelNetwork(softened(network.network), network.scale)
    assert torch.equal(soft.scores(x), network.scores(x))
    assert network.network.graph is not soft.network.graph and torch.equal(network.scores(x), soft.scores(x))


def slopes_agree(value: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare the gradient of a number with finite differences, at the three pixels where it is largest."""
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf), leaf)
    assert float(slope.abs().max()) > 0
    for place in slope.abs().flatten().argsort(descending=True)[:3].tolist():
        step = torch.zeros_like(x).flatten()
        step[place] = 1e-6
        ends = [float(value((x + sign * step.view_as(x)).requires_grad_()).detach()) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(slope.flatten()[place]), rel=1e-3)


@pytest.mark.parametrize("name", ["cam", "gradient"])
def test_gradients_reach_the_pixels(name: str) -> None:
    """With one rectifier and two classes, where the softened derivative takes the place of no other one."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)]
    network, x = pixels(nn.Sequential(*layers).double().eval()), images(2, dtype=torch.float64)
    one, classes = INTERPRETERS[name](Explained(network=network, layer="1")), torch.tensor([1, 0])
    read = one.reader(x, classes)
    slopes_agree(lambda at: read(pass_of(network, at, one.layers), classes).square().sum(), x)


def test_the_last_steps_of_a_mask_are_in_the_graph() -> None:
    """What came before them, and Adam's scale of each value, are constants."""
    network, x = pixels(pooled()), images(2, dtype=torch.float64)
    classes = torch.tensor([1, 2])
    one = OptimisedMask(Explained(network=network))
    descent = _Descent(x, one._cost(x, classes))
    descent.go(x, 3)
    slopes_agree(lambda at: descent.unrolled(at, 2).square().sum(), x)
    before = descent.values.clone()
    map_ = one.reader(x, classes)(pass_of(network, x.clone().requires_grad_(), ()), classes)
    assert map_.requires_grad and torch.equal(before, descent.values)


def test_mask_is_what_lowers_its_cost() -> None:
    """After its steps the cost is below that of masks of 0, 1/2 and 1, by the equation."""
    model, x = pooled(), images(2, dtype=torch.float64)
    network, classes = pixels(model), pixels(model).scores(x).argmax(1)
    one = OptimisedMask(Explained(network=network))
    maps = maps_of(network, one, x, classes)
    assert maps.shape == (2, SIDE, SIDE) and float(maps.min()) >= 0 and float(maps.max()) <= 1
    cost = one._cost(x, classes)
    for other in (0.0, 0.5):
        assert bool((cost(1 - maps, x) < cost(torch.full_like(maps, other), x)).all())
    whole = torch.ones_like(maps)
    p = network.scores(x).softmax(1).gather(1, classes[:, None])[:, 0]
    assert torch.allclose(cost(whole, x), p, atol=1e-12)  # nothing is hidden


def test_edges_are_those_of_skimage() -> None:
    x = images(2, dtype=torch.float64)
    for n in range(2):
        assert np.allclose(edge_weights(x)[n, 0].numpy(), sobel(x[n].mean(0).numpy()), atol=1e-12)  # type: ignore[no-untyped-call, unused-ignore]
    checkers = torch.zeros(1, 3, 4, 4)
    checkers[..., 2:, 2:] = 1
    assert float(edge_weights(checkers).min()) >= 0 and float(edge_weights(checkers).max()) <= 1


def test_where_maps_go() -> None:
    maps = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(towards(maps, "away"), maps) and torch.equal(towards(maps, "mirror")[0, 0], maps[0, 0].flip(0))
    maps[1, :, 4:] = 0
    maps[1, 3:, 4:] = 0.01
    spot = towards(maps, "corner")[1]
    assert int(spot.argmax()) == 7 and float(spot.max()) == 1  # the quarter above on the right holds nothing


def test_what_interpreters_need() -> None:
    assert list(interpreter_declarations()) == list(INTERPRETERS) == ["cam", "gradient", "mask", "real-time-masking"]
    network = pixels(pooled())
    for name, given, kind, complaint in (
        ("cam", {}, CamError, "cam reads the maps of a layer, and none is given"),
        ("cam", {"layer": "6"}, CamError, "6 has the shape \\[4\\]: name another"),
        ("cam", {"layer": "x"}, LayerNotFound, "no layer 'x'"),
        ("real-time-masking", {}, CamError, "real-time-masking has to be trained first"),
    ):
        with pytest.raises(kind, match=complaint):
            INTERPRETERS[name](Explained(network=network, **given))
    with pytest.raises(DeconvvizError, match="no interpreter named 'cams'"):
        INTERPRETERS["cams"]

"""Sparse connections: the switches' gradients by formula, planted problems, and trainings with them."""

from __future__ import annotations

import pathlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from courses import Cut, course_of, cut_after, same_weights, small_net, step_of, trained
from torch import Tensor, nn
from torch.nn.utils import parametrize

import deconvviz as dv
from deconvviz.errors import TrainingError
from deconvviz.models.weights import load_weights, read_weights
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.training.additions.connections import Connections, per_filter, with_connections
from deconvviz.studies.training.additions.sparse_connections import SparseConnections
from deconvviz.studies.training.recorder import SnapshotRecorder


def test_the_gradients_are_the_formulas() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).double()
    weight = layer.weight.detach().clone()
    connections = with_connections(layer)
    with torch.no_grad():
        connections.mask.copy_(torch.randn_like(weight).clamp(-1, 1))
    on = (connections.mask > 0).double().detach()
    assert 0.3 < on.mean() < 0.7 and torch.equal(layer.weight, weight * on)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, weights, layer.bias).square().mean()

    layer(x).square().mean().backward()
    effective = (weight * on).requires_grad_()
    (g,) = torch.autograd.grad(loss(effective), effective)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    of_weight, of_mask = (gradients[f"parametrizations.weight.{name}"] for name in ("original", "0.mask"))
    assert of_weight is not None and of_mask is not None
    assert torch.allclose(of_weight, on * g, atol=1e-15) and torch.allclose(of_mask, weight * g)
    for place in ((0, 0, 0, 0), (2, 1, 2, 0), (3, 2, 1, 1)):  # g itself, by central differences
        moved = [loss(effective.detach().index_put(tuple(map(torch.tensor, place)), torch.tensor(e).double(),
                                                   accumulate=True)) for e in (1e-5, -1e-5)]  # fmt: skip
        assert float(g[place]) == pytest.approx(float((moved[0] - moved[1]).detach()) / 2e-5, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("proxy", ["identity", "relu"])
def test_a_step_of_the_switches(proxy: str) -> None:
    rng = np.random.default_rng(0)
    mask, scales = rng.uniform(-1, 1, (3, 2, 2, 2)), np.logspace(-9, 3, 24).reshape(3, 2, 2, 2)
    gradient = rng.normal(size=(3, 2, 2, 2)) * scales
    gradient[1] = 0
    connections = Connections(torch.zeros(3, 2, 2, 2, dtype=torch.float64))
    with torch.no_grad():
        connections.mask.copy_(torch.from_numpy(mask))
    connections.mask.grad = torch.from_numpy(gradient.copy())
    connections.learn(0.4, 0.3, proxy)
    expected = mask.copy()
    for f, place in ((f, place) for f in range(3) for place in np.ndindex(2, 2, 2)):
        size = np.sqrt((gradient[f] ** 2).mean())
        change = (gradient[f][place] / size if size else 0.0) + 0.3
        slope = 1.0 if proxy == "identity" else float(mask[f][place] > 0)
        expected[f][place] = min(max(mask[f][place] - 0.4 * slope * change, -1), 1)
    assert np.abs(connections.mask.detach().numpy() - expected).max() < 1e-12
    assert connections.mask.grad is None and (proxy == "relu" or -1.0 in expected)
    assert torch.equal(per_filter(torch.zeros(2, 3)), torch.zeros(2, 3))


# --- planted: a sparse linear regression


@cache
def regression(proxy: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """100 inputs, 10 of which make the answer: which these are, how often each was on at last, which came back.

    Returns bool [100], share of the last 200 of 600 steps [100], and bool [100], on in some step after one without it.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(100)
    used = torch.randperm(100, generator=generator)[:10]
    truth[used] = torch.sign(torch.randn(10, generator=generator)) * (0.5 + torch.rand(10, generator=generator))
    layer = nn.Linear(100, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn(1, 100, generator=generator))
    connections = with_connections(layer)
    optimiser = torch.optim.SGD([next(layer.parametrizations.parameters())], 0.02)
    switches = []
    for _ in range(600):
        x = torch.randn(32, 100, generator=generator)
        y = x @ truth + 0.1 * torch.randn(32, generator=generator)
        optimiser.zero_grad()
        (layer(x)[:, 0] - y).square().mean().backward()
        optimiser.step()
        connections.learn(0.03, 0.1, proxy)
        switches.append(connections.mask[0].detach() > 0)
    on = torch.stack(switches)
    return truth != 0, on[-200:].double().mean(0), (on[1:] & ~on[:-1]).any(0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_support_of_a_sparse_regression_is_found(seed: int) -> None:
    """The price takes away a switch in use for a step now and then; its gradient brings it back at once."""
    used, on, _ = regression("identity", seed)
    assert torch.equal(on > 0.5, used) and (on[~used] == 0).all()


def test_under_the_relu_what_was_dropped_wrongly_never_returns() -> None:
    """The principle that the paper proves: the stand-in for the step has to have a positive derivative everywhere."""
    used, on, returned = regression("relu")
    assert (on[used] < 1).any() and not returned.any()
    used, on, returned = regression("identity")
    assert returned[used].any() and (on[used] > 0.5).all()


# --- within a training


def kept(history: list[dict[str, float]]) -> float:
    return history[-1]["sparse_connections_connections/all_layers"]


def test_the_count_falls_with_the_price(tmp_path: pathlib.Path) -> None:
    counts = []
    for number, price in enumerate((0.0, 0.3, 1.0, 2.0, 5.0)):
        _, history = trained(
            tmp_path / f"{number}.pth", [SparseConnections(price=price, rate=0.02, falls=0)], recipe={"epochs": 6}
        )
        counts.append(kept(history))
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 5
    assert counts[0] == sum(p.numel() for p in small_net().parameters() if p.dim() > 1)


def test_without_a_price_it_is_plain_training(tmp_path: pathlib.Path) -> None:
    plain, _ = trained(tmp_path / "a.pth", [])
    free, history = trained(tmp_path / "b.pth", [SparseConnections(price=0)])
    assert same_weights(plain, free) and type(free[0]) is nn.Conv2d
    assert {record["sparse_connections_kept/0"] for record in history} == {1.0}


def test_what_is_counted_and_what_the_files_hold(tmp_path: pathlib.Path) -> None:
    recorder = SnapshotRecorder(tmp_path / "s.h5", (3,))
    addition = SparseConnections(price=3.0, rate=0.02, exempt="first")
    model, history = trained(tmp_path / "a.pth", [addition], recorder=recorder, recipe={"epochs": 3})
    last = history[-1]
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim() > 1}
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    counts = {name.split(".")[0]: int((tensor != 0).sum()) for name, tensor in weights.items()}
    assert counts["0"] == weights["0.weight"].numel()
    assert last["sparse_connections_connections/all_layers"] == counts["3"] + counts["6"] < 0.8 * (6 * 8 * 4 + 128 * 2)
    assert last["sparse_connections_multiply_adds/all_layers"] == counts["3"] * 16 + counts["6"]
    empty = sum(int((weights[f"{n}.weight"].flatten(1) == 0).all(1).sum()) for n in (3, 6))
    assert last["sparse_connections_filters_without_any/all_layers"] == empty
    assert last["sparse_connections_kept/3"] == counts["3"] / (6 * 8 * 4)
    assert "sparse_connections_kept/0" not in last

    from_file, snapshot = small_net(), Snapshots(tmp_path / "s.h5").weights(3)
    load_weights(from_file, read_weights(tmp_path / "a.pth"))
    assert same_weights(from_file, model)
    assert all(np.array_equal(snapshot[name], tensor.numpy()) for name, tensor in model.state_dict().items())
    network = dv.capture(from_file, (3, 12, 12))
    x = torch.randn(2, 3, 12, 12)
    assert torch.allclose(network(x), model(x), atol=1e-6)


def test_interrupted_and_continued(tmp_path: pathlib.Path) -> None:
    """Also the weights behind switches that are off are the same: the file has zeros there."""
    options: dict[str, Any] = {"price": 3.0, "rate": 0.02}
    recipe = {"epochs": 4, "momentum": 0.9, "weight_decay": 0.01, "patience": 0}
    straight, history = trained(tmp_path / "a.pth", [SparseConnections(**options)], recipe=recipe)
    with pytest.raises(Cut):
        trained(tmp_path / "b.pth", [cut_after(6, SparseConnections, **options)], recipe=recipe, commit_every=2)
    continued, again = trained(tmp_path / "b.pth", [SparseConnections(**options)], recipe=recipe)
    assert same_weights(straight, continued) and history == again
    one, two = (torch.load(tmp_path / name, weights_only=True)["additions"]["sparse-connections"]
                for name in ("a.pth", "b.pth"))  # fmt: skip
    for kind in ("masks", "weights"):
        assert all(torch.equal(one[kind][name], two[kind][name]) for name in one[kind])
    off = one["masks"]["6"] <= 0
    assert off.any() and (one["weights"]["6"][off] != 0).any()


def test_the_switches_are_frozen_when_the_rate_has_fallen() -> None:
    model = small_net()
    addition = SparseConnections(price=0.5, falls=2)
    addition.begin(course_of(model))
    before, moves = None, []
    for rate in (0.1, 0.1, 0.01, 0.01, 0.001, 0.001):
        step = step_of(torch.zeros(4, dtype=torch.int64), rate=rate)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(model(torch.randn(4, 3, 12, 12)).square().sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        addition.after_backward(step)
        now = addition.state()["masks"]["3"].clone()
        moves.append(before is None or not torch.equal(now, before))
        before = now
    assert moves == [True, True, True, True, False, False]
    addition.end()


@pytest.mark.parametrize(("exempt", "sparse"), [("none", 3), ("first", 2), ("last", 2), ("both", 1)])
def test_layers_that_are_exempt(exempt: str, sparse: int) -> None:
    model = small_net()
    addition = SparseConnections(exempt=exempt)
    addition.begin(course_of(model))
    names = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
    assert len(names) == sparse and ("0" in names) == (exempt in ("none", "last"))
    assert ("6" in names) == (exempt in ("none", "first"))
    weights = [p for name, p in model.named_parameters() if name.endswith("original")]
    addition.end()
    assert all(any(p is weight for p in model.parameters()) for weight in weights)  # the optimiser's are the network's


def test_options_and_networks_that_do_not_fit() -> None:
    for options, complaint in (
        ({"price": -1}, "price"), ({"rate": 0}, "rate"), ({"exempt": "all"}, "exempt"), ({"proxy": "step"}, "proxy"),
        ({"falls": 0.5}, "falls"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=complaint):
            SparseConnections(**options)
    alone = nn.Sequential(nn.Conv2d(3, 2, 12), nn.Flatten())
    with pytest.raises(TrainingError, match="no convolution or linear layer"):
        SparseConnections(exempt="last").begin(course_of(alone))

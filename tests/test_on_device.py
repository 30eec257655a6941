"""What runs on a GPU gives what float64 gives on a CPU: capture, rules, mining, explanations, training, metrics.

`pytest --device cuda` runs these tests on a GPU; without it they run on the CPU.
"""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tiny_explainers import TINY_SIZE, layers_of
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.explain import ConstantMapWarning
from deconvviz.cam.learned.base import LEARNED, Phase
from deconvviz.cam.registry import METHODS
from deconvviz.choices import PRECISIONS, RULES
from deconvviz.metrics.faithfulness import faithfulness

SIZE = (3, 24, 24)
SMALL: dict[str, dict[str, Any]] = {
    "rise": {"masks": 9},
    "sess": {"scales": 2, "step": 8},
    "smoothgrad": {"samples": 2},
    "ss-cam": {"samples": 2},
    "shap-cam": {"permutations": 1},
    "occlusion": {"square": 8, "stride": 8},
    "lime": {"segments": 4, "samples": 8},
    "kernel-shap": {"segments": 4, "samples": 16},
    "mask": {"steps": 2, "cells": 4},
    "sparse-attack": {"steps": 1, "mask_steps": 1},  # signs of sums that nearly cancel differ later
    "extremal-perturbation": {"steps": 1},  # later steps sort values that nearly tie
}
OF_ATTENTION = ("attention-rollout", "legrad")
EXPLAINED = [name for name, m in METHODS.items() if m.needs not in ("trained", "inner") and name not in OF_ATTENTION]


def model() -> nn.Module:
    """A network with BatchNorm and pooling, in float32, lively."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for parameter in network.parameters():
        parameter.data.mul_(1.7)
    return network.eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def here(device: torch.device) -> dv.Network:
    """The network, captured on the device."""
    return dv.capture(model().to(device), SIZE)


@pytest.fixture(scope="module")
def exact() -> dv.Network:
    """The same network in float64 on the CPU."""
    return dv.capture(model().double(), SIZE)


def off(first: Tensor, second: Tensor) -> float:
    """The largest difference, of the largest value."""
    return float((first.double().cpu() - second).abs().max() / second.abs().max().clamp(min=1e-30))


def test_a_captured_network_is_that_of_the_cpu(here: dv.Network, exact: dv.Network, device: torch.device) -> None:
    assert here.table() == exact.table() and here.device.type == device.type
    assert off(here(images(3).to(device)), exact(images(3).double())) < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(here: dv.Network, exact: dv.Network, device: torch.device, precision: str) -> None:
    bound = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 0.05, "fp64": 1e-6}[precision]  # the weights are float32
    assert off(here.fast(precision)(images().to(device)), exact(images().double())) < bound


@pytest.mark.parametrize("rule", RULES)
def test_projections(here: dv.Network, exact: dv.Network, device: torch.device, rule: str) -> None:
    units = [(n % 2, layer, n, (n, 2 * n)) for layer in ("2", "5") for n in range(4)]
    ours = dv.project_units(here, images().to(device), units, rule)
    for a, b in zip(ours, dv.project_units(exact, images().double(), units, rule), strict=True):
        assert a.window == b.window and abs(a.value - b.value) < 1e-4 * max(abs(b.value), 1e-3)
        assert off(a.pixels, b.pixels) < 1e-4


def test_projections_in_bf16_are_good_for_figures(here: dv.Network, device: torch.device) -> None:
    units = [(0, "5", n, (n, n)) for n in range(8)]
    fp32, bf16 = (dv.project_units(here, images().to(device), units, precision=p) for p in ("fp32", "bf16"))
    pairs = [torch.stack([a.pixels.flatten(), b.pixels.flatten()]) for a, b in zip(fp32, bf16, strict=True)]
    assert {b.pixels.dtype for b in bf16} == {torch.float32}
    assert min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) > 0.99


def test_mining(here: dv.Network, exact: dv.Network, device: torch.device) -> None:
    ours, theirs = (dv.mine(net, pictures(), ["2", "5"], **HOW) for net in (here, exact))
    for layer in ("2", "5"):
        assert np.allclose(ours[layer].values, theirs[layer].values, rtol=1e-4, atol=1e-6)
        assert (ours[layer].images == theirs[layer].images).mean() > 0.99  # all but ties of rounding


def pictures(count: int = 12) -> dv.InMemoryImages:
    return dv.InMemoryImages(list(np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), np.uint8)))


HOW: dict[str, Any] = {"preprocess": dv.Preprocess(resize=None, crop=24), "progress": False}


def test_relevance_of_channels(here: dv.Network, exact: dv.Network) -> None:
    ours, theirs = (dv.relevance(net, pictures(), ["2", "5"], **HOW) for net in (here, exact))
    for layer in ("2", "5"):
        a, b = ours[layer].by_relevance.values, theirs[layer].by_relevance.values
        assert np.allclose(np.nan_to_num(a, neginf=-1), np.nan_to_num(b, neginf=-1), rtol=1e-3, atol=1e-4)


def test_the_range_of_channels(here: dv.Network, exact: dv.Network) -> None:
    ours, theirs = (dv.mine(net, pictures(), ["5"], **HOW)["5"].spread for net in (here, exact))
    assert ours is not None and theirs is not None
    assert np.allclose(ours.maxima, theirs.maxima, rtol=1e-4, atol=1e-6)
    assert np.abs(ours.counts - theirs.counts).sum() <= 2  # rounding at the edge of a bin


def test_directions(here: dv.Network, exact: dv.Network) -> None:
    weights = np.random.default_rng(3).normal(size=(3, 8))
    ours, theirs = (dv.with_directions(net, "5", weights) for net in (here, exact))
    name = next(name for name in theirs.layers if name.startswith("5["))
    mined = [dv.mine(net, pictures(), [name], **HOW)[name] for net in (ours, theirs)]
    assert np.allclose(mined[0].values, mined[1].values, rtol=1e-4, atol=1e-5)


def test_names(here: dv.Network, exact: dv.Network) -> None:
    ours, theirs = (dv.dissect(net, pictures(), ["5"], **HOW) for net in (here, exact))
    assert ours.names("5") == theirs.names("5")


def test_pictures_that_channels_want(here: dv.Network, exact: dv.Network) -> None:
    options: dict[str, Any] = {"preprocess": HOW["preprocess"], "progress": False, "steps": 3, "size": 24}
    ours, theirs = (dv.visualise(net, "5", [0, 4], **options) for net in (here, exact))
    assert np.allclose(ours.curve[0], theirs.curve[0], rtol=1e-3, atol=1e-4)
    assert np.corrcoef(ours.pictures.ravel(), theirs.pictures.ravel())[0, 1] > 0.99  # Adam makes rounding larger


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_method_of_explanation(here: dv.Network, exact: dv.Network, device: torch.device, name: str) -> None:
    needs = METHODS[name].needs
    layer = ["2", "5"] if needs == "layers" else "5" if needs == "layer" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)
        ours = dv.cam(name, here, layer, **SMALL.get(name, {}))(images().to(device), [1, 2])
        theirs = dv.cam(name, exact, layer, **SMALL.get(name, {}))(images().double(), [1, 2])
    assert ours.device.type == device.type
    assert off(ours, theirs) < 1e-3


def test_training(device: torch.device, tmp_path: pathlib.Path) -> None:
    recipe = dv.Recipe(epochs=1, batch_size=8, validation=0.25, augment=False, lr=0.01)
    pictures = list(np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), np.uint8))
    labelled = dv.InMemoryImages(pictures, [n % 2 for n in range(16)], classes=["a", "b"])
    losses: list[float] = []
    for where in (device, torch.device("cpu")):
        network = model()
        network[-1] = nn.Linear(8, 2)
        nn.init.constant_(network[-1].weight, 0.1)
        nn.init.zeros_(network[-1].bias)
        how: dict[str, Any] = {"preprocess": dv.Preprocess(resize=None, crop=24), "progress": False}
        trained = dv.train(network.to(where), labelled, tmp_path / f"{len(losses)}.pth", recipe, **how)
        losses.append(trained.history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("name", list(LEARNED))
def test_learned_explainers(device: torch.device, tmp_path: pathlib.Path, name: str) -> None:
    from tiny_explainers import TINY_PREPROCESS, tiny_net

    network = dv.capture(tiny_net()[0], (3, *TINY_SIZE)).to(torch.float32).to(device)
    pictures = list(np.random.default_rng(0).integers(0, 256, (8, *TINY_SIZE, 3), np.uint8))
    how: dict[str, Any] = {"preprocess": TINY_PREPROCESS, "progress": False}
    phases = [Phase("one", epochs=1, batch_size=4)]
    trained = dv.train_explainer(
        name, network, dv.InMemoryImages(pictures), layers_of(name), tmp_path / "e.pth", phases=phases, **how
    )
    maps = dv.cam(name, network, explainer=trained.explainer)(torch.zeros(1, 3, *TINY_SIZE, device=device))
    assert maps.shape == (1, *TINY_SIZE) and bool(maps.isfinite().all())


def test_metrics(here: dv.Network, exact: dv.Network, device: torch.device) -> None:
    maps = torch.rand(2, *SIZE[1:], generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([1, 2])
    ours = faithfulness(here.probabilities, images().to(device), maps.to(device), classes.to(device))
    theirs = faithfulness(exact.probabilities, images().double(), maps.double(), classes)
    for name in vars(theirs):
        assert np.allclose(getattr(ours, name).cpu(), getattr(theirs, name), atol=1e-3), name

"""What a job has computed is released with it: no maps wait, in cycles of references, for Python to look for them.

Python looks for cycles by the number of objects, and a batch of maps is a few objects of hundreds of megabytes.
"""

from __future__ import annotations

import gc
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import drawn_scenes
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.learned.base import LEARNED, Phase
from deconvviz.cam.registry import METHODS
from deconvviz.choices import RULES
from deconvviz.studies.attack.attacks import ATTACKS
from deconvviz.studies.explainers.train import train_explainer

SIZE = 24
PRE = dv.Preprocess(resize=SIZE, crop=SIZE)


class Gated(nn.Module):
    """Maps that are multiplied by a gate, as in EfficientNet: an op without a transpose of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.wide(nn.functional.silu(self.narrow(x.mean((2, 3), keepdim=True)))))


@pytest.fixture(scope="module")
def network() -> dv.Network:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    body = [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish(), Gated(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return dv.capture(nn.Sequential(*stem, *body, *head).eval(), (3, SIZE, SIZE))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left_in_cycles(job: Callable[[], Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that only Python's collector of cycles would release after a job."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # maps that are the same everywhere
        job()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    shapes = [tuple(each.shape) for each in gc.garbage if isinstance(each, Tensor)]
    gc.garbage.clear()
    return shapes


def test_tensors_in_a_cycle_are_seen(without_collector: None) -> None:
    def job() -> None:
        cycle: list[Any] = [torch.zeros(3, 5)]
        cycle.append(cycle)

    assert left_in_cycles(job) == [(3, 5)]


@pytest.mark.parametrize("rule", RULES)
def test_projections(rule: str, network: dv.Network, images: Tensor, without_collector: None) -> None:
    units = [(0, "8", 3, (2, 2)), (0, "8", 1, (5, 4)), (1, "8", 5, (0, 7))]
    assert not left_in_cycles(lambda: dv.project_units(network, images, units, rule=rule))


def test_every_method_that_explains(network: dv.Network, images: Tensor, without_collector: None) -> None:
    def job() -> None:
        dv.cam("grad-cam", network, "8")  # which registers them all
        for name, method in METHODS.items():
            if method.needs == "trained" or name in ("attention-rollout", "legrad"):  # this network has no attention
                continue
            layers = {"layer": ["8"], "inner": ["8"], "layers": ["4", "8"]}.get(method.needs, [])
            dv.cam(name, network, layers)(images, 1)

    assert not left_in_cycles(job)


def test_studies(network: dv.Network, without_collector: None) -> None:
    store = drawn_scenes(4, 0)
    picture = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)

    def job() -> None:
        dv.mine(network, store, ["4", "8"], k=2, preprocess=PRE, batch_size=2, progress=False)
        dv.dissect(network, store, ["8"], preprocess=PRE, progress=False)
        dv.occlude(network, picture, "8", preprocess=PRE, square=8, stride=8, progress=False)
        dv.visualise(network, "8", preprocess=PRE, steps=3, progress=False)

    assert not left_in_cycles(job)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ATTACKS))
def test_attacks(name: str, network: dv.Network, without_collector: None) -> None:
    steps = {"steps": 3} & ATTACKS[name].options.keys()
    how: dict[str, Any] = {"preprocess": PRE, "away_from": "top", "epsilons": [8 / 255], "progress": False}
    options = dict.fromkeys(steps, 3)
    assert not left_in_cycles(lambda: dv.attack(network, drawn_scenes(4, 0), name, method_options=options, **how))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l-cam-fm", "l-cam-img", "real-time-masking", "bump"])
def test_trained_explainers(
    name: str, network: dv.Network, images: Tensor, tmp_path: pathlib.Path, without_collector: None
) -> None:
    layers = ["4", "8"] if LEARNED[name].many else ["8"]
    how: dict[str, Any] = {"phases": (Phase("all", epochs=1, batch_size=2),), "workers": 1, "progress": False}

    def job() -> None:
        out = tmp_path / "e.pth"
        trained = train_explainer(name, network, drawn_scenes(4, 0), layers, out, preprocess=PRE, **how)
        dv.cam(name, network, explainer=trained.explainer)(images)

    assert not left_in_cycles(job)

"""Explainers of the packaged network, trained in a few steps, and what their training wrote."""

from __future__ import annotations

import csv
import pathlib
from functools import cache
from typing import Any

import torch
from in_memory import drawn_scenes
from torch import nn

import deconvviz as dv
from deconvviz.cam.learned.base import LEARNED, Phase
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.explainers.result import TrainedExplainer
from deconvviz.studies.explainers.train import train_explainer

SEED = 11  # of the scenes that the explainers are trained on


@cache
def demo() -> tuple[nn.Module, dv.Network, Preprocess, InMemoryImages]:
    """The packaged network, the same captured, its preprocessing, and 64 scenes."""
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    return loaded.model.eval(), dv.capture(loaded.model, preprocess.shape), preprocess, drawn_scenes(64, SEED)


SHORT = Phase("attention", epochs=2, batch_size=16, lr=0.3, decay=0.5)
ADAM: dict[str, Any] = {"optimiser": "adam", "lr": 3e-3, "bias_lr": 1.0, "decay": 0.1, "every": 4000, "batch_size": 16}
SELECTOR = Phase("selector", epochs=1, fakes=0.5, parameters=("embedding",), **ADAM)
MASKS = Phase("masks", epochs=2, fakes=0.3, **ADAM)
BUMPS = Phase("predictor", epochs=1, parameters=("predictor",), **ADAM), Phase("selector", epochs=2, **ADAM)
OPTIONS: dict[str, dict[str, Any]] = {
    "real-time-masking": {"width": 8},
    "bump": {"width": 8, "predictor": True, "relaxed": True},
}


def learn(name: str, out: pathlib.Path, *phases: Phase, **given: Any) -> TrainedExplainer:
    """Train an explainer of the packaged network; given: what else `train_explainer` gets, or gets instead."""
    _, network, preprocess, scenes = demo()
    many = LEARNED[name].many
    given = {"options": OPTIONS.get(name, {}), "workers": 1, "progress": False, "seed": 2, **given}
    layers = given.pop("layers", ["relu2", "relu5"] if many else ["relu5"])
    phases = phases or (BUMPS if name == "bump" else (SELECTOR, MASKS) if many else (SHORT,))
    source = given.pop("images", scenes)
    return train_explainer(name, network, source, layers, out, preprocess=preprocess, phases=phases, **given)


def rows(out: pathlib.Path) -> list[dict[str, str]]:
    """The CSV but for the seconds."""
    with out.with_suffix(".csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        assert float(row.pop("seconds")) >= 0
    return found


def same_files(one: pathlib.Path, two: pathlib.Path) -> None:
    """Assert that two trainings wrote equal weights, equal records but for the seconds, and equal configurations."""
    a, b = (torch.load(path, weights_only=True) for path in (one, two))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert rows(one) == rows(two) and one.with_suffix(".json").read_text() == two.with_suffix(".json").read_text()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

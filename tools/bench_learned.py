"""The bench's job on learned explainers: one map against a plain forward pass of the model, and against Score-CAM.

The time does not depend on what was learned, so the explainers are untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision

import deconvviz as dv
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer

SPOTS = {"squeezenet1_0": "features.12", "resnet18": "layer4", "vgg16": "features.29"}


def learned(bench: Any, race: Callable[..., list[float]], device: torch.device) -> None:
    """One map at most 1.1 plain passes, and 100 times less than Score-CAM."""
    turns = 5 if bench.quick else 25
    for name, layer in SPOTS.items():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval().to(device)
        net = dv.capture(model, (3, 224, 224))
        frozen = FrozenNetwork(net, [layer], Preprocess(), "fp32")
        ours = dv.cam("l-cam-img", net, explainer=new_explainer("l-cam-img", frozen, {}, 0))
        for count in (1, 16):
            x = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
            wanted = 1 / 1.1 if name == "squeezenet1_0" else 0
            bench.add(
                f"L-CAM, {name} {layer}, {count} at once",
                "one plain forward pass",
                plain(race, turns, model, ours, x),
                wanted,
            )
        if name != "vgg16":
            x, score = x[:1], dv.cam("score-cam", net, layer)
            sides = race(1, lambda: ours(x), lambda: score(x))  # noqa: B023
            best = (min(sides[0], *race(turns, lambda: ours(x))), sides[1])  # noqa: B023
            bench.add(f"L-CAM, {name} {layer}", "its own Score-CAM", best, 100)


def plain(race: Callable[..., list[float]], turns: int, model: Any, ours: Any, x: torch.Tensor) -> list[float]:
    """Return both times; the first turn of each warms up."""

    def bare() -> None:
        with torch.no_grad():
            model(x)

    bare(), ours(x)
    return race(turns, lambda: ours(x), bare)

"""A tiny network, untrained explainers of it, and what a training would give them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import replicas_learned as rl
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.learned.base import LEARNED, Batch, LearnedExplainer
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer

EXPLAINERS = ("l-cam-fm", "l-cam-img", "real-time-masking", "bump")
TINY_SIZE = (10, 8)
TINY_PREPROCESS = Preprocess(
    resize=None, crop=TINY_SIZE, mean=(0.5, 0.25, 0.375), std=(0.25, 0.5, 0.125)
)  # exact in binary
Net = tuple[nn.Sequential, dv.Network]


def tiny() -> nn.Sequential:
    """Four classes; layer 4 has 5 maps of 3 x 2, layer 2 has 4 of 5 x 4."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(30, 4),
    )


@cache
def tiny_net(seed: int = 3) -> Net:
    """The tiny network with seeded, lively weights, and the same captured."""
    torch.manual_seed(seed)
    model = tiny().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model, dv.capture(model, (3, *TINY_SIZE))


def tiny_images(count: int, seed: int = 0) -> tuple[rl.Array, Tensor]:
    """Images in 0..1, [N,3,H,W], and normalised."""
    raw = np.random.default_rng(seed).random((count, 3, *TINY_SIZE))
    mean, std = (np.array(v)[:, None, None] for v in (TINY_PREPROCESS.mean, TINY_PREPROCESS.std))
    return raw, torch.from_numpy((raw - mean) / std)


def layers_of(name: str) -> list[str]:
    """The layers of the tiny network that an explainer reads."""
    return ["2", "4"] if LEARNED[name].many else ["4"]


def lively_explainer(name: str, network: dv.Network | None = None, seed: int = 1, **options: Any) -> LearnedExplainer:
    """An untrained explainer of the tiny network, with weights that make lively maps."""
    frozen = FrozenNetwork(network or tiny_net()[1], layers_of(name), TINY_PREPROCESS, "fp32")
    options = {"width": 4, **options} if LEARNED[name].many else options
    explainer = new_explainer(name, frozen, options, seed)
    with torch.no_grad():
        for p in explainer.parameters():
            p.mul_(2)
    return explainer


def batch_of(
    name: str, x: Tensor, classes: list[int] | None, network: dv.Network | None = None, real: list[bool] | None = None
) -> Batch:
    """What the training gives for these images; its noise starts anew with every batch."""
    frozen = FrozenNetwork(network or tiny_net()[1], layers_of(name), TINY_PREPROCESS, "fp32")
    given = None if classes is None else torch.tensor(classes)
    batch = frozen.batch(x, given, torch.Generator().manual_seed(4))
    return batch if real is None else replace(batch, real=torch.tensor(real))


def values_at(model: nn.Sequential, x: Tensor, layer: str) -> rl.Array:
    """What a layer of the tiny network gives, by the plain model."""
    with torch.no_grad():
        return np.asarray(model[: int(layer) + 1](x).numpy())


def state_of(explainer: nn.Module) -> dict[str, rl.Array]:
    """The weights of an explainer in float64."""
    return {name: value.detach().double().numpy() for name, value in explainer.state_dict().items()}


def class_maps(explainer: LearnedExplainer, a: rl.Array) -> rl.Array:
    """The maps of every class that the replica computes from an L-CAM explainer's weights."""
    state = state_of(explainer)
    return rl.class_maps(state["attention.weight"][:, :, 0, 0], state["attention.bias"], a)

"""Small networks to compare, and copies of them that are changed in ways that are known."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import deconvviz as dv
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network

PREPROCESS = Preprocess(resize=32, crop=32)
LAYERS = ("2", "5")  # the rectified values of both convolutions
PERMUTATIONS = {0: [3, 1, 5, 0, 2, 4], 3: [7, 2, 0, 1, 6, 5, 4, 3]}  # of the channels of both convolutions


def model(seed: int = 0) -> nn.Sequential:
    """Two convolutions with BatchNorm and ten classes, with random weights, in eval mode."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 5, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    chequers = (-1.0) ** (torch.arange(5)[:, None] + torch.arange(5))
    net.state_dict()["0.weight"][4] = 0.5 * chequers  # unlike the other filters
    return net.eval()


def permuted(net: nn.Sequential) -> nn.Sequential:
    """The same function with the channels of both convolutions in another order: i comes from PERMUTATIONS[...][i]."""
    other = copy.deepcopy(net)
    state = other.state_dict()
    for place, order in PERMUTATIONS.items():
        for name in (f"{place}.weight", f"{place}.bias", *(f"{place + 1}.{each}" for each in ("weight", "bias"))):
            state[name] = state[name][order]
        for name in ("running_mean", "running_var"):
            state[f"{place + 1}.{name}"] = state[f"{place + 1}.{name}"][order]
    state["3.weight"] = state["3.weight"][:, PERMUTATIONS[0]]
    columns = [4 * channel + place for channel in PERMUTATIONS[3] for place in range(4)]
    state["8.weight"] = state["8.weight"][:, columns]
    other.load_state_dict(state)
    return other


def silenced(net: nn.Sequential, channel: int) -> nn.Sequential:
    """A copy in which a filter of the first convolution never fires."""
    other = copy.deepcopy(net)
    other.state_dict()["1.bias"][channel] = -100
    return other


def captured(net: nn.Module) -> Network:
    return dv.capture(net, PREPROCESS.shape)


def compare(before: nn.Module, after: nn.Module, images: Any = None, **options: Any) -> dv.Comparison:
    """Compare two modules on generated pictures, whose classes are the outputs."""
    images = dv.Scenes(40, seed=3) if images is None else images
    keywords: Mapping[str, Any] = {
        "preprocess": PREPROCESS,
        "layers": LAYERS,
        "checks": ("dead",),
        "outputs": np.arange(10),
        "decisions": 3,
        "method": "gradient",
        "filters": 2,
        "k": 4,
        "progress": False,
        **options,
    }
    return dv.compare(captured(before), captured(after), images, **keywords)

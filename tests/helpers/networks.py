"""Networks of torchvision, as the tests want them: seeded, in float64, and lively."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

LIGHT = ("alexnet", "resnet18", "squeezenet1_0")  # networks that take a second or two where others take ten


def by_weight(names: Iterable[str], light: tuple[str, ...] = LIGHT) -> list[Any]:
    """The names as parameters of a test, slow but for the light ones."""
    return [name if name in light else pytest.param(name, marks=pytest.mark.slow) for name in names]


def build(name: str) -> nn.Module:
    """A torchvision network with seeded random weights and lively BatchNorm statistics, in eval mode, float64."""
    torch.manual_seed(0)
    quiet = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **quiet)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # the fresh statistics (0, 1) would hide a wrong BatchNorm
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.double().eval()

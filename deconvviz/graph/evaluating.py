"""Modes for a while: eval mode, and the end of inference mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into eval mode within a `with` block; afterwards each of its parts is in its own mode again.

    >>> model = nn.Dropout()
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave torch.inference_mode within a `with` block, where gradients are needed; no_grad stays as it is."""
    enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


def differentiable(x: Tensor) -> Tensor:
    """Return a tensor that gradients can be taken of: a copy of one that was made in torch.inference_mode."""
    return x.clone() if x.is_inference() else x


def without_inference_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of a model that was made within torch.inference_mode, whose weights know no gradient."""
    tensors = [*model.parameters(), *model.buffers()]
    if not any(tensor.is_inference() for tensor in tensors):
        return model
    with torch.inference_mode(False):
        return copy.deepcopy(model)

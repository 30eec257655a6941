"""Modes for a while: eval mode, the end of inference mode, and a model that is given back as it was."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into eval mode within a `with` block; afterwards each of its parts is in its own mode again.

    A part with a `train` of its own, which may do more than note the mode, is told by it.

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
            if type(module).train is not nn.Module.train and module.training != training:
                module.train(training)
            module.training = training


def changes_with_its_mode(model: nn.Module) -> bool:
    """Return whether a part that is in training mode has a `train` of its own, by which its weights may change."""
    return any(module.training and type(module).train is not nn.Module.train for module in model.modules())


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give a model back as it was after a `with` block: its buffers, attributes, and the state of chance.

    Its forward() may count images, move a mean or keep a value, and draw numbers.

    >>> model = nn.BatchNorm2d(3)
    >>> with unchanged(model):
    ...     out = model(torch.randn(2, 3, 4, 4))
    >>> model.running_mean.tolist(), int(model.num_batches_tracked)
    ([0.0, 0.0, 0.0], 0)
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    attributes = [(holder, dict(holder)) for module in model.modules() for holder in (module._buffers, vars(module))]
    contents = [
        (value, copy.copy(value))
        for _, held in attributes
        for value in held.values()
        if type(value) in (list, dict, set)
    ]
    devices = {buffer.device for buffer in (*model.buffers(), *model.parameters()) if buffer.is_cuda}
    with torch.random.fork_rng(devices=sorted(device.index or 0 for device in devices)):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer if torch.equal(buffer, before) else buffer.copy_(before)
            for holder, held in (*attributes, *contents):
                _fill(holder, held)


def _fill(holder: Any, before: Any) -> None:
    """Let a list, dict or set hold what it held before."""
    holder.clear()
    holder.extend(before) if isinstance(holder, list) else holder.update(before)


@contextlib.contextmanager
def gradients_not_asked_for() -> Iterator[None]:
    """Let forward() hook the gradient of a value, or ask to keep it, within a `with` block where there is none.

    Networks of tutorials on Grad-CAM do.
    """
    hook = Tensor.register_hook

    def register_hook(value: Tensor, function: Any) -> Any:
        if value.requires_grad:
            return hook(value, function)  # type: ignore[no-untyped-call]
        return RemovableHandle(OrderedDict())

    def retain_grad(value: Tensor) -> None:
        if value.requires_grad:
            torch._C.TensorBase.retain_grad(value)

    Tensor.register_hook, Tensor.retain_grad = register_hook, retain_grad  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.register_hook = hook  # type: ignore[method-assign]
        del Tensor.retain_grad


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

"""Which modules of a network a forward pass calls, in which order, and the shapes of what they return."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deconvviz.errors import CaptureError
from deconvviz.graph.evaluating import evaluating


class ModuleCall(NamedTuple):
    """One call of a module.

    Attributes:
        name: of the module; "" for the network itself. Of a module with several names it is the first.
        number: which call of this module it is, from 1.
        began: when it began: how many calls had begun or ended before that.
        ended: when it ended, likewise.
        shape: of the tensor that it returned for one image, [1, ...]; None for anything but a tensor.
    """

    name: str
    number: int
    began: int
    ended: int
    shape: tuple[int, ...] | None


def module_calls(model: nn.Module, shape: Sequence[int]) -> list[ModuleCall]:
    """Return the calls of a network's modules in a forward pass of one image, in the order in which they end.

    Args:
        model: the network; each part is in its own mode again afterwards.
        shape: of the image, (channels, height, width).

    Raises:
        CaptureError: the network does not take such an image.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    >>> [(call.name, call.began, call.shape) for call in module_calls(model, (3, 5, 5))]
    [('0', 1, (1, 4, 3, 3)), ('1', 3, (1, 36)), ('', 0, (1, 36))]
    """
    names = {module: name for name, module in model.named_modules()}
    open_calls: list[int] = []
    counts: Counter[nn.Module] = Counter()
    clock = itertools.count()
    calls: list[ModuleCall] = []

    def begin(module: nn.Module, _inputs: Any) -> None:
        open_calls.append(next(clock))
        counts[module] += 1

    def end(module: nn.Module, _inputs: Any, output: Any) -> None:
        began = open_calls.pop()
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        calls.append(ModuleCall(names[module], counts[module], began, next(clock), shape))

    hooks = [module.register_forward_pre_hook(begin) for module in names]
    hooks += [module.register_forward_hook(end) for module in names]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
    except (RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CaptureError(
            f"{type(model).__name__} does not accept an image of shape {tuple(shape)}: {lines[0]}; give the input "
            "shape that the model was built for"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls

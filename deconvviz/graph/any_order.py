"""Ops that PyTorch has for values in the usual order of memory alone, for values in any order, channels-last too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


class AnyOrder:
    """An op that asks for no order of memory. It has the name of PyTorch's op, so that fingerprints stay the same."""

    def __init__(self, op: Any, function: Callable[..., Tensor]) -> None:
        self.function, self._opname, self.__name__ = function, op._opname, op.__name__

    def __call__(self, *args: Any) -> Tensor:
        return self.function(*args)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous())


_FUNCTIONS: dict[Any, Callable[..., Tensor]] = {
    aten.view.default: torch.reshape,
    aten._unsafe_view.default: torch.reshape,
    aten.view_as.default: Tensor.reshape_as,
    aten.view_as_complex.default: _complex,
}


def in_any_order(target: Any) -> Any:
    """Return the form of an op that asks for no order of memory; any other op as it is.

    >>> x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    >>> in_any_order(aten.view.default)(x, [2, -1]).shape
    torch.Size([2, 48])
    """
    return AnyOrder(target, _FUNCTIONS[target]) if target in _FUNCTIONS else target

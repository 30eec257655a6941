"""torch.autograd.Function in a captured graph: an op of its own, so that its own backward is kept.

An exporter sees the ops that the forward of such a function calls, and forgets its backward. While a model is
exported, the tensors that enter and leave each function are therefore marked, and `capture` makes one op of what lies
between two marks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@torch.library.custom_op("deconvviz::enter", mutates_args=())
def enter(value: Tensor, call: int, place: int) -> Tensor:
    """Mark a tensor as argument number `place` of call number `call`."""
    return value.clone()


@enter.register_fake
def _entered(value: Tensor, call: int, place: int) -> Tensor:
    return torch.empty_like(value)


@torch.library.custom_op("deconvviz::leave", mutates_args=())
def leave(value: Tensor, call: int, place: int) -> Tensor:
    """Mark a tensor as output number `place` of call number `call`; -1 is the only output."""
    return value.clone()


@leave.register_fake
def _left(value: Tensor, call: int, place: int) -> Tensor:
    return torch.empty_like(value)


ENTER, LEAVE = torch.ops.deconvviz.enter.default, torch.ops.deconvviz.leave.default


class FunctionCall:
    """One call of a torch.autograd.Function in a graph: it takes the tensors among the arguments, in their order."""

    def __init__(self, function: type[Function], arguments: tuple[Any, ...], place: int = -1) -> None:
        self.function, self.place = function, place
        self.arguments = tuple(None if isinstance(value, Tensor) else value for value in arguments)
        self.tensors = tuple(place for place, value in enumerate(arguments) if isinstance(value, Tensor))
        self._opname = function.__name__
        self.__name__ = self._opname if place < 0 else f"{self._opname}_{place}"

    def output(self, place: int) -> FunctionCall:
        """Return the same call for its output number `place`."""
        other = FunctionCall(self.function, self.arguments, place)
        other.tensors = self.tensors
        return other

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Apply the function and return the output that this call stands for."""
        arguments = list(self.arguments)
        for place, tensor in zip(self.tensors, tensors, strict=True):
            arguments[place] = tensor
        result: Any = self.function.apply(*arguments)
        value: Tensor = result if self.place < 0 else result[self.place]
        return value


@contextlib.contextmanager
def marked_functions() -> Iterator[list[FunctionCall]]:
    """Mark what enters and leaves each torch.autograd.Function that is not torch's own, within a `with` block.

    Yields:
        A list that each call is added to: its index is the number that the marks have.
    """
    calls: list[FunctionCall] = []
    forwards = {kind: kind.forward for kind in _functions(Function)}
    own = {kind: vars(kind)["forward"] for kind in forwards if "forward" in vars(kind)}
    try:
        for kind, forward in forwards.items():
            kind.forward = staticmethod(_marking(kind, forward, calls))  # type: ignore[method-assign]
        yield calls
    finally:
        for kind in forwards:
            if kind in own:
                kind.forward = own[kind]  # type: ignore[method-assign]
            else:
                del kind.forward


def _functions(kind: type[Function]) -> Iterator[type[Function]]:
    """Yield every subclass that does not come with torch and has a forward, perhaps an inherited one."""
    for sub in kind.__subclasses__():
        own = sub.__module__.partition(".")[0] not in ("torch", "functorch")
        if own and sub.forward is not Function.forward:
            yield sub
        yield from _functions(sub)


def _marking(kind: type[Function], forward: Callable[..., Any], calls: list[FunctionCall]) -> Callable[..., Any]:
    """Return a forward that marks its tensors; one that takes tensors in lists stays as it is."""
    has_context = kind.setup_context is Function.setup_context  # else forward takes no ctx

    @functools.wraps(forward)
    def marking(*given: Any) -> Any:
        context, arguments = (given[:1], given[1:]) if has_context else ((), given)
        if any(isinstance(value, list | tuple | dict) for value in arguments):
            return forward(*given)
        number = len(calls)
        calls.append(FunctionCall(kind, arguments))
        entered = [enter(v, number, at) if isinstance(v, Tensor) else v for at, v in enumerate(arguments)]
        result = forward(*context, *entered)
        if isinstance(result, tuple):
            return tuple(leave(v, number, at) if isinstance(v, Tensor) else v for at, v in enumerate(result))
        return leave(result, number, -1)

    return marking

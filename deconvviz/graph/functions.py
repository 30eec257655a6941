"""torch.autograd.Function in a captured graph: an op of its own, so that its own backward is kept.

An exporter sees the ops that the forward of such a function calls, and forgets its backward. While a model is
exported, the tensors that enter and leave each function are therefore marked, and `capture` makes one op of what lies
between two marks.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils import _pytree as pytree


@torch.library.custom_op("deconvviz::mark", mutates_args=())
def mark(value: Tensor, call: int, place: int, leaves: bool) -> Tensor:
    """Mark a tensor as argument number `place` of call number `call`, or as that output; -1 is the only output."""
    return value.clone()


@mark.register_fake
def _marked(value: Tensor, call: int, place: int, leaves: bool) -> Tensor:
    return torch.empty_like(value)


MARK = torch.ops.deconvviz.mark.default


def own_name(name: str) -> str:
    """Return the name of an op that is not PyTorch's: it may be called as one of PyTorch's is.

    >>> own_name("relu"), own_name("surrogate")
    ('relu of its own', 'surrogate')
    """
    return f"{name} of its own" if hasattr(torch.ops.aten, name) else name


class FunctionCall:
    """One call of a torch.autograd.Function in a graph: it takes the tensors among the arguments, in their order.

    Attributes:
        function: the class.
        place: number of the output that the call stands for; -1 is the only output.
        in_place: whether it changes an argument in place.
        lost: whether the graph holds the ops of its forward in its place, and its backward is lost.
    """

    def __init__(self, function: type[Function], arguments: tuple[Any, ...]) -> None:
        self.function, self.place, self.in_place, self.lost = function, -1, False, False
        self.arguments = tuple(None if isinstance(value, Tensor) else value for value in arguments)
        self.tensors = tuple(place for place, value in enumerate(arguments) if isinstance(value, Tensor))
        self._opname = own_name(function.__name__)

    @property
    def __name__(self) -> str:
        return self._opname if self.place < 0 else f"{self._opname}_{self.place}"

    def output(self, place: int) -> FunctionCall:
        """Return the same call for its output number `place`."""
        other = copy.copy(self)
        other.place = place
        return other

    def changes(self, *tensors: Tensor) -> None:
        """Note that the function changes an argument in place, as it says itself by `ctx.mark_dirty`."""
        self.in_place = True

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Apply the function and return the output that this call stands for."""
        arguments = list(self.arguments)
        for place, tensor in zip(self.tensors, tensors, strict=True):
            arguments[place] = tensor.clone() if self.in_place else tensor
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
    """Return a forward that marks its tensors; one that takes tensors in lists, or the batch size, stays as it is.

    A function that changes its argument in place changes a copy, which it returns.
    """
    has_context = kind.setup_context is Function.setup_context  # else forward takes no ctx

    @functools.wraps(forward)
    def marking(*given: Any) -> Any:
        context, arguments = (given[:1], given[1:]) if has_context else ((), given)
        if any(isinstance(leaf, torch.SymInt) or _within(leaf, arguments) for leaf in pytree.tree_leaves(arguments)):
            return forward(*given)
        number = len(calls)
        calls.append(FunctionCall(kind, arguments))
        if context:
            context[0].mark_dirty = calls[number].changes
        result = forward(*context, *_all_marked(arguments, number, leaves=False))
        if isinstance(result, tuple):
            return tuple(_all_marked(result, number, leaves=True))
        return mark(result, number, -1, True)

    return marking


def _within(leaf: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a value is a tensor in a list, tuple or dict among the arguments."""
    return isinstance(leaf, Tensor) and not any(leaf is argument for argument in arguments)


def _all_marked(values: Sequence[Any], call: int, leaves: bool) -> list[Any]:
    return [mark(v, call, at, leaves) if isinstance(v, Tensor) else v for at, v in enumerate(values)]

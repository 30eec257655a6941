"""A model without the hooks that only look on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from deconvviz.graph.calling import Call, called, same


@contextlib.contextmanager
def without_idle_hooks(model: nn.Module, example: Tensor, output: Any, call: Call | None) -> Iterator[None]:
    """Take hooks off that do not change the output: they keep values, or print, which no exporter can follow.

    Hooks that change it stay, because they are part of what the model computes. Where there are such, each is tried.
    """
    kept = [(holder, dict(holder)) for holder in _holders(model, example, call)]
    try:
        for holder, _ in kept:
            holder.clear()
        if kept and not _gives(model, example, output, call):
            _put_back(kept)
            for holder, hooks in kept:
                for key in hooks:
                    before = dict(holder)
                    del holder[key]
                    if not _gives(model, example, output, call):
                        _put_back([(holder, before)])
        yield
    finally:
        _put_back(kept)


def _holders(model: nn.Module, example: Tensor, call: Call | None) -> list[dict[int, Any]]:
    """Return what holds hooks; those before a part only where the part has the same attributes after they have run.

    Others make weights, as those of torch.nn.utils.prune do.
    """
    held = [(part, dict(vars(part))) for part in model.modules() if part._forward_pre_hooks]
    if held:
        with contextlib.suppress(Exception):
            called(model, example, call)
    idle = [p for p, before in held if all(vars(p).get(name, p) is value for name, value in before.items())]
    holders = [part._forward_hooks for part in model.modules()] + [part._forward_pre_hooks for part in idle]
    return [holder for holder in holders if holder]


def _gives(model: nn.Module, example: Tensor, output: Any, call: Call | None) -> bool:
    """Whether a model gives an output for images; not where it fails."""
    try:
        return same(called(model, example, call), output)
    except Exception:
        return False


def _put_back(kept: Sequence[tuple[dict[int, Any], dict[int, Any]]]) -> None:
    """Give hooks back to their holders, in their order."""
    for holder, hooks in kept:
        holder.clear()
        holder.update(hooks)

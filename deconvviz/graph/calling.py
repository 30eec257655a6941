"""How a model takes images, as one tensor or with what a function adds, and whether two outputs are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Call = Callable[[Tensor], Any]
"""Images [N, C, H, W] -> what the model is given: one object, a tuple of arguments, or a dict of keyword arguments."""


def called(model: nn.Module, x: Tensor, call: Call | None = None) -> Any:
    """Return what a model returns for images.

    Args:
        model: a module.
        x: images [N, C, H, W].
        call: from images to what the model is given: a tuple is given as several arguments, a dict as keyword
            arguments, and anything else as the one argument; None gives the images. For a model that is captured, it
            takes the number of images from `x.shape[0]`: `len(x)` would write down how many they were.

    >>> import torch
    >>> class Scaled(nn.Module):
    ...     def forward(self, x, factor):
    ...         return x * factor
    >>> called(Scaled(), torch.ones(1, 2), lambda x: (x, 3.0)).tolist(), called(nn.ReLU(), torch.ones(1, 2)).tolist()
    ([[3.0, 3.0]], [[1.0, 1.0]])
    """
    given = x if call is None else call(x)
    if isinstance(given, tuple):
        return model(*given)
    return model(**given) if isinstance(given, Mapping) else model(given)


def parts_in_words(model: nn.Module, images: Tensor) -> str:
    """Return which children of a model take images by themselves, for the message of one that cannot be captured.

    Args:
        model: in eval mode.
        images: examples, [N, C, H, W].

    >>> import torch
    >>> parts_in_words(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), torch.zeros(1, 3, 8, 8))
    "; its part '0' takes images by itself: capture that, --part 0 or dv.capture(model.get_submodule('0'), ...)"
    """
    names = [name for name, child in model.named_children() if _takes(child, images)]
    if not names:
        return ""
    several = f"parts {', '.join(map(repr, names))} take" if len(names) > 1 else f"part {names[0]!r} takes"
    name = names[0]
    return (
        f"; its {several} images by {'themselves' if len(names) > 1 else 'itself'}: capture that, --part {name} or "
        f"dv.capture(model.get_submodule({name!r}), ...)"
    )


def _takes(child: nn.Module, images: Tensor) -> bool:
    """Whether a module has weights and makes tensors of images."""
    if next(child.parameters(), None) is None:
        return False
    try:
        leaves = pytree.tree_leaves(child(images))
    except Exception:  # a part of a user's model may raise anything for what it does not expect
        return False
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return bool(tensors) and all(tensor.dim() > 1 and len(tensor) == len(images) for tensor in tensors)


def same(first: Any, second: Any, tolerance: float = 1e-3) -> bool:
    """Return whether two outputs have the same shapes, and values that are equal but for rounding.

    Tensors on the device "meta" have no values; their shapes alone count.
    """
    leaves = [[leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)] for output in (first, second)]
    if [leaf.shape for leaf in leaves[0]] != [leaf.shape for leaf in leaves[1]]:
        return False
    for a, b in zip(*leaves, strict=True):
        if b.is_meta:
            continue
        finite = b[b.isfinite()] if b.is_floating_point() else b[:0]
        span = float(finite.abs().max()) if finite.numel() else 0.0
        if not torch.allclose(a.to(b.dtype), b, rtol=tolerance, atol=tolerance * span, equal_nan=True):
            return False
    return True

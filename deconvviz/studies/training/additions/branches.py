"""Two copies of a layer's maps, one for the task and one for a further loss, whose gradient is kept within bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.arrays import widened


class _Branches(torch.autograd.Function):
    """Two copies of x; backwards, the second one's gradient is shortened to a multiple of the first one's."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, at_most: float) -> tuple[Tensor, Tensor]:
        ctx.at_most = at_most  # type: ignore[attr-defined]
        return x.clone(), x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        task, further = gradients
        allowed, given = (_lengths(each) for each in gradients)
        longest = ctx.at_most * allowed  # type: ignore[attr-defined]
        factors = (longest / given.clamp(min=torch.finfo(given.dtype).tiny)).clamp(max=1).detach()
        return task + factors.to(further.dtype) * further, None


def branches(x: Tensor, at_most: float) -> tuple[Tensor, Tensor]:
    """Return maps twice: for the layers that follow, and for a further loss on them.

    Backwards, with g the gradient at the first copy and f that at the second, the maps get, filter by filter,

        g + f min(1, at_most |g| / |f|),

    lengths over the images of the batch and all positions. Where f is not too long it is the sum g + f, which is what
    two uses of one tensor give; where f is zero it is g, bit for bit.

    Args:
        x: floating [N, K, h, w].
        at_most: the length of the second gradient in lengths of the first, at most; finite.

    Source: our choice.

    >>> x = torch.ones(1, 2, 1, 1, requires_grad=True)
    >>> onwards, looked_at = branches(x, 1.0)
    >>> (2 * onwards + torch.tensor([1.0, -8.0]).view(1, 2, 1, 1) * looked_at).sum().backward()
    >>> x.grad.flatten().tolist()
    [3.0, 0.0]
    """
    onwards, looked_at = _Branches.apply(x, at_most)
    return onwards, looked_at


def _lengths(gradient: Tensor) -> Tensor:
    """Return the length of each filter's gradient [N, K, h, w] in at least float32, [1, K, 1, 1]."""
    return gradient.to(widened(gradient.dtype)).square().sum((0, 2, 3), keepdim=True).sqrt()

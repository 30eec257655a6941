"""Max pooling that records its switches, and the unpooling that puts a signal back where the maxima were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconvviz.choices import OVERLAPS
from deconvviz.errors import ProjectionError, require_choice
from deconvviz.graph.ops import Call, op_of


def pool(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """Max-pool x and record the switches: where each maximum was.

    Args:
        x: [N, C, H, W].
        kernel, stride, padding, dilation, ceil_mode: as for `torch.nn.functional.max_pool2d`.

    Returns:
        The maxima [N, C, h, w] and the switches, int64 [N, C, h, w]: the flat position `row * W + column` of each
        maximum in its map. Of several equal values the first in reading order is the maximum.

    Source: Zeiler and Fergus 2013, section 2.1, "Unpooling".

    >>> maxima, switches = pool(torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]]), 2, 2, 0, 1, False)
    >>> maxima.item(), switches.item()
    (5.0, 1)
    """
    maxima, switches = torch.nn.functional.max_pool2d(
        x, kernel, stride or None, padding, dilation, ceil_mode=ceil_mode, return_indices=True
    )
    return maxima, switches


def execute(call: Call) -> Tensor:
    """Run a call; max pooling records its switches."""
    if op_of(call.node).kind == "max_pool":
        out, call.extra["switches"] = pool(*call.args)
        return out
    result: Tensor = call.run()
    return result


def unpool(signal: Tensor, switches: Tensor, height: int, width: int, overlap: str = "sum") -> Tensor:
    """Put each value of a signal [N, C, h, w] back at its switch, in a map [N, C, height, width] of zeros.

    Args:
        signal: what arrives at the pooled map from above.
        switches: int64, of the signal's shape, from `pool`.
        height, width: size of the map that was pooled.
        overlap: where windows overlap, one position may be the maximum of several. "sum" adds their signals
            (the transpose of pooling; nothing is lost); "last" keeps that of the last window in reading order,
            as unpooling by assignment does.

    Raises:
        ProjectionError: another overlap policy.

    >>> unpool(torch.tensor([[[[7.0]]]]), torch.tensor([[[[1]]]]), 2, 2).squeeze().tolist()
    [[0.0, 7.0], [0.0, 0.0]]
    """
    require_choice("overlap", overlap, OVERLAPS, ProjectionError)
    values, places = signal.flatten(2), switches.flatten(2)
    if overlap == "last":
        order = torch.arange(places.shape[-1], device=places.device).expand_as(places)
        winner = torch.full((*places.shape[:2], height * width), -1, dtype=order.dtype, device=order.device)
        winner = winner.scatter_reduce(2, places, order, "amax")
        values = values * (winner.gather(2, places) == order)
    # In the order in which the signal lies in memory: what comes next would have to bring it there.
    layout = torch.channels_last if signal.dim() == 4 and signal.stride(1) == 1 else torch.contiguous_format
    maps = torch.empty(
        (*values.shape[:2], height, width), dtype=values.dtype, device=values.device, memory_format=layout
    )
    maps.zero_().flatten(2).scatter_add_(2, places, values)
    return maps

"""What ops keep for themselves of a signal that goes back through them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from deconvviz.graph.reach import data_inputs


def kept_by(node: fx.Node, signal: Tensor, parts: Sequence[Tensor | None], totals: dict[fx.Node, Tensor]) -> Tensor:
    """Return what an op kept of each image's signal, float64 [N]: the sum at its output minus the sums at its inputs.

    Args:
        node: the op.
        signal: at its output.
        parts: at each of its data inputs; None where nothing arrives.
        totals: node -> the sum of its signal. That of the op is taken out, and what its inputs got is added to theirs.
    """
    kept = total = totals.pop(node)
    for source, part in zip(data_inputs(node), parts, strict=True):
        if part is not None:
            of_part = total if part is signal else total_of(part)
            kept, totals[source] = kept - of_part, totals[source] + of_part if source in totals else of_part
    return kept


def total_of(signal: Tensor) -> Tensor:
    """Return the sum of each image's signal, float64 [N].

    Values that lie side by side in memory are added up in the signal's own precision first: a copy of all in float64,
    or in another order, takes longer than the ops of the network.

    >>> total_of(torch.ones(2, 3, 4, 4)).tolist()
    [48.0, 48.0]
    """
    if signal.dtype in (torch.float16, torch.bfloat16):
        signal = signal.float()
    if signal.dim() == 4 and signal.stride(1) == 1:
        signal = signal.sum(1)
    elif signal.dim() > 2:
        signal = signal.sum(-1)
    return signal.flatten(1).sum(1, dtype=torch.float64)

"""Whether embeddings collapse: how many directions they use, and how far they are spread."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def effective_rank(z: Tensor) -> float:
    """Return how many directions embeddings use: exp of the entropy of the singular values' shares.

    Args:
        z: floating [N, D], embeddings of N images; their mean is taken off.

    Returns:
        From 1, where they lie on a line, to min(N - 1, D), where all directions are used alike; 0 where all are equal.

    Source: Roy and Vetterli 2007, from memory; taking off the mean is our choice.

    >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 4)
    2.0
    """
    centred = z.double() - z.double().mean(0)
    values = torch.linalg.svdvals(centred)
    if float(values.sum()) <= 1e-9 * max(1.0, float(z.double().norm())):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spread(z: Tensor) -> float:
    """Return the standard deviation of embeddings that were scaled to length 1, over images and summed over numbers.

    Args:
        z: floating [N, D].

    Returns:
        From 0, where all point the same way, to 1, where their mean direction is zero. Its square is 1 - the mean of
        the cosines of all pairs, each with itself included.

    Source: the watch of SimSiam (Chen and He 2021), from memory, times the root of D.

    >>> spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])), spread(torch.ones(2, 3))
    (1.0, 0.0)
    """
    unit = functional.normalize(z.double(), dim=1)
    return float((unit - unit.mean(0)).square().sum(1).mean().sqrt())

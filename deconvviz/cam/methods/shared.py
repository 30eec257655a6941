"""Sums over maps and masks of channels, which several methods are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.engine import Make, View
from deconvviz.cam.shaping import min_max


def weighted(weights: Tensor, maps: Tensor) -> Tensor:
    """Return sum_k w_k A_k [N, h, w] of weights [N, K] and maps [N, K, h, w]."""
    return torch.einsum("nk,nkhw->nhw", weights, maps)


def mean(maps: Tensor) -> Tensor:
    """Return the mean of each map over its positions, [N, K, h, w] -> [N, K]."""
    return maps.mean((2, 3))


def channel_masks(v: View, maps: Tensor | None = None) -> tuple[Make, Tensor]:
    """Return the masks mm(up(A_k)), made when asked for, and bool [N, K]: which channels vary and make one."""
    maps = v.A if maps is None else maps
    varied = maps.amax((2, 3)) > maps.amin((2, 3))
    return lambda images, channels: min_max(v.up(maps[images, channels])), varied


def significant(values: Tensor, scale: Tensor) -> Tensor:
    """Set differences of scores to zero where they are no larger than the rounding of the scores, `scale`."""
    return torch.where(values.abs() <= 16 * torch.finfo(values.dtype).eps * scale.abs(), 0.0, values)

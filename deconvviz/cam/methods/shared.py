"""Sums over maps and masks of channels, which several methods are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconvviz.cam.backend import Make
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.shaping import min_max
from deconvviz.errors import CamError, DataError
from deconvviz.graph.network import Network


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


def network_of(v: View) -> Network:
    """Return the captured network of a view; raises CamError where the model is not captured."""
    if not isinstance(v.backend, Captured):
        raise CamError(f"{v.backend.name} is not captured, and the method needs its graph; take another one")
    return v.backend.network


def significant(values: Tensor, scale: Tensor) -> Tensor:
    """Set differences of scores to zero where they are no larger than the rounding of the scores, `scale`."""
    return torch.where(values.abs() <= 16 * torch.finfo(values.dtype).eps * scale.abs(), 0.0, values)


def require_number(name: str, value: object, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise DataError unless an option of a method is a number from low to high.

    >>> require_number("share", 2, 0, 1)
    Traceback (most recent call last):
    deconvviz.errors.DataError: share 2 given; expected a number from 0 to 1
    """
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise DataError(f"{name} {value!r} given; expected a {'whole ' if whole else ''}number {limits}")

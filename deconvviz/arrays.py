"""Small rules about numbers and arrays that every room follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deconvviz.types import Ints

if TYPE_CHECKING:
    import torch


def evenly(count: int, most: int) -> Ints:
    """Return at most `most` of the numbers 0 .. count - 1, evenly spread, the first and the last among them.

    >>> evenly(10, 4)
    array([0, 3, 6, 9])
    """
    return np.asarray(np.linspace(0, max(count - 1, 0), min(most, count)).round(), np.int64)


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute sums and quotients in: float32 for half precision, the dtype itself otherwise.

    >>> import torch
    >>> widened(torch.bfloat16), widened(torch.float64)
    (torch.float32, torch.float64)
    """
    import torch

    return torch.promote_types(dtype, torch.float32)

"""Small rules about numbers and arrays that every room follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Ints

if TYPE_CHECKING:
    import torch

GREY = 0.5  # of the range 0..1 of a picture: what stands for zero where a signed array is shown
FULL_CONTRAST = 99.8  # percentile of the absolute values that is shown as black or white


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


def stretched(signed: NDArray[np.floating[Any]], percentile: float = FULL_CONTRAST) -> NDArray[np.floating[Any]]:
    """Return a signed array, such as a projection, as a picture with values in 0..1: zero becomes grey.

    The contrast is stretched as in the paper's figures, for each array by itself: values of the size of the
    `percentile` become black or white, and larger ones are clipped.

    Args:
        signed: floating [h, w, C], or any other shape.
        percentile: in 0..100, of the absolute values.

    Returns:
        Floating, of the same shape, in 0..1.

    >>> stretched(np.array([-2.0, 0.0, 1.0]), percentile=100)
    array([0.  , 0.5 , 0.75])
    """
    size = np.abs(signed)
    peak = np.percentile(size, percentile) if size.size else 0.0
    peak = peak or (size.max() if size.size else 0.0) or 1.0
    return np.clip(GREY + GREY * signed / peak, 0, 1)

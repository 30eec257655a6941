"""Small rules about numbers, arrays and modules of torch that every room follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Ints, Pixels

if TYPE_CHECKING:
    import torch

GREY = 0.5  # of the range 0..1 of a picture: what stands for zero where a signed array is shown
FULL_CONTRAST = 99.0  # percentile of the sizes of pixels that is shown with full contrast


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


def reset_of(module: Any) -> Callable[[], None] | None:
    """Return the method by which a module of torch draws new parameters; None where it has none.

    >>> from torch import nn
    >>> reset_of(nn.Linear(2, 2)).__name__, reset_of(nn.MultiheadAttention(4, 2)).__name__, reset_of(nn.ReLU())
    ('reset_parameters', '_reset_parameters', None)
    """
    for name in ("reset_parameters", "_reset_parameters"):
        reset: Callable[[], None] | None = getattr(module, name, None)
        if callable(reset):
            return reset
    return None


def stretched(signed: NDArray[np.floating[Any]], percentile: float = FULL_CONTRAST) -> NDArray[np.floating[Any]]:
    """Return a signed picture, such as a projection, with values in 0..1: zero becomes grey.

    The contrast is stretched as in the paper's figures, for each picture by itself. The size of a pixel is the largest
    absolute value of its colours. Sizes of the `percentile` and above, over the pixels that are not zero, get full
    contrast; a pixel is scaled as a whole, so that it keeps its colour.

    Args:
        signed: floating [h, w, C].
        percentile: in 0..100, of the sizes.

    Returns:
        Floating, of the same shape, in 0..1.

    >>> stretched(np.array([[[-2.0], [0.0], [1.0]]]), percentile=100)[0, :, 0]
    array([0.  , 0.5 , 0.75])
    >>> stretched(np.array([[[4.0, 2.0], [1.0, 0.5]]]), percentile=0)  # both have full contrast, in one colour
    array([[[1.  , 0.75],
            [1.  , 0.75]]])
    """
    sizes = np.abs(signed).max(-1, keepdims=True, initial=0)
    some = sizes[sizes > 0]
    peak = np.percentile(some, percentile) if some.size else 1.0
    picture: NDArray[np.floating[Any]] = GREY + GREY * signed / np.maximum(sizes, peak)
    return picture


def pictures_of(x: torch.Tensor) -> Pixels:
    """Return inputs of a network as pictures: the values of each image are stretched to the range of a picture.

    Args:
        x: [N, C, H, W], as the network takes them.

    Returns:
        uint8 [N, H, W, 3]; grey where C is not 3.

    >>> import torch
    >>> pictures_of(torch.tensor([[[[-1.0, 1.0, 0.0]]]]))[0, 0].tolist()
    [[0, 0, 0], [255, 255, 255], [128, 128, 128]]
    """
    import torch

    x = x.detach().float()
    x = x if x.shape[1] == 3 else x.mean(1, keepdim=True)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    levels = (255 * (x - low) / (high - low).clamp(min=1e-12)).round().to(torch.uint8)
    pictures: Pixels = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pictures

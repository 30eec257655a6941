"""Small rules about numbers, arrays and modules of torch that every room follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.types import Array, Ints, Picture, Pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GREY = 0.5  # of the range 0..1 of a picture: what stands for zero where a signed array is shown
FULL_CONTRAST = 99.0  # percentile of the sizes of pixels that is shown with full contrast

PEAKS = {"uint8": 255, "uint16": 65535, "float32": None}
"""Type of an image's values -> the value that counts as 1; None where values are taken as they are."""


def shown_channels(count: int, chosen: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the channels of an image that a figure shows: three as red, green and blue, or one as grey.

    Args:
        count: number of channels of the image.
        chosen: the channels that were asked for, from 0; by default the first three, or the first where there are
            fewer than three.

    Raises:
        DataError: the image has no such channel.

    >>> shown_channels(6), shown_channels(2), shown_channels(6, (3, 2, 1))
    ((0, 1, 2), (0,), (3, 2, 1))
    """
    beyond = [channel for channel in chosen if not 0 <= channel < count]
    if beyond:
        there = "only channel 0" if count == 1 else f"channels 0 to {count - 1}"
        raise DataError(f"channel {beyond[0]} is to be shown; the images have {there}")
    return tuple(chosen) or ((0, 1, 2) if count >= 3 else (0,))


def displayed(values: Array, chosen: Sequence[int] = ()) -> Array:
    """Return the channels of values [..., C] that a figure shows, [..., 3] or [..., 1]; see `shown_channels`.

    >>> displayed(np.arange(6), (3, 2, 1))
    array([3, 2, 1])
    """
    channels = shown_channels(values.shape[-1], chosen)
    return values if channels == tuple(range(values.shape[-1])) else values[..., list(channels)]


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Return images of one size as one array [N, h, w, C]; beside 16-bit images those of 8 bits become 16-bit ones.

    No value changes its meaning: v / 255 is 257 v / 65535.

    Raises:
        DataError: some images hold integers and others floats, or they differ in their channels.

    >>> stacked([np.full((1, 1, 3), 255, np.uint8), np.full((1, 1, 3), 7, np.uint16)])[:, 0, 0, 0]
    array([65535,     7], dtype=uint16)
    """
    if {str(picture.dtype) for picture in pictures} == {"uint8", "uint16"}:
        pictures = [p.astype(np.uint16) * np.uint16(257) if p.dtype == np.uint8 else p for p in pictures]
    require_one_kind(pictures)
    return np.stack(pictures)


def require_one_kind(pictures: Sequence[Picture]) -> None:
    """Raise DataError where images [H, W, C] differ in their type or in their number of channels."""
    kinds = sorted({f"{picture.dtype} with {picture.shape[-1]} channels" for picture in pictures})
    if len(kinds) > 1:
        raise DataError(f"images of {' and '.join(kinds)} given; expected one type and number of channels")


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


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of vectors [..., D], in float32 or wider, [...]; 0 where one of them is zero.

    >>> import torch
    >>> cosine(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).tolist()
    [0.6000000238418579, 0.0]
    """
    import torch
    from torch.nn import functional

    exact = widened(torch.promote_types(a.dtype, b.dtype))
    return functional.cosine_similarity(a.to(exact), b.to(exact), dim=-1)


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

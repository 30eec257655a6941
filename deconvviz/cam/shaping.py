"""From the map of a method's equation to the finished map: resized to the image and scaled to 0..1.

The order of the two, and the treatment of negative values, differ between libraries and change numbers:

    paper              resize, then min-max; a method's own equation says whether it is rectified
    pytorch-grad-cam   rectify, min-max, then resize, then min-max again
    torch-cam          min-max, then resize

A method may have an order of its own, which "paper" then stands for: that of L-CAM is torch-cam's, and a map that is a
mask in 0..1 already is only resized ("mask").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.choices import CONVENTIONS
from deconvviz.errors import DataError


def resized(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Resize maps [..., h, w] to [..., H, W], bilinear; there may be any number of leading axes."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    out = functional.interpolate(flat, size=size, mode="bilinear", align_corners=align_corners)
    return out.reshape(*maps.shape[:-2], *size)


def min_max(maps: Tensor) -> Tensor:
    """Scale each map [..., h, w] to 0..1; a constant one becomes zeros.

    >>> min_max(torch.tensor([[1.0, 3.0], [5.0, 2.0]]))
    tensor([[0.0000, 0.5000],
            [1.0000, 0.2500]])
    """
    low, span = lowest_and_span(maps)
    varies = span > 0
    return torch.where(varies, (maps - low) / torch.where(varies, span, 1.0), 0.0)


def lowest_and_span(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest value of each map [..., h, w] and how far the highest is above it, [..., 1, 1] each."""
    low, high = maps.flatten(-2).aminmax(dim=-1)
    return low[..., None, None], (high - low)[..., None, None]


def shaped(maps: Tensor, size: tuple[int, int], convention: str, align_corners: bool) -> Tensor:
    """Return finished maps [N, H, W] in 0..1 of maps [N, h, w], by one of the conventions above.

    Raises:
        DataError: another convention.
    """
    if convention == "paper":
        return min_max(resized(maps, size, align_corners))
    if convention == "pytorch-grad-cam":
        return min_max(resized(min_max(maps.relu()), size, align_corners).relu())
    if convention == "torch-cam":
        return resized(min_max(maps), size, align_corners)
    if convention == "mask":
        return resized(maps, size, align_corners).clamp(0, 1)
    raise DataError(f"convention {convention!r} given; expected {', '.join(CONVENTIONS)}")


def signed_shares(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps at the images' size, each divided by its largest absolute value, so that zero stays zero.

    Args:
        maps: floating [N, h, w], signed.
        size: (H, W).

    Returns:
        Floating [N, H, W] in -1..1; a map of zeros stays as it is.

    >>> signed_shares(torch.tensor([[[-1.0, 4.0]]]), (1, 2)).tolist()
    [[[-0.25, 1.0]]]
    """
    large = resized(maps, size, False)
    return large / large.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(large.dtype).tiny)


def gaussian_blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """BlurWindow images [N, C, H, W] with a Gaussian; the kernel is as large as reflection at the border allows.

    Args:
        images: [N, C, H, W].
        kernel: its side in pixels.
        sigma: standard deviation in pixels.
    """
    from torchvision.transforms.functional import gaussian_blur as blur

    sides = [min(kernel, 2 * side - 1) // 2 * 2 + 1 for side in images.shape[-2:]]
    sides = [side - 2 if side // 2 >= room else side for side, room in zip(sides, images.shape[-2:], strict=True)]
    down: Tensor = blur(images, [1, sides[0]], [sigma, sigma])  # one axis after the other: k + k instead of k * k
    blurred: Tensor = blur(down, [sides[1], 1], [sigma, sigma])
    return blurred

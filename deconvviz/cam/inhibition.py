"""Lateral inhibition: what of a gradient stands out from its neighbourhood, by a Laplacian of a Gaussian."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_laplace  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import DataError
from deconvviz.types import Floats

SIDE = 5  # of the kernel
LEAST = SIDE // 2 + 1  # rows and columns of the smallest map whose border can be reflected
ROUNDING = 1e-6  # a response is none up to this share of the largest one that the kernel could give


def laplacian_of_gaussian(sigma: float = 1.0, centred: bool = True) -> Floats:
    """Return the kernel of lateral inhibition: the Laplacian of a Gaussian, as SciPy applies it to a single point.

    With sigma 1 it is a Mexican hat upside down: its centre is negative, the ring around it positive. With sigma 11, as
    in the code that the authors released, all its weights are negative where they are not centred: a blur, which
    inhibits nothing.

    Args:
        sigma: standard deviation of the Gaussian, in positions of the map.
        centred: whether the mean of the weights is subtracted, so that a constant map gives no response.

    Returns:
        float64 [5, 5].

    Raises:
        DataError: `sigma` is not a positive number.

    Source: Jiang et al. 2022, arXiv 2208.06918; kernel and its size from the released code. Centring is our choice.

    >>> kernel = laplacian_of_gaussian()
    >>> bool(kernel[2, 2] < 0 < kernel[2, 4]), abs(float(kernel.sum())) < 1e-12
    (True, True)
    >>> bool((laplacian_of_gaussian(11, centred=False) < 0).all())
    True
    """
    if isinstance(sigma, bool) or not 0 < sigma < math.inf:
        raise DataError(f"sigma {sigma!r} given; expected a positive number")
    point = np.zeros((SIDE, SIDE))
    point[SIDE // 2, SIDE // 2] = 1
    kernel: Floats = gaussian_laplace(point, sigma)
    return kernel - kernel.mean() if centred else kernel


def lateral_response(strength: Tensor, kernel: Floats) -> tuple[Tensor, Tensor]:
    """Return how far each position stands out from its neighbours, R = -(LoG * G), and up to where that is rounding.

    Args:
        strength: G, floating [N, h, w], with at least 3 rows and columns; the border is reflected.
        kernel: LoG, float64 [5, 5], of `laplacian_of_gaussian`.

    Returns:
        R [N, h, w], signed; and [N, 1, 1], below or at which a response is none: a millionth of what the kernel would
        give if every weight of it met the largest G of the image.

    >>> response, rounding = lateral_response(torch.ones(1, 4, 4), laplacian_of_gaussian())
    >>> bool((response > rounding).any())  # nothing stands out from a constant map
    False
    """
    weights = torch.from_numpy(kernel).to(strength)
    padded = functional.pad(strength[:, None], [SIDE // 2] * 4, mode="reflect")
    response = -functional.conv2d(padded, weights[None, None])[:, 0]
    return response, ROUNDING * weights.abs().sum() * strength.amax((1, 2), keepdim=True)

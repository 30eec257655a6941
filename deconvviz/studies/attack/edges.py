"""Where an image has edges, which hide a change: the weights of AdvEdge and AdvEdge+."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from deconvviz.data.transfer import row_of

THRESHOLD = 0.1  # of the weights, above which AdvEdge+ changes a pixel
ALONG, ACROSS = (0.25, 0.5, 0.25), (1.0, 0.0, -1.0)  # Sobel's kernel is their product; its positive half sums to 1


def edge_weights(x: Tensor) -> Tensor:
    """Return how strong the edge at each pixel is: the magnitude of Sobel's gradient of the mean colour.

    The positive half of each kernel sums to 1, and the magnitude of both directions is divided by sqrt 2, so that the
    weights are within 0..1. Beyond the border the outermost pixels are repeated.

    Args:
        x: floating [N, C, H, W] in 0..1.

    Returns:
        Floating [N, 1, H, W] in 0..1.

    Source: Abdukhamidov et al. 2022, arXiv 2211.15926 (AdvEdge); the scale is that of `skimage.filters.sobel`, which
    the released code calls.

    >>> import torch
    >>> x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    >>> x[..., 2:] = 1  # a step from black to white, of which each pixel beside it sees the half
    >>> edge_weights(x)[0, 0, 0].round(decimals=4).tolist()
    [0.0, 0.7071, 0.7071, 0.0]
    """
    grey = functional.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    along, across = (row_of(row, x.dtype, x.device) for row in (ALONG, ACROSS))
    down = functional.conv2d(grey, (across[:, None] * along[None, :])[None, None])
    right = functional.conv2d(grey, (along[:, None] * across[None, :])[None, None])
    magnitude: Tensor = (down.square() + right.square()).sqrt() / math.sqrt(2)
    return magnitude.clamp(max=1)

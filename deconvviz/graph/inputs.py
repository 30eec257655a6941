"""What a network takes: images of its shape, dtype and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deconvviz.errors import CaptureError

if TYPE_CHECKING:
    from deconvviz.graph.network import Network


def checked_images(network: Network, x: Tensor) -> Tensor:
    """Return images as a network takes them.

    An array of NumPy is taken like a tensor, and gets the network's device and dtype. A network in another precision
    than it was captured in casts what it is given.

    Raises:
        CaptureError: x has another shape, dtype or device.
    """
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.ascontiguousarray(x)).to(network.device, network.dtype)
    if tuple(x.shape[1:]) != network.input_shape or x.dim() != len(network.input_shape) + 1:
        raise CaptureError(
            f"images of shape {tuple(x.shape)} given to {network.name}; expected (N, *{network.input_shape}); resize "
            "them, or capture the model with their shape"
        )
    if x.device != network.device:
        raise CaptureError(f"images on {x.device} given, {network.name} is on {network.device}; move one with .to(...)")
    if network.precision != "as captured":
        return x.to(network.dtype).contiguous(memory_format=network.memory_format)
    if x.dtype != network.dtype:
        raise CaptureError(
            f"images of {x.dtype} given, {network.name} computes in {network.dtype}; use x.to({network.dtype})"
        )
    return x


def check_shape(network: Network, shape: Sequence[int]) -> None:
    """Raise CaptureError unless images of this shape, (channels, height, width), fit the network."""
    if tuple(shape) != network.input_shape:
        raise CaptureError(
            f"preprocessing gives images of {tuple(shape)}; {network.name} takes {network.input_shape}: set the crop "
            "(--input), or capture the model with that shape"
        )

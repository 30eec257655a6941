"""Filters: the weights behind a layer's channels, one filter for each channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import batch_norm_scale, op_name, op_of
from deconvviz.graph.reach import data_inputs, pair
from deconvviz.types import Floats


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters of one layer, one for each of its channels.

    Attributes:
        weights: float64 [channels, inputs, rows, columns]; rows and columns of a linear layer are 1.
        scale: float64 [channels], the factor by which BatchNorm multiplies each channel; ones where there is none.
        stride: distance between neighbouring units in positions of the layer's input, (rows, columns).
        groups: number of groups of the convolution. A channel reads the inputs of its own group only.
        first: whether this is the first convolution of the network.
        normalised: whether a BatchNorm follows, whose factor is `scale`.
    """

    weights: Floats
    scale: Floats
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    first: bool = False
    normalised: bool = False

    @property
    def effective(self) -> Floats:
        """float64 [channels, inputs, rows, columns], the weights times BatchNorm's factor: what a channel computes."""
        return self.weights * self.scale[:, None, None, None]

    @property
    def of_image(self) -> bool:
        """Whether the filters can be looked at as pictures: they read an image, and are larger than one pixel."""
        return self.first and self.weights.shape[1] in (1, 3) and min(self.weights.shape[2:]) > 1

    @property
    def as_pictures(self) -> Floats:
        """float64 [channels, rows, columns, inputs], the weights with their dimensions in a picture's order."""
        return np.ascontiguousarray(self.weights.transpose(0, 2, 3, 1))

    @property
    def rms(self) -> Floats:
        """float64 [channels], the root mean square of each filter's effective weights."""
        return np.asarray(np.sqrt((self.effective**2).mean((1, 2, 3))))


def filters_of(network: Network, layer: str) -> Filters | None:
    """Return the filters whose responses a layer holds.

    The layer may be the convolution or linear layer itself, or what a rectifier, a normalisation or a max pooling made
    of it.

    Args:
        network: a captured network.
        layer: a name from `network.layers`.

    Returns:
        The filters, or None where the layer does not come from one convolution or linear layer with weights of its own.

    Raises:
        LayerNotFound: the layer does not exist.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> filters = filters_of(capture(model, (3, 32, 32)), "2")
    >>> filters.weights.shape, filters.stride, filters.of_image
    ((8, 3, 5, 5), (2, 2), True)
    """
    node, scale = network.layer(layer).node, None
    while op_of(node).passes_channels:
        inputs = data_inputs(node)
        if len(inputs) != 1:
            return None
        if op_name(node) == "batch_norm":
            scale = batch_norm_scale([network.constant(a) if isinstance(a, fx.Node) else a for a in node.args])
        elif op_of(node).kind != "linear":  # BatchNorm behind a rectifier or a pooling is no factor of the filter
            scale = None
        node = inputs[0]
    if op_name(node) not in ("conv2d", "linear"):
        return None
    weight = network.constant(node.args[1]) if isinstance(node.args[1], fx.Node) else None
    if weight is None:
        return None
    weights = weight.detach().double().cpu().numpy().reshape(*weight.shape, *[1] * (4 - weight.dim()))
    factors = np.ones(len(weights)) if scale is None else scale.detach().double().cpu().numpy()
    if op_name(node) == "linear":
        return Filters(weights=weights, scale=factors, normalised=scale is not None)
    convolutions = (each for each in network.graph.nodes if each.op == "call_function" and op_name(each) == "conv2d")
    first = node is next(convolutions)
    return Filters(
        weights=weights,
        scale=factors,
        stride=_stride(node),
        groups=_groups(node),
        first=first,
        normalised=scale is not None,
    )


def layers_behind(network: Network, layer: str) -> tuple[str, ...]:
    """Return the nearest convolution and linear layers before a layer: several where it joins as many branches.

    Args:
        network: a captured network.
        layer: a name from `network.layers`.

    Returns:
        Their names, the nearest first.

    Raises:
        LayerNotFound: the layer does not exist.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2)).eval()
    >>> layers_behind(capture(model, (3, 32, 32)), "2")
    ('0',)
    """
    waiting, names = [network.layer(layer).node], dict[str, None]()
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0)
        name = network.name_of(node)
        if op_name(node) in ("conv2d", "linear") and name is not None:
            names[name] = None
            continue
        further = [each for each in data_inputs(node) if each not in seen]
        seen.update(further)
        waiting += further
    return tuple(names)


def _stride(convolution: fx.Node) -> tuple[int, int]:
    place = op_of(convolution).stride_argument
    assert place is not None
    return pair(convolution.args[place])


def _groups(convolution: fx.Node) -> int:
    groups = convolution.args[6]
    assert isinstance(groups, int)
    return groups

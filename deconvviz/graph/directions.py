"""Directions as layers: linear readings of a layer's channels, place by place, that are nodes of the graph.

A direction is a row of a matrix W. Its map is the sum of the layer's maps, weighted by the row. It is an
ordinary layer of the network, with shape, receptive field and projections, and nothing else of the network changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from deconvviz.errors import CaptureError
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network
from deconvviz.graph.reach import shape_of
from deconvviz.types import Array

NAMED = re.compile(r"(?P<layer>.+)\[(?P<source>[^\[\]]+)\]")


class Readings(NamedTuple):
    """The directions of one layer.

    Attributes:
        layer: name of the layer that they read.
        weights: floating [directions, channels].
        bias: floating [directions], added to each reading.
        about: how they were learned, where that is known.
    """

    layer: str
    weights: NDArray[np.floating]
    bias: NDArray[np.floating]
    about: Mapping[str, Any]


def parsed(name: str) -> tuple[str, str] | None:
    """Return the layer and the source in the name of directions; None for the name of another layer.

    >>> parsed("features.7[nmf.npz]"), parsed("features.7")
    (('features.7', 'nmf.npz'), None)
    """
    match = NAMED.fullmatch(name)
    return None if match is None else (match["layer"], match["source"])


def with_directions(
    network: Network,
    layer: str,
    weights: Array,
    bias: Array | None = None,
    name: str = "",
    about: Mapping[str, Any] | None = None,
) -> Network:
    """Return the same network with one more layer: linear readings of the channels of a layer.

    The value of direction d at a place is sum_c weights[d, c] value[c] + bias[d]. The network's outputs stay as
    they are.

    Args:
        network: a captured network.
        layer: name of a layer.
        weights: floating [directions, channels of the layer].
        bias: floating [directions]; None for zeros.
        name: of the new layer; by default LAYER[directions].
        about: how the directions were learned, for the captions of figures, such as {"kind": "pca"} with what
            `Directions.about` holds. Nothing that is computed depends on it.

    Raises:
        LayerNotFound: the layer does not exist.
        CaptureError: weights or bias have another shape or are not finite, the name is taken, or the layer's channels
            are neither its first nor its last dimension.

    Source: the definition of a linear direction in the space of a layer's channels, as in Bau et al. 2017, section 3.2
    (a change of basis), and Kim et al. 2018 (TCAV).

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> network = capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> with_directions(network, "1", np.eye(8)[:2]).layers["1[directions]"].shape
    (2, 28, 28)
    """
    node = network.layer(layer).node
    name = name or f"{layer}[directions]"
    weights = np.asarray(weights)
    bias = np.zeros(len(weights), weights.dtype) if bias is None else np.asarray(bias)
    _check(network, layer, weights, bias, name)
    target, shape = _product(node, len(weights), layer)
    kernel = weights.reshape(*weights.shape, 1, 1) if target is torch.ops.aten.conv2d.default else weights
    both = [torch.as_tensor(np.array(array, np.float64)).to(network.dtype) for array in (kernel, bias)]
    # The name follows from what is computed: equal directions have one fingerprint, whatever file they are from.
    key = f"directions.{sha256(repr((layer, [each.tolist() for each in both])).encode()).hexdigest()[:16]}"
    names = (f"{key}.weight", f"{key}.bias")
    on_device = {each: tensor.to(network.device) for each, tensor in zip(names, both, strict=True)}
    out = network.replaced(network.graph, {**network.tensors, **on_device})
    with out.graph.inserting_after(out.layer(layer).node):
        reading = out.graph.create_node("call_function", target, name=f"{key.replace('.', '_')}_of_{node.name}")
    with out.graph.inserting_before(reading):
        constants = [out.graph.create_node("get_attr", each) for each in on_device]
    for constant, tensor in zip(constants, on_device.values(), strict=True):
        constant.meta = {"shape": tuple(tensor.shape), "modules": []}
    spatial = ([1, 1], [0, 0], [1, 1], 1) if target is torch.ops.aten.conv2d.default else ()
    reading.args = (out.layer(layer).node, *constants, *spatial)
    reading.meta = {"shape": shape, "batched": True, "modules": [(name, name, "Directions")], "reads": layer}
    reading.meta["about"] = dict(about or {})
    return out.replaced(out.graph, out.tensors)


def without_directions(network: Network) -> Network:
    """Return a network without the directions that were added to it; its fingerprint is that of before.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> network = capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> without_directions(with_directions(network, "1", np.eye(8))).fingerprint == network.fingerprint
    True
    """
    readings = [layer.node for layer in network.layers.values() if "reads" in layer.node.meta]
    if not readings:
        return network
    added = {node.name for reading in readings for node in (reading, *reading.args[1:3])}  # type: ignore[union-attr]
    tensors = {str(constant.target) for reading in readings for constant in reading.args[1:3]}  # type: ignore[union-attr]
    out = network.replaced(network.graph, {name: each for name, each in network.tensors.items() if name not in tensors})
    for node in reversed([node for node in out.graph.nodes if node.name in added]):
        out.graph.erase_node(node)
    return out.replaced(out.graph, out.tensors)


def directions_in(network: Network) -> dict[str, Readings]:
    """Return the directions that were added to a network: name of the layer -> what is read, and how.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> network = capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> {name: each.layer for name, each in directions_in(with_directions(network, "1", np.eye(8))).items()}
    {'1[directions]': '1'}
    """
    readings = {}
    for name, layer in network.layers.items():
        if "reads" in layer.node.meta:
            weight, bias = (network.tensors[str(n.target)] for n in layer.node.args[1:3])  # type: ignore[union-attr]
            weights, offsets = (each.detach().cpu().double().numpy() for each in (weight.flatten(1), bias))
            readings[name] = Readings(layer.node.meta["reads"], weights, offsets, layer.node.meta["about"])
    return readings


def _product(node: fx.Node, count: int, layer: str) -> tuple[Any, tuple[int, ...]]:
    """Return the op that reads the channels of a value, and the shape of what it gives."""
    shape, axis = shape_of(node), channel_axis(node)
    if axis == len(shape) - 1:
        return torch.ops.aten.linear.default, (*shape[:-1], count)
    if axis == 1 and len(shape) == 4:
        return torch.ops.aten.conv2d.default, (shape[0], count, *shape[2:])
    raise CaptureError(f"layer {layer!r} has the shape {list(shape[1:])}; directions read maps, tokens or vectors")


def _check(network: Network, layer: str, weights: Array, bias: Array, name: str) -> None:
    """Raise CaptureError where directions do not fit a layer."""
    channels = network.layer(layer).units[0]
    if weights.ndim != 2 or weights.shape[1] != channels or not len(weights):
        raise CaptureError(
            f"directions of shape {list(weights.shape)} given for {layer!r}; expected [directions, {channels}]"
        )
    if bias.shape != weights.shape[:1]:
        raise CaptureError(f"a bias of shape {list(bias.shape)} given; expected [{len(weights)}]")
    if weights.dtype.kind not in "fiu" or not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise CaptureError(f"directions of {layer!r} are not finite numbers; give a matrix [directions, {channels}]")
    if name in network.layers:
        raise CaptureError(f"layer {name!r} exists already; choose another name for the directions")

"""CAM itself: what the last linear layer reads at each position."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.registry import method
from deconvviz.errors import CamError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import data_inputs, shape_of


@method("cam", passes="1 forward")
def class_activation(v: View) -> Tensor:
    """sum_k W[c, k] A_k, signed, of a layer that is averaged over its positions and read by one linear layer.

    Zhou et al. 2016, arXiv 1512.04150, equation 2. Where the classifier is a 1x1 convolution before the average, as in
    SqueezeNet, it is that convolution's map of the class.
    """
    if v.scorer.classes is None or not isinstance(v.backend, Captured):
        raise CamError("cam explains a class of a captured classifier; take grad-cam for anything else")
    network, layer = v.backend.network, str(v.layer)
    reader = _reader(network, layer)
    if reader is not None and op_name(reader) == "linear":
        weight = class_weights(network, layer)[0][v.scorer.classes]
        return torch.einsum("nk,nkhw->nhw", weight.to(v.A.dtype), v.A)
    if reader is not None:
        maps: Tensor = network.run({network.layer(layer).node: v.value}, [reader], len(v.x))[reader]
        return _of_two(maps)[v.everyone, v.scorer.classes]
    head = _head(network, layer)
    plain = [node for node in head if op_name(node) != "relu"]
    if len(plain) == 1 and op_of(plain[0]).averages:
        return _of_two(v.A)[v.everyone, v.scorer.classes]
    listed = ", ".join(op_name(node) for node in head[:5]) or "nothing"
    raise CamError(
        f"cam needs a layer that is averaged and then read by one linear layer; after {v.layer!r} come {listed}: "
        "choose the layer that is averaged, or take grad-cam"
    )


def class_weights(network: Network, layer: str) -> tuple[Tensor, Tensor | None]:
    """Return the weights [classes, K] and the bias [classes] with which the classifier reads a layer's positions.

    Raises:
        CamError: the layer is not read by a single linear layer or 1x1 convolution next to an average.
    """
    reader = _reader(network, layer)
    if reader is None:
        raise CamError(f"after {layer!r} there is no average and one linear layer, whose weights could be taken")
    weight, bias = (network.constant(n) if isinstance(n, fx.Node) else None for n in reader.args[1:3])
    assert weight is not None
    if len(weight) == 1:  # "yes", and "no", whose score is minus that of "yes"; see `Readout`
        weight, bias = torch.cat([weight, -weight]), None if bias is None else torch.cat([bias, -bias])
    return weight.flatten(1), bias


def _of_two(maps: Tensor) -> Tensor:
    """Return maps [N, classes, h, w], of a single output those of "yes" and "no"."""
    return torch.cat([maps, -maps], 1) if maps.shape[1] == 1 else maps


def _reader(network: Network, layer: str) -> fx.Node | None:
    """Return the linear layer that reads the average of a layer, or the 1x1 convolution that is averaged afterwards."""
    nodes = _head(network, layer)
    if len(nodes) == 2 and op_of(nodes[0]).averages and op_name(nodes[1]) == "linear":
        return nodes[1]
    plain = [node for node in nodes if op_name(node) != "relu"]
    pointwise = bool(nodes) and op_name(nodes[0]) == "conv2d"
    pointwise = pointwise and shape_of(nodes[0].args[1])[2:] == (1, 1)  # type: ignore[arg-type]
    return nodes[0] if pointwise and len(plain) == 2 and op_of(plain[1]).averages else None


def _head(network: Network, layer: str) -> list[fx.Node]:
    """Return the ops from a layer to the output, without those that only move values.

    The list ends where several ops read a value, or one op reads several.
    """
    node, head = network.layer(layer).node, list[fx.Node]()
    while True:
        users = [user for user in node.users if user.meta.get("data") or user.op == "output"]
        if len(users) != 1 or users[0].op == "output":
            return head
        node = users[0]
        if len(data_inputs(node)) != 1:
            return [*head, node]
        if not (op_of(node).identity or op_of(node).reshapes):
            head.append(node)

"""Layers to take where the user named none."""

from __future__ import annotations

from torch import fx

from deconvviz.errors import LayerNotFound
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import data_inputs, shape_of

NO_FEATURES = ("dropout", "adaptive_avg_pool2d", "avg_pool2d", "mean", "clone", "contiguous")


def last_maps(network: Network) -> str:
    """Return the last layer with rows and columns before the classifier, not a pooled or thinned copy of another.

    It is found from the last convolution or linear layer backwards, along the first input of each op; of a value's
    names it is that of the outermost module that is more than a list of others. Raises LayerNotFound where there is none.
    """
    weighted = [node for node in network.graph.nodes if _weighted(node)]
    names = {layer.node: name for name, layer in network.layers.items() if layer.kind != "Sequential"}
    node = data_inputs(weighted[-1])[0] if weighted else network.image
    while node is not network.image:
        shape = shape_of(node)
        features = len(shape) == 4 and shape[2] * shape[3] > 1 and op_name(node) not in NO_FEATURES
        if features and op_of(node).kind != "max_pool" and node in names:
            return names[node]
        node = data_inputs(node)[0]
    raise LayerNotFound(f"{network.name} has no layer with rows and columns before its last; name one with -l")


def _weighted(node: fx.Node) -> bool:
    return node.op == "call_function" and node.meta["data"] and op_name(node).startswith(("conv", "linear"))

"""Layers to take where the user named none."""

from __future__ import annotations

import numpy as np
from torch import fx

from deconvviz.errors import CamError, DataError, LayerNotFound
from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value, op_of
from deconvviz.graph.reach import data_inputs, shape_of


def last_maps(network: Network) -> str:
    """Return the last layer with rows and columns before the classifier, not a pooled or thinned copy of another.

    It is found from the last convolution or linear layer backwards, along the first input of each op; of a value's
    names it is that of the outermost module that is more than a list of others. Raises LayerNotFound where there is
    none.
    """
    weighted = [node for node in network.graph.nodes if _weighted(node)]
    names = {layer.node: name for name, layer in network.layers.items() if layer.kind != "Sequential"}
    node = data_inputs(weighted[-1])[0] if weighted else network.image
    while node is not network.image:
        shape = shape_of(node)
        if len(shape) == 4 and shape[2] * shape[3] > 1 and not _derived(node) and node in names:
            return names[node]
        node = data_inputs(node)[0]
    raise LayerNotFound(f"{network.name} has no layer with rows and columns before its last; name one with -l")


def last_of_each_size(network: Network, most: int = 4) -> tuple[str, ...]:
    """Return the last layer of `by_depth` of each size of maps, of the `most` smallest sizes, in the order of depth.

    Raises LayerNotFound where there are fewer than two.
    """
    sizes: dict[tuple[int, ...], str] = {}
    for name in by_depth(network):
        shape = network.layer(name).shape
        if len(shape) == 3 and shape[1] * shape[2] > 1:
            sizes.pop(shape[1:], None)
            sizes[shape[1:]] = name
    if len(sizes) < 2:
        raise LayerNotFound(f"{network.name} has no maps of several sizes; name the layers with -l")
    return tuple(sizes.values())[-most:]


def by_depth(network: Network) -> tuple[str, ...]:
    """Return every convolution and linear layer in the order of computation, by the name of its final value.

    That is the value after the BatchNorm and the ReLU that follow it, where nothing else reads what is between.
    """
    names = network.names
    ends = [final_value(node) for node in network.graph.nodes if _weighted(node)]
    return tuple(dict.fromkeys(names[end] for end in ends if end in names))


def first_and_last(network: Network) -> tuple[str, ...]:
    """Return the first layer of `by_depth` and what the last convolution or linear layer, the classifier, reads.

    Raises CamError where the network has neither.
    """
    weighted, names = [node for node in network.graph.nodes if _weighted(node)], network.names
    if not weighted:
        raise CamError(f"{network.name} has no convolution or linear layer to choose; name the layers")
    read = data_inputs(weighted[-1])[0]
    while read is not network.image and (_same_values(read) or read not in names):
        read = data_inputs(read)[0]
    return tuple(dict.fromkeys((names[final_value(weighted[0])], *([names[read]] if read in names else []))))


def default_layers(network: Network, most: int = 8, pooled: bool = True) -> tuple[str, ...]:
    """Return layers to probe where none were named, in the order of depth; of a ZFNet its layers 1 to 7, as the paper.

    A place in the graph that everything passes through separates what comes before from what follows. Such places
    between the same two weighted ops (convolutions, linear maps) are one stage: its last value stands for it, after
    rectifying, pooling (without `pooled`, the last that is no pooling) and normalising. Only modules count, of the
    shallowest level that has four stages or more; the stage of the output is none. Of more than `most` stages, some are
    left out evenly.
    """
    stages = _stages(network, pooled)
    deepest = max((name.count(".") for names in stages.values() for name in names), default=0)
    found: list[str] = []
    for level in range(deepest + 1):
        levels = ([name for name in names if name.count(".") <= level] for names in stages.values())
        found = [names[-1] for names in levels if names]
        if len(found) >= 4:
            break
    if not found:
        raise DataError(f"{network.name} has no layer that everything passes through; name the layers to probe")
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return tuple(found[place] for place in places)


def _stages(network: Network, pooled: bool) -> dict[int, list[str]]:
    """Map the number of weighted ops so far to the module layers there that everything passes through."""
    order = [node for node in network.graph.nodes if node.meta.get("data") and node.op == "call_function"]
    places = {node: place for place, node in enumerate(order)}
    names = {
        layer.node: name
        for name, layer in network.layers.items()
        if not layer.functional and layer.kind != "Sequential"
    }
    stages: dict[int, list[str]] = {}
    weighted, needed = 0, -1
    for place, node in enumerate(order):
        weighted += any(_weight(given) for given in node.all_input_nodes)
        if needed <= place and node in names and not _same_values(node) and (pooled or not _derived(node)):
            stages.setdefault(weighted, []).append(names[node])
        needed = max([needed, *(places.get(user, needed) for user in node.users)])
    stages.pop(weighted, None)
    return stages


def _weighted(node: fx.Node) -> bool:
    return node.op == "call_function" and node.meta["data"] and op_of(node).weighted


def _same_values(node: fx.Node) -> bool:
    """Whether the op hands its input's values on, perhaps in another shape."""
    return op_of(node).identity or op_of(node).reshapes


def _derived(node: fx.Node) -> bool:
    """Whether the op's value only repeats or pools those of another layer."""
    op = op_of(node)
    return op.identity or op.averages or op.kind == "max_pool"


def _weight(node: fx.Node) -> bool:
    return not node.meta["data"] and node.op in ("get_attr", "call_function") and len(node.meta.get("shape", ())) > 1

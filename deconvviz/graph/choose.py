"""Layers to take where the user named none."""

from __future__ import annotations

import math

import torch
from torch import fx

from deconvviz.arrays import evenly
from deconvviz.errors import CamError, DataError, LayerNotFound
from deconvviz.graph.classifier import is_weighted
from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value, op_of
from deconvviz.graph.reach import axes_of, data_inputs, lengths, shape_of

PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.matmul, torch.ops.aten.scaled_dot_product_attention)
MANY = 4  # stages: with so many, module names of this depth are taken


def last_maps(network: Network) -> str:
    """Return the name of the last layer with rows and columns before the classifier: what CAM methods explain.

    It is searched from the last convolution or linear layer backwards, along the first input of each op. Values that
    only repeat or pool another one are passed over. Where several modules return the value, the name is that of the
    outermost one that is not a plain list of others.

    Raises:
        LayerNotFound: no layer before the last one has rows and columns.
    """
    weighted = [node for node in network.graph.nodes if is_weighted(node)]
    name = maps_behind(network, data_inputs(weighted[-1])[0] if weighted else network.image)
    if name is None:
        raise LayerNotFound(f"{network.name} has no layer with rows and columns before its last; name one with -l")
    return name


def maps_behind(network: Network, node: fx.Node) -> str | None:
    """Return the name of the nearest layer with rows and columns from a node backwards, as `last_maps`; else None."""
    names = {layer.node: name for name, layer in network.layers.items() if layer.kind != "Sequential"}
    while node is not network.image:
        axes = axes_of(node)
        maps = len(shape_of(node)) == 4 and axes in ((2, 3), (1, 2)) and math.prod(lengths(node)) > 1
        if maps and node in names and not _derived(node) and not _of_heads(node, network):
            return names[node]
        node = data_inputs(node)[0]
    return None


def last_of_each_size(network: Network, most: int = 4) -> tuple[str, ...]:
    """Return the last layer of `by_depth` for each size of maps, for the `most` smallest sizes, in the order of depth.

    Raises:
        LayerNotFound: the network has maps of fewer than two sizes.
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

    The final value is the one after the BatchNorm and the rectifier that follow, where nothing else reads between.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> by_depth(dv.capture(model, (3, 4, 4)))
    ('1', '3')
    """
    names = network.names
    ends = [final_value(node) for node in network.graph.nodes if is_weighted(node)]
    return tuple(dict.fromkeys(names[end] for end in ends if end in names))


def first_and_last(network: Network) -> tuple[str, ...]:
    """Return the first layer of `by_depth` and the layer that the classifier reads: the paper's layers 1 and 7.

    The classifier is the last convolution or linear layer.

    Raises:
        CamError: the network has no convolution and no linear layer.
    """
    weighted, names = [node for node in network.graph.nodes if is_weighted(node)], network.names
    if not weighted:
        raise CamError(f"{network.name} has no convolution or linear layer to choose; name the layers")
    read = data_inputs(weighted[-1])[0]
    while read is not network.image and (_same_values(read) or read not in names):
        read = data_inputs(read)[0]
    return tuple(dict.fromkeys((names[final_value(weighted[0])], *([names[read]] if read in names else []))))


def default_layers(network: Network, most: int = 8, pooled: bool = True) -> tuple[str, ...]:
    """Return layers to look at where the user named none, in the order of depth; of a ZFNet its layers 1 to 7.

    A value that every path to the output passes through separates what comes before from what follows. Such values
    between the same two weighted ops (convolutions and linear maps) belong to one stage, and the last of them stands
    for the stage: the value after rectifying, pooling and normalising. Only modules count, of the shallowest level of
    names that has four stages or more. The stage of the output is left out. Of more than `most` stages, some are left
    out evenly.

    Args:
        network: a captured network.
        most: layers to return at most.
        pooled: whether a stage may be represented by a pooled value; otherwise the last value before the pooling is.

    Raises:
        DataError: no module returns a value that every path passes through.
    """
    stages = _stages(network, pooled)
    deepest = max((name.count(".") for names in stages.values() for name in names), default=0)
    layers: list[str] = []
    for level in range(deepest + 1):
        names_of_level = ([name for name in names if name.count(".") <= level] for names in stages.values())
        layers = [names[-1] for names in names_of_level if names]
        if len(layers) >= MANY:
            break
    if not layers:
        raise DataError(f"{network.name} has no layer that everything passes through; name the layers to probe")
    return tuple(layers[place] for place in evenly(len(layers), most))


def _stages(network: Network, pooled: bool) -> dict[int, list[str]]:
    """Map the number of weighted ops so far to the names of module layers through which every path passes there."""
    order = [node for node in network.graph.nodes if node.meta.get("data") and node.op == "call_function"]
    places = {node: place for place, node in enumerate(order)}
    names = {
        layer.node: name
        for name, layer in network.layers.items()
        if not layer.functional and layer.kind != "Sequential"
    }
    stages: dict[int, list[str]] = {}
    weighted, needed = 0, -1  # weighted ops so far; the place up to which an earlier value is still needed
    for place, node in enumerate(order):
        weighted += any(_is_weight(source) for source in node.all_input_nodes)
        if needed <= place and node in names and not _same_values(node) and (pooled or not _derived(node)):
            stages.setdefault(weighted, []).append(names[node])
        needed = max([needed, *(places.get(user, needed) for user in node.users)])
    stages.pop(weighted, None)
    return stages


def _same_values(node: fx.Node) -> bool:
    """Whether the op hands its input's values on, perhaps in another shape."""
    return op_of(node).identity or op_of(node).reshapes


def _derived(node: fx.Node) -> bool:
    """Whether the op's value only repeats or pools those of another layer."""
    op = op_of(node)
    return op.identity or op.averages or op.kind == "max_pool"


def _of_heads(node: fx.Node, network: Network) -> bool:
    """Whether a value of four dimensions is of attention heads: how its numbers lie in the image it does not say.

    Either it is made of the product of two values, as weights of attention and what they weigh are; or it is of tokens
    [N, T, C] whose channels are shared out among heads: T is one of its dimensions, and C is the product of the others.
    """
    source = node
    while not op_of(source).weighted and len(data_inputs(source)) == 1:
        source = data_inputs(source)[0]
    if len(data_inputs(source)) > 1 and getattr(source.target, "overloadpacket", None) in PRODUCTS:
        return True
    if source is node or len(shape_of(source)) != 3 or op_of(source).channels_first:
        return False
    (tokens, channels), sides = shape_of(source)[1:], shape_of(node)[1:]
    shared_out = tokens != channels and tokens in sides and math.prod(sides) == tokens * channels
    return shared_out or not _is_shaped_as_image(node, network)


def _is_shaped_as_image(node: fx.Node, network: Network) -> bool:
    """Whether a value has as many rows for a column as the image has."""
    (rows, columns), (_, height, width) = lengths(node), network.input_shape
    return rows * width == columns * height


def _is_weight(node: fx.Node) -> bool:
    """Whether a node holds a weight (not a bias) or is computed from weights alone."""
    return not node.meta["data"] and node.op in ("get_attr", "call_function") and len(node.meta.get("shape", ())) > 1

"""What a network costs: multiplications and additions, counted from the shapes in the graph."""

from __future__ import annotations

import math

from torch import fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import shape_of

PER_VALUE = 40  # multiplications in the time that another op takes for one value


def multiply_adds(network: Network) -> dict[str, int]:
    """Return how many multiplications, each with an addition, every layer with weights takes for one image.

    A convolution takes (values of its output) * (inputs of a group) * rows * columns, a linear layer (values of its
    output) * inputs. Biases, normalisations, poolings and products of two values, as attention has them, are not
    counted. FLOPs are twice as many.

    Args:
        network: a captured network.

    Returns:
        Name of a layer -> number, in the order of the network; a transposed convolution is counted by its input.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    >>> multiply_adds(capture(model, (3, 8, 8)))  # 4 * 6 * 6 values of 3 * 3 * 3 products; 2 values of 144
    {'0': 3888, '2': 288}
    """
    counts: dict[str, int] = {}
    for node in network.graph.nodes:
        if node.op == "call_function" and node.meta["data"] and op_of(node).weighted:
            name = network.name_of(node) or node.name
            counts[name] = counts.get(name, 0) + _of_one(node)
    return counts


def _of_one(node: fx.Node) -> int:
    source, weight = node.args[:2]
    assert isinstance(source, fx.Node) and isinstance(weight, fx.Node)
    values = source if "transpose" in op_name(node) else node
    return math.prod(shape_of(values)[1:]) * math.prod(shape_of(weight)[1:])


def work(node: fx.Node) -> float:
    """Return what a node costs for a whole image, in multiplications of a convolution."""
    values = math.prod(max(size, 1) for size in shape_of(node)[1:])
    if node.op != "call_function" or op_name(node) not in ("conv2d", "conv_relu"):
        return PER_VALUE * values
    filters = shape_of(node.args[1])  # type: ignore[arg-type]
    return values * (PER_VALUE + math.prod(filters[1:]))

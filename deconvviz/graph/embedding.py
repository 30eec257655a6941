"""Embeddings: a network that ends at a layer, whose value is one vector an image."""

from __future__ import annotations

import torch
from torch import fx

from deconvviz.errors import CaptureError
from deconvviz.graph.ending import embedding_layer, ended
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network
from deconvviz.graph.reach import shape_of

LEAST = 2  # numbers in an embedding: the cosine of two single numbers is 1 or -1, whatever they are


def default_embedding(network: Network) -> str:
    """Return the name of the layer that the classifier reads, whose value is the network's embedding of an image.

    The classifier is the last linear layer or convolution of 1 x 1 pixels.

    Raises:
        CaptureError: the classifier reads the images themselves, or there is none: the network returns its embedding.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> default_embedding(dv.capture(model, (3, 8, 8)))
    '2'
    """
    layer = embedding_layer(network)
    if layer is None:
        raise CaptureError(f"{network.name} has no layer before its classifier; name the layer of the embedding")
    return layer


def embedding_network(network: Network, layer: str) -> Network:
    """Return the part of a network that ends at a layer, and returns one vector for each image.

    Args:
        network: a captured network.
        layer: name of a layer. One with rows and columns is averaged over them, as global pooling does.

    Returns:
        A network with the same layers up to this one, that returns [N, D] for images [N, *input_shape].

    Raises:
        LayerNotFound: the layer does not exist.
        CaptureError: its value is not one vector or one stack of maps an image, or holds a single number.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    >>> embedding = embedding_network(dv.capture(model, (3, 8, 8)), "1")
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.equal(embedding(x), model[:2](x).mean((2, 3)))
    True
    """
    shape = network.layer(layer).shape
    if len(shape) not in (1, 3):
        what = f"a row of tokens, {list(shape)}," if len(shape) == 2 else f"{list(shape)}"
        raise CaptureError(
            f"layer {layer!r} returns {what} for an image; an embedding is one vector: take {_advised(network)}"
        )
    out = network.replaced(network.graph, network.tensors)
    node = out.layer(layer).node
    axis = channel_axis(node)
    count = shape_of(node)[axis]
    if count < LEAST:
        raise CaptureError(
            f"layer {layer!r} returns {count} number for an image; the cosine of an embedding needs {LEAST} or more: "
            f"take {_advised(network)}"
        )
    return ended(out, node if len(shape) == 1 else _averaged(out.graph, node, axis))


def pooled_places(network: Network, layer: str) -> int:
    """Return over how many places `embedding_network` averages a layer's value: 1 where it is a vector.

    Raises:
        LayerNotFound: the layer does not exist.
    """
    _, rows, columns = network.layer(layer).units
    return rows * columns


def _averaged(graph: fx.Graph, node: fx.Node, axis: int) -> fx.Node:
    """Add the mean of maps over their places, behind the node that holds them."""
    shape = shape_of(node)
    places = [each for each in (1, 2, 3) if each != axis]
    with graph.inserting_after(node):
        mean = graph.create_node("call_function", torch.ops.aten.mean.dim, (node, places, False))
    mean.meta = {"shape": (shape[0], shape[axis]), "batched": True, "modules": []}
    return mean


def _advised(network: Network) -> str:
    """Return which layer to take instead, in words."""
    try:
        return f"{default_embedding(network)!r}, which the classifier reads"
    except CaptureError:
        return "a layer whose value is a vector"

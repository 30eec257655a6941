"""A network that ends at one of its layers, and the layer whose value stands for an image: its embedding."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils import _pytree as pytree

from deconvviz.graph.classifier import classifier, classifier_input
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import shape_of


def ending_at(network: Network, layer: str) -> Network:
    """Return the network up to a layer, whose value it returns.

    Args:
        network: a captured network.
        layer: name of the layer.

    Raises:
        LayerNotFound: the layer does not exist.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> network = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 8))
    >>> ending_at(network, "0")(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 8, 6, 6])
    """
    copy = network.replaced(network.graph, network.tensors)
    return ended(copy, copy.layer(layer).node)


def ended(network: Network, node: fx.Node) -> Network:
    """Return a network that returns the value of a node [N, ...], without what that does not need.

    The network that is given is used up: its graph is changed.
    """
    graph = network.graph
    graph.erase_node(network.output)
    graph.output([node])
    graph.eliminate_dead_code()
    used = {str(each.target) for each in graph.nodes if each.op == "get_attr"}
    out = network.replaced(graph, {name: tensor for name, tensor in network.tensors.items() if name in used})
    out.out_spec, out.outputs_are = pytree.tree_structure(torch.empty(0)), "auto"
    out.example = torch.zeros(2, *shape_of(node)[1:], device=network.device, dtype=network.dtype)
    return out


def embedding_layer(network: Network) -> str | None:
    """Return the layer whose value stands for an image: what the classifier reads. None where that is the output.

    The classifier is the last op with weights, where that is a linear layer or a convolution of 1 x 1 pixels; a network
    that ends in another convolution has none, and returns its embedding.

    Source: the last layer before the classifier, as in Sammani et al. 2022, arXiv 2206.09753; how it is found is ours.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> features = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    >>> models = [nn.Sequential(*features), nn.Sequential(*features, nn.Linear(8, 2))]
    >>> [embedding_layer(capture(model, (3, 8, 8))) for model in models]
    [None, '1']
    """
    last = classifier(network)
    if last is None:
        return None
    if op_name(last) in ("conv2d", "convolution", "_convolution"):
        weight = next((n for n in last.all_input_nodes if n.op == "get_attr"), None)
        if weight is None or tuple(network.tensors[str(weight.target)].shape[2:]) != (1, 1):
            return None
    return classifier_input(network)

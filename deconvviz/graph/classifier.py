"""The end of a network: its classifier, the layer that this reads, and the linear map from there to the scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from deconvviz.errors import CaptureError, LayerNotFound
from deconvviz.graph.layers import as_value
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import data_inputs, shape_of
from deconvviz.graph.scores import ENDS
from deconvviz.graph.steps import make_plan

TOLERANCE = 1e-3  # of the largest score: rounding of float32
LARGEST = 50_000_000  # numbers of a linear map, at most: above, a layer holds maps, not a vector


@dataclass(frozen=True)
class LinearEnd:
    """The linear map from a layer to the scores in front of the softmax: scores = weight a + bias.

    Attributes:
        layer: name of the layer; its channels, rows and columns in one row are a.
        weight: float64 [C, D], for C classes and D values of the layer.
        bias: float64 [C].
    """

    layer: str
    weight: Tensor
    bias: Tensor


def logits_of(network: Network) -> fx.Node:
    """Return the node of the scores in front of a final softmax or sigmoid, behind ops that only move values.

    Raises:
        CaptureError: the network returns no scores of classes.
    """
    node = network.score_node
    while node.op == "call_function":
        sources, op = data_inputs(node), op_of(node)
        if op_name(node) in ENDS:
            return sources[0]
        if len(sources) != 1 or not (op.identity or op.reshapes):
            break
        node = sources[0]
    return network.score_node


def last_weights(network: Network) -> Tensor:
    """Return the weights of the last convolution or linear layer, a row for each score: float64 [width, D], on the CPU.

    Raises:
        CaptureError: the network returns no scores, or they do not come from a convolution or linear layer with one
            filter for each.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    >>> last_weights(dv.capture(model, (3, 8, 8))).shape
    torch.Size([5, 3])
    """
    node = _last_weighted(network)
    weight = network.constant(node.args[1]) if isinstance(node.args[1], fx.Node) else None
    if weight is None or len(weight) != network.width:
        filters = "weights that depend on the image" if weight is None else f"{len(weight)} filters"
        raise CaptureError(
            f"the last layer of {network.name} has {filters}, for {network.width} scores; expected a row of weights "
            "for each score"
        )
    return weight.detach().double().flatten(1).cpu()


def is_weighted(node: fx.Node) -> bool:
    """Return whether a node is a convolution or linear map of the images' values."""
    return node.op == "call_function" and node.meta["data"] and op_of(node).weighted


def classifier(network: Network) -> fx.Node | None:
    """Return the last op with weights, whatever follows from it; None where there is none."""
    return next((node for node in reversed(network.graph.nodes) if is_weighted(node)), None)


def classifier_input(network: Network) -> str | None:
    """Return the name of the layer that the classifier reads, the last convolution or linear layer; None for images.

    What only repeats a value, or lays one that has a single place out as a vector, is passed over; maps that are laid
    out as a vector are not.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, 2)).eval()
    >>> classifier_input(dv.capture(model, (3, 4, 4)))
    '2'
    """
    last = classifier(network)
    return None if last is None else _named_input(network, last, _lays_out_one_place)


def values_for_scores(network: Network) -> str:
    """Return the name of the layer whose values become scores by the last convolution or linear layer.

    Maps that are laid out as a vector are named, and not the vector.

    Raises:
        CaptureError: the network returns no scores, or has no convolution and no linear layer.
        LayerNotFound: the classifier reads the image itself.

    >>> import deconvviz as dv
    >>> values_for_scores(dv.capture(dv.zfnet(classes=4, input_size=32, width=0.1), (3, 32, 32)))
    'relu7'
    """
    name = _named_input(network, _last_weighted(network), lambda node: op_of(node).reshapes)
    if name is None:
        raise LayerNotFound(f"the classifier of {network.name} reads the image itself; no layer comes before it")
    return name


def _named_input(network: Network, node: fx.Node, reshaped: Callable[[fx.Node], bool]) -> str | None:
    """Return the name of the layer that an op reads, past what only repeats or is `reshaped`; None for images."""
    source, names = data_inputs(node)[0], network.names
    while source is not network.image and (op_of(source).identity or reshaped(source) or source not in names):
        source = data_inputs(source)[0]
    return None if source is network.image else names[source]


def _lays_out_one_place(node: fx.Node) -> bool:
    """Whether the op reshapes a value of one place or of none: it holds one vector before and after."""
    before = shape_of(data_inputs(node)[0])
    return op_of(node).reshapes and (len(before) < 3 or (len(before) == 4 and before[2] * before[3] == 1))


def linear_end(network: Network, layer: str) -> LinearEnd:
    """Return the linear map from a layer to the scores in front of the softmax.

    It is read off the network: the scores of zeros are the bias, and their gradients the weights. Whether they are
    linear is tried on random values.

    Raises:
        LayerNotFound: the layer does not exist.
        CaptureError: the scores are not of classes that exclude each other, do not follow from the layer alone, or are
            not linear in it.

    >>> import deconvviz as dv
    >>> model = dv.zfnet(classes=4, input_size=32, width=0.1).eval()
    >>> end = linear_end(dv.capture(model, (3, 32, 32)), "relu7")
    >>> torch.allclose(end.weight, model.fc8.weight.double(), atol=1e-6)
    True
    """
    node, logits = network.layer(layer).node, logits_of(network)
    if network.readout.kind in ("sigmoid", "independent"):
        raise CaptureError(f"the scores of {network.name} are of labels that may hold together, not of classes")
    steps = make_plan(network.graph, frozenset({node, network.batch_size}), [logits]).steps
    if any(network.image in step.all_input_nodes for step in steps):
        raise CaptureError(f"the scores of {network.name} do not follow from {layer!r} alone")
    units = network.layer(layer).units
    values = units[0] * units[1] * units[2]

    def scores(rows: Tensor) -> Tensor:
        value = as_value(node, rows.reshape(-1, *units))
        values_by_node: dict[fx.Node, Tensor] = network.run({node: value}, [logits], len(rows))
        return values_by_node[logits].flatten(1)

    if not _additive(scores, values, network):
        raise CaptureError(f"the scores of {network.name} are not linear in {layer!r}")
    if network.outputs * values > LARGEST:
        raise CaptureError(f"{layer!r} has {values} values for each of {network.outputs} scores: too many to weigh")
    with torch.inference_mode(False), torch.enable_grad():
        zeros = torch.zeros(network.outputs, values, device=network.device, dtype=network.dtype, requires_grad=True)
        at_zero = scores(zeros)
        (weight,) = torch.autograd.grad(at_zero.diagonal().sum(), zeros)
    return LinearEnd(layer, weight.detach().double(), at_zero[0].detach().double())


def _additive(scores: Callable[[Tensor], Tensor], values: int, network: Network) -> bool:
    """Return whether scores(a + b) - scores(0) = scores(a) - scores(0) + scores(b) - scores(0), for random a and b."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, values, generator=generator).to(network.device, network.dtype)
    with torch.no_grad():
        both = scores(first + second) + scores(torch.zeros_like(first))
        apart = scores(first) + scores(second)
    return bool((both - apart).abs().max() <= TOLERANCE * both.abs().max())


def _last_weighted(network: Network) -> fx.Node:
    node = logits_of(network)
    while node is not network.image and not op_of(node).weighted:
        node = data_inputs(node)[0]
    if node is network.image:
        raise CaptureError(f"{network.name} has no convolution and no linear layer")
    return node

"""Excitation backpropagation: one more policy for a signal that goes back through the graph.

The signal is a probability: that a neuron wins when winners are drawn from the output downwards. Each neuron draws
among its inputs a_j in proportion to a_j w_j where the weight is positive; biases and negative values win nothing.
Zhang et al. 2016, arXiv 1608.00507, equations 4 to 6. It is LRP's z+ rule without biases, at linear layers too, and
started with 1. The other ops are those of `relevance`: sums and means share by what their parts contribute, as in the
released code (from memory of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, fx

from deconvviz.deconv.relevance import LRP
from deconvviz.errors import ProjectionError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import Call, op_name, op_of


@dataclass(frozen=True)
class Excitation(LRP):
    """How the probability of winning goes back; the attributes are those of LRP."""

    epsilon: float = 1e-12
    normalisation: Literal["epsilon", "pass"] = "pass"

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the probability of each data input of one call, from that of its output."""
        name = op_name(call.node)
        if name not in ("conv2d", "linear", "add") and not op_of(call.node).averages:
            return super().transpose(call, signal)
        inputs = [value.clamp(min=0) for value in call.inputs]
        excited = replace(call, args=_excited(call, inputs), inputs=inputs, out=None)
        return self._shared(excited, signal)


def _excited(call: Call, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    """Return the arguments of a call with other data inputs, its positive weights alone, and no bias."""
    by_input = {id(old): new for old, new in zip(call.inputs, inputs, strict=True)}
    arguments = [by_input.get(id(argument), argument) for argument in call.args]
    if op_of(call.node).weighted:
        arguments[1:3] = [call.args[1].clamp(min=0), None]
    return tuple(arguments)


_CONTRASTS: WeakKeyDictionary[Network, Network] = WeakKeyDictionary()


def with_negated_classifier(network: Network) -> Network:
    """Return the network whose last layer with weights has them negated, and its bias: what speaks against a class.

    Raises:
        ProjectionError: no layer has weights, or others have the same ones.
    """
    if network not in _CONTRASTS:
        weighted = [node for node in network.graph.nodes if node.op == "call_function" and op_of(node).weighted]
        own = [node for node in (weighted[-1].args[1:3] if weighted else ()) if isinstance(node, fx.Node)]
        names = {str(node.target) for node in own if node.op == "get_attr"}
        readers = [node for node in network.graph.nodes for each in node.all_input_nodes if str(each.target) in names]
        if len(names) != len(own) or not names or set(readers) != {weighted[-1]}:
            raise ProjectionError(f"the last layer of {network.name} has no weights of its own that could be negated")
        tensors = {name: -tensor if name in names else tensor for name, tensor in network.tensors.items()}
        _CONTRASTS[network] = network.replaced(network.graph, tensors)
    return _CONTRASTS[network]

"""Who reads the channels of a layer: what has to go with a channel that is taken out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import Op, final_value, op_name, op_of
from deconvviz.graph.reach import data_inputs, shape_of
from deconvviz.studies.diagnosis.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Readers:
    """Who reads the channels of a layer.

    Attributes:
        depthwise: names of the depthwise layers that read them, by their final values: each of their filters reads one
            of the channels alone, so that it goes with the channel.
        others: names of the other convolutions and linear layers that read them: a filter of theirs reads all channels.
        mixed: whether the channels are also added to those of another layer, multiplied with them, or returned by the
            network, so that none of them can be taken out by itself.
    """

    depthwise: tuple[str, ...]
    others: tuple[str, ...]
    mixed: bool


def readers_of(network: Network, layer: str) -> Readers:
    """Return who reads the channels of a layer; rectifiers, poolings, joins along the channels and views are passed.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    >>> network = capture(model.eval(), (3, 9, 9))
    >>> readers_of(network, "1")
    Readers(depthwise=('2',), others=(), mixed=False)
    >>> readers_of(network, "2").others
    ('3',)
    """
    depthwise: list[str] = []
    others: list[str] = []
    mixed = False
    for node in _reading(network.layer(layer).node):
        if node.op == "call_function" and op_of(node).weighted:
            named = network.names.get(final_value(node)) or network.names.get(node) or node.name
            (depthwise if _is_depthwise(node) else others).append(named)
        else:
            mixed = True
    return Readers(depthwise=tuple(dict.fromkeys(depthwise)), others=tuple(dict.fromkeys(others)), mixed=mixed)


def constant_by_input(subject: Subject, layer: str) -> tuple[str, NDArray[np.bool_]]:
    """Return which filters of a depthwise layer are constant because the one channel that they read is.

    Returns:
        The layer whose channels it reads, among those that are looked at, "" where there is none; and bool [channels],
        all False where the layer is not depthwise or nothing is known about what it reads.
    """
    constant = subject.responses[layer].constant
    by_node = {subject.network.layer(name).node: name for name in subject.layers}
    node = subject.network.layer(layer).node if subject.depthwise(layer) else None
    while node is not None and not op_of(node).weighted:
        node = data_inputs(node)[0]
    node = None if node is None else data_inputs(node)[0]
    while node is not None and node not in by_node:
        node = data_inputs(node)[0] if node.op == "call_function" and _hands_on(op_of(node)) else None
    if node is None:
        return "", np.zeros_like(constant)
    source = by_node[node]
    read = subject.responses[source].constant
    return source, constant & np.repeat(read, len(constant) // len(read))


def _reading(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the first ops that do something else with a value's channels than to hand them on one by one."""
    for reader in node.users:
        if not reader.meta.get("data", True) or reader.op not in ("call_function", "output"):
            continue
        op = op_of(reader) if reader.op == "call_function" else None
        if op is not None and (_hands_on(op) or op.averages or op.reshapes or op_name(reader) == "cat"):
            yield from _reading(reader)
        else:
            yield reader


def _hands_on(op: Op) -> bool:
    """Return whether each channel of an op's result comes from the channel of the same number."""
    return op.passes_channels or op.pads


def _is_depthwise(node: fx.Node) -> bool:
    """Return whether each filter of a convolution or linear layer reads one channel of several."""
    groups = node.args[6] if op_name(node) == "conv2d" else 1
    weight = node.args[1]
    return isinstance(groups, int) and groups > 1 and isinstance(weight, fx.Node) and shape_of(weight)[1] == 1

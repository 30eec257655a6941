"""What a network is built of, as far as advice depends on it: nothing is recommended that it has already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import data_inputs, pair, shape_of

FAR = 1000.0  # a value far from 0: what a rectifier does there it does all the way


@dataclass(frozen=True, kw_only=True)
class Rectifier:
    """What a rectifier does far from zero.

    Attributes:
        flat_below: it returns the same for all values far below zero, so that no gradient passes.
        flat_above: it returns the same for all values far above zero: it clips.
    """

    flat_below: bool
    flat_above: bool


class Build:
    """What a network is built of.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 2, 3, dilation=2))
    >>> build = Build(capture(model.eval(), (3, 32, 32)))
    >>> build.standardised, build.dilated, build.joined, build.rectifier("2")
    (True, True, False, Rectifier(flat_below=True, flat_above=True))
    """

    def __init__(self, network: Network) -> None:
        """Look at a captured network."""
        self.network = network
        self._ops = [node for node in network.graph.nodes if node.op == "call_function" and node.meta["data"]]

    @cached_property
    def standardised(self) -> bool:
        """Whether it has BatchNorm or another normalisation to mean 0 and deviation 1."""
        return any(op_of(node).standardises for node in self._ops)

    @cached_property
    def joined(self) -> bool:
        """Whether values of several layers are joined, as behind a skip connection."""
        return any(len({*data_inputs(node)}) > 1 for node in self._ops)

    @cached_property
    def dilated(self) -> bool:
        """Whether a convolution is dilated."""
        return any(op_name(node) == "conv2d" and max(pair(node.args[5])) > 1 for node in self._ops)

    def strided_before(self, layer: str) -> bool:
        """Return whether a convolution or pooling that is computed before a layer has a stride of more than 1."""
        order = {node: place for place, node in enumerate(self.network.graph.nodes)}
        end = order[self.network.layer(layer).node]
        return any(max(stride_of(node)) > 1 and order[node] < end for node in self._ops)

    def rectifier(self, layer: str) -> Rectifier | None:
        """Return what the rectifier behind a layer's value does far from zero; None where there is no rectifier."""
        node = self.network.layer(layer).node
        while op_of(node).kind != "rectifier":
            if not op_of(node).passes_channels:
                return None
            node = data_inputs(node)[0]
        source, shape = data_inputs(node)[0], shape_of(node)[1:]
        far = []
        for value in (-2 * FAR, -FAR, FAR, 2 * FAR):
            x = torch.full((1, *shape), value, device=self.network.device, dtype=self.network.dtype)
            far.append(self.network.run({source: x}, [node], 1)[node])
        return Rectifier(flat_below=torch.equal(far[0], far[1]), flat_above=torch.equal(far[2], far[3]))


def stride_of(node: fx.Node) -> tuple[int, int]:
    """Return the stride of an op, (rows, columns); (1, 1) where it has none."""
    place = op_of(node).stride_argument
    if place is None:
        return 1, 1
    return pair(node.args[place] or node.args[1])  # a pooling without a stride steps by its window


def window_of(node: fx.Node) -> tuple[int, int]:
    """Return how many positions a convolution or pooling reads, (rows, columns)."""
    if op_of(node).weighted:
        rows, columns = shape_of(node.args[1])[2:]  # type: ignore[arg-type]
        return rows, columns
    return pair(node.args[1])


def either(options: list[str]) -> str:
    """Return options as one sentence that begins with a capital letter; empty for none.

    >>> either(["train longer", "", "use fewer filters"])
    'Train longer, or use fewer filters.'
    """
    named = [option for option in options if option]
    text = ", ".join(named[:-1]) + (", or " if len(named) > 1 else "") + (named[-1] if named else "")
    return f"{text[:1].upper()}{text[1:]}." if text else ""

"""Layers taken out of a trained network, one at a time: which of them it does as well without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from deconvviz.graph.choose import by_depth
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import data_inputs, shape_of
from deconvviz.graph.steps import crossing, make_plan
from deconvviz.metrics.intervals import paired_interval
from deconvviz.studies.diagnosis.subject import Subject


@dataclass(frozen=True)
class Removable:
    """A layer that can be left out: `bypassed` by what it reads, or silenced beside branches that pass it by.

    source: the node whose value takes its place; None where zeros do. parameters: how many it has.
    """

    layer: str
    source: fx.Node | None
    parameters: int

    @property
    def how(self) -> str:
        return "its input handed on in its place" if self.source is not None else "its branch set to zero"


@dataclass(frozen=True)
class Removal:
    """What leaving a layer out did.

    Attributes:
        part: which, and how.
        lost, gained: images that are right before only, and after only; of images without classes "right" is what the
            intact network says.
        images: how many there were.
    """

    part: Removable
    lost: int
    gained: int
    images: int

    @property
    def drop(self) -> float:
        """Loss of accuracy, in parts of the images."""
        return (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the drop; see `paired_interval`."""
        low, high = paired_interval(np.asarray(self.lost), np.asarray(self.gained), self.images).tolist()
        return low, high


def removable_layers(network: Network) -> tuple[Removable, ...]:
    """Return the layers with weights that a network still runs without, in the order of computation.

    A module, but a container, whose value has the shape of the one value that it reads is bypassed: a residual block, a
    convolution of as many maps. Of what is left, a convolution or linear layer that others pass by is silenced.
    """
    blocks: dict[fx.Node, tuple[Removable, set[fx.Node]]] = {}
    for name, layer in network.layers.items():
        nodes = _members(network, name)
        source = _source(nodes)
        if layer.kind == "Sequential" or source in (None, network.image) or not any(map(_weighted, nodes)):
            continue
        if source is not None and shape_of(source)[1:] == layer.shape:
            blocks.setdefault(layer.node, (Removable(name, source, layer.parameters), nodes))
    outer = [part for part, nodes in blocks.values() if not any(nodes < other for _, other in blocks.values())]
    inside = {node for _, nodes in blocks.values() for node in nodes}
    named = [network.layer(name) for name in by_depth(network)[:-1]]
    beside = [
        Removable(layer.name, None, _parameters(network, layer.node))
        for layer in named
        if layer.node not in inside and _passed_by(network, layer.node)
    ]
    order = {node: place for place, node in enumerate(network.graph.nodes)}
    return tuple(sorted([*outer, *beside], key=lambda part: order[network.layer(part.layer).node]))


def removals(subject: Subject, parts: Sequence[Removable], places: NDArray[np.int64]) -> tuple[Removal, ...]:
    """Leave each layer out in turn and count the images that are lost and gained.

    An image of known class is right where its output is the largest, of equal ones the first; where no class is known,
    right is what the intact network says, and a loss is a change of mind.
    """
    network, targets = subject.network, subject.targets[places]
    if (targets >= 0).any():
        places, targets = places[targets >= 0], targets[targets >= 0]
    lost, gained = np.zeros(len(parts), np.int64), np.zeros(len(parts), np.int64)
    surgery, place = _Surgery(network, parts), 0
    with torch.inference_mode():
        for rows, x in subject.batches(places):
            wanted = torch.from_numpy(targets[place : place + len(rows)]).to(x.device)
            place += len(rows)
            intact, *others = (scores.argmax(1) for scores in surgery(x))
            wanted = torch.where(wanted < 0, intact, wanted)
            before = intact == wanted
            for n, other in enumerate(others):
                lost[n] += int((before & (other != wanted)).sum())
                gained[n] += int((~before & (other == wanted)).sum())
    return tuple(Removal(p, int(a), int(b), len(places)) for p, a, b in zip(parts, lost, gained, strict=True))


class _Surgery:
    """Runs a network once as it is, and once without each layer; what comes before a layer runs once for all."""

    def __init__(self, network: Network, parts: Sequence[Removable]) -> None:
        self.network, self.parts = network, parts
        (self.output,) = network.output.all_input_nodes
        self.nodes = [network.layer(part.layer).node for part in parts]
        self.beside = [self._beside(node) for node in self.nodes]

    def _beside(self, node: fx.Node) -> list[fx.Node]:
        """The values that pass a node by on their way to the output."""
        known = frozenset({node, self.network.image, self.network.batch_size})
        return crossing(self.network.graph, node, make_plan(self.network.graph, known, [self.output]), [self.output])

    def __call__(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the scores for images x: of the intact network, and without each of the layers."""
        sources = [part.source for part in self.parts if part.source is not None]
        kept = [*dict.fromkeys([self.output, *sources, *(node for nodes in self.beside for node in nodes)])]
        values = self.network.run({self.network.image: x}, kept, len(x))
        yield values[self.output]
        for part, node, beside in zip(self.parts, self.nodes, self.beside, strict=True):
            known = {other: values[other] for other in beside}
            empty = x.new_zeros(len(x), *self.network.layer(part.layer).shape)
            known[node] = empty if part.source is None else values[part.source]
            yield self.network.run(known, [self.output], len(x))[self.output]


def _members(network: Network, name: str) -> set[fx.Node]:
    return {
        node
        for node in network.graph.nodes
        if node.op == "call_function" and any(call == name for call, *_ in node.meta.get("modules", ()))
    }


def _source(nodes: set[fx.Node]) -> fx.Node | None:
    """Return the one value from outside that these nodes read, None where there are several."""
    read = {source for node in nodes for source in data_inputs(node) if source not in nodes}
    return next(iter(read)) if len(read) == 1 else None


def _weighted(node: fx.Node) -> bool:
    return op_name(node).startswith(("conv", "linear"))


def _passed_by(network: Network, node: fx.Node) -> bool:
    """Return whether the output depends on the image by ways around this node too."""
    reached, waiting = set[fx.Node](), [network.output]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source is not node and source not in reached and source.meta["data"]:
                reached.add(source)
                waiting.append(source)
    return network.image in reached


def _parameters(network: Network, node: fx.Node) -> int:
    """Count the weights of a convolution or linear layer and of the BatchNorm after it, from its final value."""
    return sum(_counted(network, chained) for chained in _chain(node))


def _chain(node: fx.Node) -> Iterator[fx.Node]:
    while True:
        yield node
        below = data_inputs(node)
        if any(n.op == "get_attr" and len(shape_of(n)) > 1 for n in node.all_input_nodes) or len(below) != 1:
            return
        node = below[0]


def _counted(network: Network, node: fx.Node) -> int:
    return sum(network.tensors[str(n.target)].numel() for n in node.all_input_nodes if n.op == "get_attr")

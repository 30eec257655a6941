"""Layers left out of a trained network, one at a time: which of them it does not need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.graph.choose import by_depth
from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value, op_of
from deconvviz.graph.reach import data_inputs, shape_of
from deconvviz.graph.steps import crossing, make_plan
from deconvviz.metrics.intervals import paired_interval
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Ints


@dataclass(frozen=True, kw_only=True)
class Removable:
    """A layer that a network still runs without.

    Attributes:
        layer: name of the layer.
        source: the node whose value replaces the layer's, which is then bypassed; None where zeros do.
        parameters: number of parameters of the layer.
    """

    layer: str
    source: fx.Node | None
    parameters: int

    @property
    def how(self) -> str:
        """How the layer is left out, in words."""
        return "its input is passed on instead" if self.source is not None else "its branch is set to zero"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What leaving out a layer did to the network's decisions.

    An image counts as right where it is classified correctly; where no class is known, where the network decides as it
    did before.

    Attributes:
        part: which layer was left out, and how.
        lost: images that are right only with the layer.
        gained: images that are right only without it.
        images: number of images.
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
        """The 95 % interval of the loss of accuracy, in parts of the images; see `paired_interval`."""
        low, high = paired_interval(np.asarray(self.lost), np.asarray(self.gained), self.images).tolist()
        return low, high


def removable_layers(network: Network) -> tuple[Removable, ...]:
    """Return the layers with weights that a network still runs without, in the order of computation.

    A module (other than a container) whose value has the shape of the one value that it reads can be bypassed, such as
    a residual block, or a convolution of as many maps as it reads. Of the other layers, a convolution or linear layer
    can be set to zero where the output depends on the image by other ways too.
    """
    blocks: dict[fx.Node, tuple[Removable, set[fx.Node]]] = {}
    for name, layer in network.layers.items():
        nodes = _members(network, name)
        source = _source(nodes)
        if (
            layer.kind == "Sequential"
            or source in (None, network.image)
            or not any(op_of(node).weighted for node in nodes)
        ):
            continue
        if source is not None and shape_of(source)[1:] == layer.shape:
            part = Removable(layer=name, source=source, parameters=layer.parameters)
            blocks.setdefault(layer.node, (part, nodes))
    outermost = [part for part, nodes in blocks.values() if not any(nodes < other for _, other in blocks.values())]
    bypassed = {node for _, nodes in blocks.values() for node in nodes}
    bypassed |= {final_value(node) for node in bypassed}  # with its BatchNorm and rectifier an op is the same layer
    branches = [
        Removable(layer=layer.name, source=None, parameters=_parameters(network, layer.node))
        for layer in map(network.layer, by_depth(network)[:-1])
        if layer.node not in bypassed and _passed_by(network, layer.node)
    ]
    order = {node: place for place, node in enumerate(network.graph.nodes)}
    return tuple(sorted([*outermost, *branches], key=lambda part: order[network.layer(part.layer).node]))


def removals(subject: Subject, parts: Sequence[Removable], places: Ints) -> tuple[Removal, ...]:
    """Leave each layer out in turn, and count the images that are lost and gained.

    Args:
        subject: a network that returns one score for each class, and images.
        parts: the layers, from `removable_layers`.
        places: the images, int64. Where the class of some of them is known, only those are used. Of equal scores the
            first one decides.
    """
    network, targets = subject.network, subject.targets[places]
    if (targets >= 0).any():
        places, targets = places[targets >= 0], targets[targets >= 0]
    lost, gained = np.zeros(len(parts), np.int64), np.zeros(len(parts), np.int64)
    run_all, start = _WithoutEach(network, parts), 0
    bar = subject.options.bar("image", len(places), "without layers")
    with bar, torch.inference_mode():
        for batch, x in subject.batches(places):
            answers = torch.from_numpy(targets[start : start + len(batch)]).to(x.device)
            start += len(batch)
            intact, *others = (scores.argmax(1) for scores in run_all(x))
            answers = torch.where(answers < 0, intact, answers)
            right = intact == answers
            for n, decision in enumerate(others):
                lost[n] += int((right & (decision != answers)).sum())
                gained[n] += int((~right & (decision == answers)).sum())
            bar.update(len(batch))
    return tuple(
        Removal(part=part, lost=int(a), gained=int(b), images=len(places))
        for part, a, b in zip(parts, lost, gained, strict=True)
    )


class _WithoutEach:
    """Runs a network once as it is and once without each of some layers; what comes before a layer runs only once."""

    def __init__(self, network: Network, parts: Sequence[Removable]) -> None:
        self.network, self.parts = network, parts
        self.output = network.score_node
        self.nodes = [network.layer(part.layer).node for part in parts]
        self.beside = [self._beside(node) for node in self.nodes]

    def _beside(self, node: fx.Node) -> list[fx.Node]:
        """Return the values that pass a node by on their way to the output."""
        start = frozenset({node, self.network.image, self.network.batch_size})
        return crossing(self.network.graph, node, make_plan(self.network.graph, start, [self.output]), [self.output])

    def __call__(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the scores for images x: those of the intact network, then those without each layer."""
        sources = [part.source for part in self.parts if part.source is not None]
        needed = [*dict.fromkeys([self.output, *sources, *(node for nodes in self.beside for node in nodes)])]
        values = self.network.run({self.network.image: x}, needed, len(x))
        yield self._scores(values[self.output])
        for part, node, beside in zip(self.parts, self.nodes, self.beside, strict=True):
            start = {other: values[other] for other in beside}
            zeros = x.new_zeros(len(x), *self.network.layer(part.layer).shape)
            start[node] = zeros if part.source is None else values[part.source]
            yield self._scores(self.network.run(start, [self.output], len(x))[self.output])

    def _scores(self, value: Tensor) -> Tensor:
        return dataclasses.replace(self.network.readout, name=None).scores(value)


def _members(network: Network, name: str) -> set[fx.Node]:
    """Return the ops that a module calls."""
    return {
        node
        for node in network.graph.nodes
        if node.op == "call_function" and any(call == name for call, *_ in node.meta.get("modules", ()))
    }


def _source(nodes: set[fx.Node]) -> fx.Node | None:
    """Return the one value from outside that these ops read; None where there are several."""
    sources = {source for node in nodes for source in data_inputs(node) if source not in nodes}
    return next(iter(sources)) if len(sources) == 1 else None


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
    """Count the parameters of a convolution or linear layer and of the BatchNorm after it, from its final value."""
    return sum(_counted(network, op) for op in _ops_down_to_weights(node))


def _ops_down_to_weights(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the ops from a final value down to the convolution or linear layer that it comes from."""
    while True:
        yield node
        inputs = data_inputs(node)
        if any(len(shape_of(n)) > 1 for n in _constants(node)) or len(inputs) != 1:
            return
        node = inputs[0]


def _counted(network: Network, node: fx.Node) -> int:
    return sum(math.prod(shape_of(n)) for n in _constants(node))


def _constants(node: fx.Node) -> list[fx.Node]:
    """Return the weights that an op reads, also those that are computed, as of a pruned layer."""
    return [n for n in node.all_input_nodes if not n.meta["data"] and "shape" in n.meta]

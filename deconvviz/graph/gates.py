"""A network with a factor at every unit: 1 leaves it as it is, 0 takes it away as if it had been pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.graph.channels import ChannelGroups
from deconvviz.graph.network import Network


class GatedNetwork:
    """A network whose units are multiplied by factors, for all images alike or for each image by itself.

    The factors stand behind every filter and every normalisation of a channel, and before a filter that reads what is
    not zero for zero, as the value of a sigmoid. With factors 0 and 1 the network computes what it computes with the
    units pruned. A factor in between counts once at each of these places.

    Attributes:
        network: the network as it was given.
        groups: name of each gated group -> its number of units.

    Source: ours.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> from deconvviz.graph.channels import channel_groups
    >>> network = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), (3, 8, 8))
    >>> gated = GatedNetwork(network, channel_groups(network), ["0"])
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.equal(gated(x, {"0": torch.ones(4)}), network(x))
    True
    """

    def __init__(self, network: Network, groups: ChannelGroups, names: Sequence[str]) -> None:
        """Put the factors into a copy of the graph.

        Args:
            network: a captured network.
            groups: as `channel_groups` returns them for it.
            names: of the groups that get factors.

        Raises:
            PruningError: the channels of a group cannot be taken out.
        """
        self.network = network
        self.groups = {name: groups.slim(name).units for name in names}
        copied = network.replaced(network.graph, network.tensors)
        index: dict[str, dict[str, Tensor]] = {}  # name of a placeholder of factors -> group -> unit at each place
        for node in list(copied.graph.nodes):
            units = {name: each for name, each in groups.nodes.get(node.name, {}).items() if name in self.groups}
            if units:
                factors = _with_factors(copied.graph, node)
                index[factors.name] = {n: torch.from_numpy(each).to(network.device) for n, each in units.items()}
        self._gated = copied.replaced(copied.graph, network.tensors)
        placed = {node.name: node for node in self._gated.graph.nodes}
        self._index = {placed[name]: units for name, units in index.items()}

    def __call__(self, x: Tensor, factors: Mapping[str, Tensor], layers: Sequence[str] = ()) -> Any:
        """Return what the network returns with these factors.

        Args:
            x: images [N, C, h, w], as the network takes them.
            factors: name of a group -> [units] for all images, or [N, units]; groups that are not named have factor 1.
                Gradients go through them.
            layers: names of layers whose values are returned too.

        Returns:
            The output; with `layers` a pair of name -> value and the output.
        """
        values_given: dict[fx.Node, Any] = {self._gated.image: x}
        for node, index in self._index.items():
            values_given[node] = self._factors(index, factors, x)
        nodes = {name: self._gated.layer(name).node for name in layers}
        outputs = self._gated.output_nodes()
        values = self._gated.run(values_given, [*nodes.values(), *outputs], x.shape[0])
        output = self._gated.packed(values)
        return ({name: values[node] for name, node in nodes.items()}, output) if layers else output

    def behind(self, x: Tensor, name: str) -> Callable[[Tensor], Any]:
        """Return the network's output as a function of the factors of one group; what they do not touch runs once.

        Args:
            x: images [N, C, h, w], as the network takes them.
            name: of the group.

        Returns:
            A function that takes factors [units] or [N, units] and returns what the network returns for x. All other
            factors are 1.
        """
        gated, outputs = self._gated, self._gated.output_nodes()
        values_given: dict[fx.Node, Any] = {gated.image: x} | {node: self._factors({}, {}, x) for node in self._index}
        own_nodes = {node for node, units in self._index.items() if name in units}
        touched = set(own_nodes)
        for node in gated.graph.nodes:
            if not touched.isdisjoint(node.all_input_nodes):
                touched.add(node)
        read = [node for each in gated.graph.nodes if each in touched for node in each.all_input_nodes]
        kept_nodes = [
            node for node in dict.fromkeys([*read, *outputs]) if node not in touched and node.op == "call_function"
        ]
        values = gated.run(values_given, kept_nodes, x.shape[0])
        values_given |= {node: values[node] for node in kept_nodes}

        def output(factors: Tensor) -> Any:
            changed = {node: self._factors(self._index[node], {name: factors}, x) for node in own_nodes}
            return gated.packed(gated.run(values_given | changed, outputs, x.shape[0]))

        return output

    def _factors(self, index: Mapping[str, Tensor], factors: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the factors of one node [1 or N, ...], which are broadcast over positions."""
        total: Tensor | None = None
        for name, units in index.items():
            if name not in factors:
                continue
            each = factors[name].reshape(-1, self.groups[name]).to(x)
            of_units = each[:, units.clamp(min=0).flatten()].reshape(-1, *units.shape)
            of_units = torch.where(units >= 0, of_units, torch.ones_like(of_units))
            total = of_units if total is None else total * of_units
        return torch.ones(1, device=x.device, dtype=x.dtype) if total is None else total


def _with_factors(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Multiply a value by factors, which are given from outside, and return their placeholder."""
    with graph.inserting_after(node):
        factors = graph.placeholder(f"{node.name}_factors")
    with graph.inserting_after(factors):
        product = graph.call_function(torch.ops.aten.mul.Tensor, (node, factors))
    product.meta = dict(node.meta)
    factors.meta = {"shape": (1,) * len(node.meta["shape"]), "data": False}
    node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
    return factors

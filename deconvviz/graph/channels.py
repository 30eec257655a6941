"""Which channels of a network go together, and which numbers of which tensors belong to each of them.

Every channel that a filter makes gets a number. The numbers are followed through the graph: a sum ties the channels of
both sides, a depthwise convolution those of its input and output, a grouped one whole groups; a normalisation, and the
filters that read a channel, have numbers of their own for it. What an op mixes or counts cannot be taken away: the op
is noted as what stops it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from deconvviz.errors import LayerNotFound, PruningError, nearest
from deconvviz.graph.channel_labels import Follower, follow
from deconvviz.graph.network import Network
from deconvviz.types import Ints, Mask


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The numbers of one tensor along one dimension, and to which unit of a group each belongs.

    Attributes:
        tensor: its name.
        axis: the dimension.
        units: int64 [length of the dimension], the unit; -1 where it belongs to none of this group.
    """

    tensor: str
    axis: int
    units: Ints


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Layers whose channels go together. A unit is what can be taken away: a channel of each of these layers, or more.

    Attributes:
        name: of the first of its layers.
        layers: layer -> int64 [channels], the unit that each channel of it belongs to.
        units: number of units.
        slices: every number of every tensor that belongs to a unit.
        stopped: what keeps its channels from being taken out, in words; "" where nothing does.
        convolution: whether its first layer is a convolution, not a linear layer.
    """

    name: str
    layers: Mapping[str, Ints]
    units: int
    slices: tuple[Slices, ...]
    stopped: str = ""
    convolution: bool = True

    def channels(self, layer: str, units: Mask) -> Mask:
        """Return which channels of one of its layers belong to units, bool [channels]; units is bool [units]."""
        return np.asarray(units[self.layers[layer]])


@dataclass(frozen=True, kw_only=True)
class NormPlaces:
    """A contrast normalisation across channels, which reads the neighbours of a channel by their numbers.

    Attributes:
        module: its name.
        groups: for each place the group that its channel belongs to; "" where the place is empty.
        units: int64 [places], the unit in that group.
    """

    module: str
    groups: tuple[str, ...]
    units: Ints


@dataclass(frozen=True, kw_only=True)
class ChannelGroups:
    """The groups of a network.

    Attributes:
        groups: name -> group, in the order of their first layers.
        norms: contrast normalisations across channels.
        weights: layer -> name of the weight of its filters, [channels, inputs, ...].
        network: name of the network.
        nodes: name of a node of the graph whose channels have numbers of their own -> group -> int64 of the value's
            dimensions without the batch's, the unit in that group, -1 for none of it.
    """

    groups: Mapping[str, ChannelGroup]
    norms: tuple[NormPlaces, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    nodes: Mapping[str, Mapping[str, Ints]] = field(default_factory=dict, repr=False)
    _of_layer: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __getitem__(self, layer: str) -> ChannelGroup:
        """Return the group of a layer; raises LayerNotFound with the nearest names where no filter makes the layer."""
        if layer not in self._of_layer:
            raise LayerNotFound(
                f"no convolution or linear layer {layer!r} in {self.network}; {nearest(layer, self._of_layer)}"
            )
        return self.groups[self._of_layer[layer]]

    def slim(self, layer: str) -> ChannelGroup:
        """Return the group of a layer whose channels can be taken out.

        Raises:
            LayerNotFound: no filter makes such a layer; the message lists the nearest ones.
            PruningError: its channels cannot be taken out; the message names the op that stops it.
        """
        group = self[layer]
        if group.stopped:
            raise PruningError(f"layer {layer!r} cannot be slimmed: {group.stopped}; choose another layer")
        return group

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the groups of convolutions whose channels can be taken out, and that have more than one unit."""
        return tuple(
            name for name, group in self.groups.items() if group.convolution and not group.stopped and group.units > 1
        )

    def kept_numbers(self, removed: Mapping[str, Mask]) -> dict[str, dict[int, Ints]]:
        """Return tensor -> dimension -> int64, the numbers along it that stay, of the tensors that get smaller.

        Args:
            removed: name of a group -> bool [units], which of its units go.
        """
        gone: dict[tuple[str, int], Mask] = {}
        for name, units in removed.items():
            for part in self.groups[name].slices if units.any() else ():
                mask = gone.setdefault((part.tensor, part.axis), np.zeros(len(part.units), bool))
                mask |= (part.units >= 0) & units[part.units]
        kept_by_tensor: dict[str, dict[int, Ints]] = {}
        for (tensor, axis), mask in gone.items():
            if mask.any():
                kept_by_tensor.setdefault(tensor, {})[axis] = np.flatnonzero(~mask)
        return kept_by_tensor

    def kept_places(self, removed: Mapping[str, Mask]) -> dict[str, tuple[int, Ints]]:
        """Return module -> (number of places, int64 the places that stay), of contrast normalisations that change."""
        changed: dict[str, tuple[int, Ints]] = {}
        for norm in self.norms:
            filled = np.array([name != "" for name in norm.groups])
            gone = [
                name in removed and bool(removed[name][unit])
                for name, unit in zip(norm.groups, norm.units, strict=True)
            ]
            if any(gone):
                changed[norm.module] = len(filled), np.flatnonzero(filled & ~np.array(gone))
        return changed


def channel_groups(network: Network) -> ChannelGroups:
    """Follow every channel through a network, and return which of them go together.

    Convolutions, also depthwise and grouped ones, linear layers, normalisations of single channels, joins, sums and
    products, poolings, means over positions, flattenings and contrast normalisations across channels are followed.
    Any other op, and what the network returns, keep the channels that they read as they are.

    Args:
        network: a captured network.

    Source: ours; that residual sums tie channels is in Li et al. 2017, arXiv 1608.08710, section 3.3.

    >>> from torch import nn
    >>> from deconvviz.graph.capture import capture
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    >>> groups = channel_groups(capture(model, (3, 8, 8)))
    >>> [(part.tensor, part.axis) for part in groups["0"].slices][:3], groups["3"].stopped
    ([('0.bias', 0), ('0.weight', 0), ('1.bias', 0)], 'the network returns its channels')
    """
    return _Grouping(follow(network), network).groups()


class _Grouping:
    """Makes groups of what was followed: layers that share a unit are one group."""

    def __init__(self, followed: Follower, network: Network) -> None:
        self.followed, self.network, self.reasons = followed, network, followed.reasons()
        self.root_of = followed.all_roots()
        self.layers = {name: self.root_of[labels] for name, labels in followed.layers.items()}
        self.tensors = {key: self.root_of[labels] for key, labels in sorted(followed.tensors.items())}
        self.unit = np.full(len(self.root_of), -1)  # of the group that is being made, by its label

    def groups(self) -> ChannelGroups:
        groups: dict[str, ChannelGroup] = {}
        of_root: dict[int, tuple[str, int]] = {}
        for names in self._tied():
            roots = list(dict.fromkeys(int(root) for name in names for root in self.layers[name]))
            of_root |= {root: (names[0], unit) for unit, root in enumerate(roots)}
            self.unit[roots] = np.arange(len(roots))
            groups[names[0]] = ChannelGroup(
                name=names[0],
                layers={name: self.unit[self.layers[name]] for name in names},
                units=len(roots),
                slices=self._slices(),
                stopped=next((self.reasons[root] for root in roots if root in self.reasons), ""),
                convolution=names[0] in self.followed.convolutions,
            )
            self.unit[roots] = -1
        norms = []
        for module, labels in self.followed.norms.items():
            placed = [of_root.get(int(root), ("", -1)) for root in self.root_of[labels]]
            units = np.array([unit for _, unit in placed])
            norms.append(NormPlaces(module=module, groups=tuple(name for name, _ in placed), units=units))
        return ChannelGroups(
            groups=groups,
            norms=tuple(norms),
            weights=self.followed.weights,
            network=self.network.name,
            nodes=self._nodes(of_root),
            _of_layer={layer: group.name for group in groups.values() for layer in group.layers},
        )

    def _nodes(self, of_root: Mapping[int, tuple[str, int]]) -> dict[str, dict[str, Ints]]:
        """Return for each node with numbers of its own the units of its channels, group by group."""
        units_by_layer: dict[str, dict[str, Ints]] = {}
        for node, labels in self.followed.nodes.items():
            roots = self.root_of[labels]
            units = units_by_layer.setdefault(node.name, {})
            for place, root in enumerate(roots.ravel().tolist()):
                name, unit = of_root.get(root, ("", -1))
                if name:
                    units.setdefault(name, np.full(roots.shape, -1)).flat[place] = unit
        return units_by_layer

    def _tied(self) -> list[list[str]]:
        """Return the names of layers that share a unit, together."""
        together: list[tuple[set[int], list[str]]] = []
        for name, roots in self.layers.items():
            own_roots, names = {int(root) for root in roots}, [name]
            apart = []
            for others, members in together:
                if own_roots & others:
                    own_roots, names = own_roots | others, members + names
                else:
                    apart.append((others, members))
            together = [*apart, (own_roots, names)]
        order = {name: place for place, name in enumerate(self.layers)}
        tied = [sorted(names, key=order.__getitem__) for _, names in together]
        return sorted(tied, key=lambda names: order[names[0]])

    def _slices(self) -> tuple[Slices, ...]:
        """Return the numbers of every tensor that belong to the group that is being made."""
        units_of_tensors = ((key, self.unit[roots]) for key, roots in self.tensors.items())
        return tuple(
            Slices(tensor=key[0], axis=key[1], units=units) for key, units in units_of_tensors if (units >= 0).any()
        )


def masked(network: Network, groups: ChannelGroups, removed: Mapping[str, Mask]) -> Network:
    """Return a network of the same shapes in which the numbers of some units are zero.

    The filters, their biases and normalisations are zero, so that their channels are zero at every position, and where
    the units could be taken out, what reads them is zero too. The other tensors are shared with the network.

    Args:
        network: the network whose groups these are.
        groups: as `channel_groups` returns them.
        removed: name of a group -> bool [units], which of its units are silenced.

    Raises:
        PruningError: the network returns channels of a group, or they are those of the images.
    """
    tensors = dict(network.tensors)
    changed: set[str] = set()
    for name, units in removed.items():
        group = groups.groups[name]
        if group.stopped and ("returns" in group.stopped or "images" in group.stopped):
            raise PruningError(f"layer {name!r} cannot be silenced: {group.stopped}; choose another layer")
        for part in group.slices if units.any() else ():
            if group.stopped and part.axis:
                continue
            if part.tensor not in changed:
                tensors[part.tensor] = tensors[part.tensor].clone()
                changed.add(part.tensor)
            gone = np.flatnonzero((part.units >= 0) & units[part.units])
            index = torch.from_numpy(gone).to(network.device)
            tensors[part.tensor].index_fill_(part.axis, index, 0)
    return network.replaced(network.graph, tensors)

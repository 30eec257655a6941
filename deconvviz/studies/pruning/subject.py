"""PruningSubject: what a criterion is given, and what several criteria ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.graph.channels import ChannelGroups
from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value
from deconvviz.run.options import RunOptions
from deconvviz.types import Floats, Ints, Mask

ROUNDING = 1e-9  # a share of a decimal number, such as 0.7 of 10, may be less than a whole number by rounding


class Feeds(NamedTuple):
    """The images of a pruning.

    Attributes:
        learned: those that a criterion looks at and that are trained on.
        measured: those that the accuracy is measured on.
        validation: images to measure on that are other ones; None where they are a part of the same.
    """

    learned: Feed
    measured: Feed
    validation: Images | None


@dataclass(frozen=True, kw_only=True)
class PruningSubject:
    """A network that is to be pruned, and the images that a criterion may look at.

    Attributes:
        network: captured, on the device that computes.
        groups: which channels go together; a unit is what can be taken away.
        chosen: name of each group that is pruned -> how many of its units stay, in the order of the network.
        feed: images that a criterion may look at, none of which the accuracy is measured on; None where there are none.
        outputs: int64 [classes], the network's output that stands for each class of the images; None where it is not
            known.
        run: how the job runs; its seed is that of everything that is drawn.
    """

    network: Network
    groups: ChannelGroups
    chosen: Mapping[str, int]
    feed: Feed | None = None
    outputs: Ints | None = None
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def labelled(self) -> bool:
        """Whether the class of each image is known, and the output that stands for it."""
        known = self.feed is not None and self.outputs is not None
        return known and bool(len(self.targets)) and bool((self.targets >= 0).all())

    @property
    def targets(self) -> Ints:
        """int64 [n], the network's output for the class of each image of the feed; -1 where it is not known."""
        assert self.feed is not None
        labels = self.feed.labels
        if self.outputs is None:
            return np.full(len(labels), -1)
        fits = (labels >= 0) & (labels < len(self.outputs))
        return np.where(fits, self.outputs[np.where(fits, labels, 0)], -1)

    def value_behind(self, layer: str) -> str:
        """Return the name of the value that a layer's filters have after their normalisation and rectifier."""
        return self.network.name_of(final_value(self.network.layer(layer).node)) or layer

    def weights(self, layer: str) -> Floats:
        """Return the filters of a layer, float64 [channels, inputs, rows * columns]."""
        weight = self.network.tensors[self.groups.weights[layer]].detach().double().cpu()
        return weight.reshape(*weight.shape[:2], -1).numpy()

    def read_by(self, layer: str) -> tuple[tuple[str, Ints], ...]:
        """Return which units the filters of a layer read: (group, int64 [inputs], the unit or -1), for each group."""
        tensor = self.groups.weights[layer]
        return tuple(
            (group.name, part.units)
            for group in self.groups.groups.values()
            for part in group.slices
            if part.tensor == tensor and part.axis == 1
        )

    def by_unit(self, of_channel: Callable[[str], Floats]) -> dict[str, Floats]:
        """Return for each group float64 [units], the sum over the channels of each unit.

        Args:
            of_channel: from the name of a layer to float64 [channels].
        """
        totals: dict[str, Floats] = {}
        for name in self.chosen:
            group = self.groups.groups[name]
            totals[name] = np.zeros(group.units)
            for layer, units in group.layers.items():
                np.add.at(totals[name], units, of_channel(layer))
        return totals

    def batches(self) -> Iterator[tuple[Ints, Tensor]]:
        """Yield (int64 places in the feed, images as the network takes them) batch by batch."""
        assert self.feed is not None
        size = self.run.images_at_once(self.network.device)
        yield from self.feed.tensors(size, self.network.device, self.network.dtype)

    def keeps_best(self, name: str, scores: Floats) -> Mask:
        """Return bool [units], which units of a group stay: those with the highest scores, of equal ones the first.

        Of each layer of the group at least one channel stays.
        """
        return best(scores, self.chosen[name], self.groups.groups[name].layers)


def count_that_stays(share: float, units: int) -> int:
    """Return how many units stay of a share: cut off to a whole number, and at least one.

    >>> count_that_stays(0.5, 51), count_that_stays(0.7, 10), count_that_stays(0.01, 8)
    (25, 7, 1)
    """
    return max(int(share * units + ROUNDING), 1)


def best(scores: Floats, count: int, layers: Mapping[str, Ints]) -> Mask:
    """Return bool [units], the units with the highest scores, of equal ones the first.

    Args:
        scores: float64 [units].
        count: how many stay; more where a layer would else lose all its channels.
        layers: layer -> int64 [channels], the unit of each channel.

    >>> best(np.array([1.0, 3.0, 2.0, 2.0]), 2, {"conv": np.arange(4)}).tolist()
    [False, True, True, False]
    """
    order = np.argsort(-scores, kind="stable")
    stays = np.zeros(len(scores), bool)
    stays[order[:count]] = True
    for units in layers.values():
        if not stays[units].any():
            stays[next(unit for unit in order.tolist() if unit in units)] = True
    return stays

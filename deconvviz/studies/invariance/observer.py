"""Observer: the values of several layers and the output, from one pass over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deconvviz.arrays import stacked
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.studies.invariance.options import InvarianceOptions
from deconvviz.types import Picture


class Observation(NamedTuple):
    """What the network computes for n pictures.

    Attributes:
        values: each layer's values, [n, ...].
        maxima: layer -> the maximum of each filter's map, [n, C], for the layers whose filters are scored.
        probabilities: float64 [n, classes], on the CPU.
    """

    values: list[Tensor]
    maxima: dict[str, Tensor]
    probabilities: Tensor


class Observer:
    """Gives the values of several layers and the output from one pass over pictures.

    Attributes:
        filters: layer -> its number of filters, for the layers whose filters are scored.
        at_once: pictures in one pass.
    """

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        layers: Sequence[str],
        units: Sequence[str],
        settings: InvarianceOptions,
    ) -> None:
        self.preprocess, self.layers = preprocess, layers
        self.observed = tuple(dict.fromkeys((*layers, *units)))
        self.filters = {name: network.layer(name).units[0] for name in units}
        fast = network.forward_only(settings.precision, keep=self.observed)
        # Folding BatchNorm may take the name of a functional op away; the network as captured still has it.
        self.network = fast if set(self.observed) <= set(fast.layers) else network
        self.at_once = settings.images_at_once(network.device, 32)

    def probabilities(self, output: Any) -> Tensor:
        """Return the probabilities [N, classes], float64 on the CPU, of what the network returned."""
        readout = self.network.readout
        return readout.probabilities(readout.scores(output).double()).cpu()

    def observe(self, pictures: Sequence[Picture]) -> Observation:
        """Return what one pass over pictures [h, w, C] gives."""
        network = self.network
        x = self.preprocess.tensor(stacked(pictures), network.device, network.dtype)
        values, output = network.observed(x, self.observed)
        maxima = {name: network.maps(name, values[name]).amax((2, 3)) for name in self.filters}
        return Observation([values[name] for name in self.layers], maxima, self.probabilities(output))

    def observe_all(self, pictures: Sequence[Picture]) -> Observation:
        """Return the same for more pictures than one pass takes."""
        at_once = AtOnce(self.at_once, "pictures")
        parts = [*at_once.parts(len(pictures), lambda start, stop: self.observe(pictures[start:stop]))]
        self.at_once = at_once.size
        values = [torch.cat(tensors) for tensors in zip(*(part.values for part in parts), strict=True)]
        maxima = {name: torch.cat([part.maxima[name] for part in parts]) for name in self.filters}
        return Observation(values, maxima, torch.cat([part.probabilities for part in parts]))

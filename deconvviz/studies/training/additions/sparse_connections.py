"""Sparse connectivity learning: which input each filter reads is learned along with the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.errors import TrainingError, require
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.additions.connections import (
    PROXIES,
    Connections,
    gated_layers,
    with_connections,
    without_connections,
)
from deconvviz.studies.training.additions.registry import registered
from deconvviz.studies.training.additions.shapes import output_shapes

EXEMPT = ("none", "first", "last", "both")


@registered
@dataclass
class SparseConnections(Addition):
    """Each connection has a switch that is learned along with its weight, and each costs something.

    A weight becomes w H(m), with H(m) = 1 where m > 0, else 0, in convolutions and linear layers. The loss is that of
    the task plus `price` for each connection that is on. Backwards H is taken for the identity: the gradient of m is
    w dL/d(w H(m)), divided by its root mean square over the filter, plus the price; w gets H(m) dL/d(w H(m)). All are
    on at first (m = 0.5), m stays within -1 and 1 and learns by plain SGD.

    Options: price, in units of a filter's typical gradient (0.1; 0: all stay on); rate, the learning rate of m (0.01);
    exempt, layers that keep all connections: none, first, last or both (none); falls, after that many falls of the
    recipe's learning rate m no longer changes (1; 0: never frozen); proxy, what stands for H backwards: identity, or
    relu, under which a connection that is off never comes back (identity).

    In the history: "connections" that are on; "multiply_adds" that they cost for one image; "filters_without_any", of
    all layers with switches; "kept", the share that is on, for each layer. The file holds w H(m), so that every command
    sees the sparse network.

    Source: Tang et al. 2022, arXiv 2201.05020, of which the abstract was available: the rule, that the stand-in for H
    must have a positive derivative everywhere, the choice of the identity, and the normalisation for each feature are
    theirs; start, bounds, rate, root mean square and the freezing are ours. What it cannot show: that a connection
    which is off is useless; with another seed another one may be.
    """

    name = "sparse-connections"
    price: float = 0.1
    rate: float = 0.01
    exempt: str = "none"
    falls: int = 1
    proxy: str = "identity"

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            price=(0 <= self.price < math.inf, "0 or more"),
            rate=(0 < self.rate < math.inf, "a number above 0"),
            exempt=(self.exempt in EXEMPT, " or ".join(EXEMPT)),
            falls=(isinstance(self.falls, int) and self.falls >= 0, "a whole number, 0 or more"),
            proxy=(self.proxy in PROXIES, " or ".join(PROXIES)),
        )
        self._connections: dict[str, Connections] = {}
        self._last_rate, self._fallen = math.inf, 0

    def begin(self, course: Course) -> None:
        """Put a switch at each connection."""
        self._layers = dict(gated_layers(course.model))
        shapes = output_shapes(course.model, course.preprocess, course.device)
        names = [name for name in self._layers if name in shapes]
        spared = {"first": names[:1], "last": names[-1:], "both": [*names[:1], *names[-1:]]}.get(self.exempt, [])
        names = [name for name in names if name not in spared]
        if not names:
            raise TrainingError("sparse-connections: the network has no convolution or linear layer to make sparse")
        self._places = {name: sum(_places(shapes[name][0], shape) for shape in shapes[name][1]) for name in names}
        self._connections = {name: with_connections(self._layers[name]) for name in names}

    def after_backward(self, step: Step) -> None:
        """Let the switches learn, until the recipe's learning rate has fallen often enough."""
        self._fallen += step.rate < self._last_rate < math.inf
        self._last_rate = step.rate
        learns = self.price > 0 and not (self.falls and self._fallen >= self.falls)
        for connections in self._connections.values():
            if not learns:
                connections.mask.requires_grad_(False).grad = None
            connections.learn(self.rate, self.price, self.proxy)

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Count what is on."""
        on = {name: connections.mask > 0 for name, connections in self._connections.items()}
        counts = dict(zip(on, torch.stack([each.sum() for each in on.values()]).tolist(), strict=True))
        empty = torch.stack([(~each.flatten(1).any(1)).sum() for each in on.values()]).sum()
        return {
            "connections/all layers": sum(counts.values()),
            "multiply adds/all layers": sum(count * self._places[name] for name, count in counts.items()),
            "filters without any/all layers": float(empty),
            **{f"kept/{name}": count / on[name].numel() for name, count in counts.items()},
        }

    def state(self) -> dict[str, Any]:
        """Return the switches, and the weights behind them: the network's file has zeros where one is off."""
        return {
            "masks": {name: connections.mask.detach() for name, connections in self._connections.items()},
            "weights": {name: self._stored(name).detach() for name in self._connections},
            "last_rate": self._last_rate,
            "fallen": self._fallen,
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from the switches and the weights behind them."""
        for name, connections in self._connections.items():
            connections.mask.copy_(state["masks"][name])
            self._stored(name).copy_(state["weights"][name])
        self._last_rate, self._fallen = state["last_rate"], state["fallen"]

    def _stored(self, name: str) -> Tensor:
        weights: Tensor = self._layers[name].parametrizations["weight"].original  # type: ignore[index, union-attr]
        return weights

    def end(self) -> None:
        """Leave w H(m) in the place of the weights."""
        for name in self._connections:
            without_connections(self._layers[name])
        self._connections = {}


def _places(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Return at how many places a layer with an output [1, ...] computes the value of each of its filters."""
    return math.prod(shape[1:-1] if isinstance(layer, nn.Linear) else shape[2:])

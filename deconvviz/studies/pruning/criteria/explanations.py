"""The criterion of explanations: gates learn which filters may go while a bump explainer still sees the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.learned.bump import Bump, divergence
from deconvviz.cam.learned.files import fitting
from deconvviz.cam.learned.reading import BumpReader
from deconvviz.errors import DataError, PruningError
from deconvviz.graph.channels import ChannelGroups
from deconvviz.graph.costs import multiply_adds
from deconvviz.graph.gates import GatedNetwork
from deconvviz.graph.network import Network
from deconvviz.studies.pruning.registry import Scores, checks, criterion
from deconvviz.studies.pruning.subject import PruningSubject
from deconvviz.types import Ints, Pathlike

OPEN = 3.0  # theta at first: 95 of 100 gates are open
TEMPERATURE = 0.4


@criterion("explanations", needs="images", decides=True, trained="bump")
def explanations(
    subject: PruningSubject,
    explainer: Bump | Pathlike | None = None,
    cost: float | None = None,
    steps: int = 1000,
    rate: float = 0.02,
    match: float = 10.0,
    answers: float = 1.0,
    decay: float = 1e-3,
) -> Scores:
    """s_f = theta_f of a gate that learns to close where a bump explainer sees no difference; above 0 it stays.

    Loss: match MSE((a, b, c) of the gated network, those of the whole one) + log(max(r, p) / p) + answers KL of both
    outputs; r is the share of multiplications left, p the wanted one: `cost`, by default what the filters to keep
    cost. explainer: a file of `deconvviz train-cam bump`. Ganjdanesh, Gao, Huang, ECCV 2022, arXiv 2209.02869. Ours:
    logistic noise instead of one Gumbel, which is biased towards open gates, and the cost of all convolutions and
    linear layers, of the very gates that are tried, image by image; and the default of the rate, 0.02 for 1000 steps
    (theirs: 0.001 for some 4000): the gradient is mostly noise, and at 0.05 the thetas wander; and the outputs take
    part by default, as a filter may decide what the explainer does not see (theirs: off).
    """
    bump = fitting(explainer, Bump.name, subject.network)
    assert isinstance(bump, Bump)
    gates = Gates(subject, bump, _wanted(subject, cost))
    generator = torch.Generator().manual_seed(int(np.random.default_rng([subject.run.seed, 20]).integers(2**62)))
    optimiser = torch.optim.AdamW(gates.theta.values(), rate, weight_decay=decay)
    with subject.run.bar("step", steps, "gates") as bar:
        for _, (places, x) in zip(range(steps), _again_and_again(subject), strict=False):
            terms = gates.terms(places, x, generator, match, answers)
            loss = torch.stack(list(terms.values())).sum()
            if not bool(loss.isfinite()):
                raise PruningError("the loss of the gates is not finite; give a lower rate, such as rate=0.01")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            bar.set_postfix({name: f"{float(value.detach()):.3f}" for name, value in terms.items()})
            bar.update(1)
    return {name: theta.detach().double().cpu().numpy() for name, theta in gates.theta.items()}


@checks("explanations")
def check(explainer: object, cost: float | None, steps: int, rate: float, **weights: float) -> None:
    """Raise DataError where the wanted share, the steps, the rate or a weight is not a number in its range."""
    if cost is not None and not (_is_number(cost) and 0 < cost <= 1):
        raise DataError(f"cost {cost} given; expected a share above 0 and at most 1")
    if isinstance(steps, bool) or not (isinstance(steps, int) and steps >= 1):
        raise DataError(f"steps {steps} given; expected a whole number, at least 1")
    if not (_is_number(rate) and 0 < rate < math.inf):
        raise DataError(f"rate {rate} given; expected a positive number")
    for name, value in weights.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            raise DataError(f"{name} {value} given; expected 0 or more")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _again_and_again(subject: PruningSubject) -> Iterator[tuple[Ints, Tensor]]:
    while True:
        yield from subject.batches()


def _wanted(subject: PruningSubject, cost: float | None) -> float:
    """Return p: `cost`, or the share of the cost that the units to keep have."""
    if cost is not None:
        return cost
    units = {name: subject.groups.groups[name].units for name in subject.chosen}
    shares = {
        name: torch.full((1, units[name]), count / units[name], device=subject.network.device)
        for name, count in subject.chosen.items()
    }
    return float(CostShare(subject.network, subject.groups)(shares))


class Gates:
    """A gate for each unit, the network with these gates, and what it must still explain as before.

    Attributes:
        theta: name of a group -> [units]; a gate is open with probability sigmoid(theta).
        wanted: share of the cost that is wanted.
        stored: numbers a, b, c of the whole network, [n, 3], NaN where an image was not seen yet.
        scores: of the whole network, [n, outputs], likewise.
    """

    def __init__(self, subject: PruningSubject, bump: Bump, wanted: float) -> None:
        network = subject.network
        self.reader, self.network, self.wanted = BumpReader(bump, network), network, wanted
        self.gated = GatedNetwork(network, subject.groups, list(subject.chosen))
        self.share = CostShare(network, subject.groups)
        self.theta = {
            name: torch.full((units,), OPEN, device=network.device, dtype=network.dtype, requires_grad=True)
            for name, units in self.gated.groups.items()
        }
        assert subject.feed is not None
        self.stored, self.scores = (
            torch.full((len(subject.feed), size), torch.nan, device=network.device, dtype=network.dtype)
            for size in (3, network.outputs)
        )
        self._seen = np.zeros(len(subject.feed), bool)

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return gates of 0 and 1 for each of so many images, group -> [count, units].

        Forwards they are 1 with probability sigmoid(theta), as logistic noise is added; backwards they have the
        gradient of sigmoid((theta + noise) / 0.4) (straight through).
        """
        found = {}
        for name, theta in self.theta.items():
            uniform = torch.rand((count, len(theta)), generator=generator, dtype=torch.float64)
            noise = torch.logit(uniform, eps=1e-12).to(theta)
            soft = torch.sigmoid((theta + noise) / TEMPERATURE)
            found[name] = (soft >= 0.5).to(theta) + soft - soft.detach()
        return found

    def terms(
        self, places: Ints, x: Tensor, generator: torch.Generator, match: float = 10.0, answers: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss for some images; `places` are theirs in the feed."""
        whole = self._whole(places, x)
        return self.of_gates(self.drawn(len(x), generator), places, x, whole, match, answers)

    def of_gates(
        self,
        gates: Mapping[str, Tensor],
        places: Ints,
        x: Tensor,
        whole: Tensor,
        match: float = 10.0,
        answers: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of given gates; whole: scores of the whole network [N, outputs]."""
        values, output = self.gated(x, gates, self.reader.layers)
        numbers = self.reader.numbers(values, whole.argmax(1)).to(self.stored.dtype)
        left = self.share(gates)
        penalty = (left.clamp(min=self.wanted) / self.wanted).log().mean()
        terms = {"match": match * functional.mse_loss(numbers, self.stored[torch.from_numpy(places)]), "cost": penalty}
        if answers:
            terms["answers"] = answers * divergence(whole, self.network.readout.scores(output))
        return terms

    def _whole(self, places: Ints, x: Tensor) -> Tensor:
        """Return the whole network's scores of images; its numbers are stored when an image is first seen."""
        rows = torch.from_numpy(places)
        if not self._seen[places].all():
            with torch.no_grad():
                values, output = self.network.observed(x, self.reader.layers)
                self.scores[rows] = scores = self.network.readout.scores(output)
                self.stored[rows] = self.reader.numbers(values, scores.argmax(1)).to(self.stored)
            self._seen[places] = True
        return self.scores[rows]


@dataclass(frozen=True)
class _Part:
    """What the multiplications of one layer depend on: those of one filter and input, and the units of both sides."""

    products: float
    filters: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    counts: tuple[int, int]


class CostShare:
    """The share of a network's multiplications that are left with some gates open.

    Counted is what `multiply_adds` counts, where the filter and its input are left.

    Source: ours; Ganjdanesh et al. count likewise, but in their release the first convolution of each block alone.

    >>> from torch import nn
    >>> import deconvviz as dv
    >>> from deconvviz.graph.channels import channel_groups
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), (3, 8, 8))
    >>> CostShare(network, channel_groups(network))({"0": torch.tensor([[1.0, 1, 0, 0]])})
    tensor([0.5000])
    """

    def __init__(self, network: Network, groups: ChannelGroups) -> None:
        slices: dict[tuple[str, int], dict[str, Tensor]] = {}
        for name, group in groups.groups.items():
            for part in group.slices:
                units = torch.from_numpy(part.units).to(network.device)
                slices.setdefault((part.tensor, part.axis), {})[name] = units
        self._parts, products = [], multiply_adds(network)
        for layer, tensor in groups.weights.items():
            filters, inputs = network.tensors[tensor].shape[:2]
            sides = slices.get((tensor, 0), {}), slices.get((tensor, 1), {})
            self._parts.append(_Part(products[layer] / (filters * inputs), *sides, (filters, inputs)))
        self._total = float(sum(part.products * part.counts[0] * part.counts[1] for part in self._parts))

    def __call__(self, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the shares [N]; gates: name of a group -> [N, units], 1 or 0; groups that are not named are whole."""
        left: Any = 0.0
        for part in self._parts:
            filters, inputs = (
                _left(units, count, gates)
                for units, count in zip((part.filters, part.inputs), part.counts, strict=True)
            )
            left = left + part.products * filters * inputs
        shares: Tensor = torch.as_tensor(left) / self._total
        return shares


def _left(units_by_group: Mapping[str, Tensor], count: int, gates: Mapping[str, Tensor]) -> Any:
    """Return how many of the filters, or of the inputs, of a layer are left: a number or [N]."""
    gone: Any = 0.0
    for name, units in units_by_group.items():
        if name in gates:
            gone = gone + (1 - gates[name][:, units[units >= 0]]).sum(1)
    return count - gone

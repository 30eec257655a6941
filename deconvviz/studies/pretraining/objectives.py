"""The objectives of self-supervision: a projector on top of the embedding, and the loss of its two views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.errors import DataError, require
from deconvviz.registry import Registry
from deconvviz.studies.pretraining.keywords import checked_options
from deconvviz.studies.pretraining.losses import barlow_twins, nt_xent, swapped_prediction


class Objective(nn.Module):
    """What a training without labels asks of the embeddings of two views; entries of OBJECTIVES inherit from it.

    An objective has a projector, a small network on top of the embedding that is thrown away afterwards, and a loss.

    Attributes:
        projector: from embeddings [N, inputs] to projections [N, out].
    """

    projector: nn.Module

    def terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, whose sum is minimised, from the projections of both views, [N, out] each."""
        raise NotImplementedError

    def before_update(self, step: int) -> None:
        """Change gradients before the optimiser takes a step; `step` counts from 0."""

    def after_update(self) -> None:
        """Change parameters after the optimiser has taken a step."""


OBJECTIVES: Registry[type[Objective]] = Registry("objective")


def objective(name: str) -> Callable[[type[Objective]], type[Objective]]:
    """Register an objective under a name; its keyword arguments with defaults are its options."""
    return lambda kind: OBJECTIVES.add(name, kind)


def make_objective(name: str, inputs: int, options: Mapping[str, Any], seed: int = 0) -> Objective:
    """Build an objective with random weights of a seed.

    Args:
        name: in OBJECTIVES.
        inputs: numbers in an embedding.
        options: of the objective.
        seed: of its weights.

    Raises:
        DataError: it has no such option, or a value is out of its range.
        DeconvvizError: there is no such objective.
    """
    kind = OBJECTIVES[name]
    checked_options(f"objective {name}", kind, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(inputs, **options)


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes; between two of them BatchNorm and a rectifier."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def _require_sizes(**sizes: int) -> None:
    require(sizes, DataError, **{name: (size >= 2, "2 or more") for name, size in sizes.items()})


@objective("simclr")
class SimCLR(Objective):
    """SimCLR: NT-Xent, in which each view finds the other view of its image among all views of the batch.

    Source: Chen et al. 2020, from memory. The projector's BatchNorm and its sizes are our choice, for small data.
    """

    def __init__(self, inputs: int, temperature: float = 0.5, hidden: int = 512, out: int = 64) -> None:
        """Build the projector.

        Args:
            inputs: numbers in an embedding.
            temperature: that cosines are divided by.
            hidden: units of the projector's hidden layer.
            out: numbers in a projection.
        """
        super().__init__()
        require(locals(), DataError, temperature=(temperature > 0, "a positive number"))
        _require_sizes(hidden=hidden, out=out)
        self.temperature, self.projector = temperature, _mlp(inputs, hidden, out)

    def terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return NT-Xent as the only term."""
        return {"contrast": nt_xent(a, b, self.temperature)}


@objective("barlow-twins")
class BarlowTwins(Objective):
    """Barlow Twins: the numbers of a projection agree between views and do not repeat each other.

    Source: Zbontar et al. 2021, from memory. The sizes are our choice, for small data; the paper's projector has three
    layers of 8192 units.
    """

    def __init__(self, inputs: int, redundancy: float = 0.005, hidden: int = 512, out: int = 256) -> None:
        """Build the projector.

        Args:
            inputs: numbers in an embedding.
            redundancy: lambda, the weight of the correlations between different numbers.
            hidden: units of each of the projector's two hidden layers.
            out: numbers in a projection.
        """
        super().__init__()
        require(locals(), DataError, redundancy=(redundancy >= 0, "0 or more"))
        _require_sizes(hidden=hidden, out=out)
        self.redundancy, self.projector = redundancy, _mlp(inputs, hidden, hidden, out)

    def terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return what draws views together, and what keeps the numbers apart."""
        agreement, redundancy = barlow_twins(a, b, self.redundancy)
        return {"agreement": agreement, "redundancy": redundancy}


@objective("swav")
class SwAV(Objective):
    """SwAV: images are shared out among prototypes, and one view predicts the share of the other.

    Attributes:
        prototypes: [K, out], of length 1.
        queue: [2, Q, out], projections of the last first and second views, the latest first.
        queued: int64, how many of them there are by now, at most Q; they take part once the queue is full.

    Source: Caron et al. 2020. The numbers of prototypes and units are our choice, for small data (the paper's are 3000
    prototypes, 2048 hidden units and 128 numbers out; its queue holds 3840 projections from the 15th epoch on, both
    from memory). Its additional small crops are not built.
    """

    queue: Tensor
    queued: Tensor

    def __init__(
        self,
        inputs: int,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        rounds: int = 3,
        prototypes: int = 100,
        freeze: int = 313,
        queue: int = 0,
        hidden: int = 512,
        out: int = 64,
    ) -> None:
        """Build the projector and the prototypes.

        Args:
            inputs: numbers in an embedding.
            temperature: that the cosines with the prototypes are divided by in the prediction.
            epsilon: that they are divided by in the codes.
            rounds: of scaling the codes.
            prototypes: K, how many there are.
            freeze: steps at the beginning in which the prototypes stay as they are.
            queue: Q, earlier projections of each view that share the prototypes with the batch's; for batches of fewer
                images than prototypes.
            hidden: units of the projector's hidden layer.
            out: numbers in a projection.
        """
        super().__init__()
        require(
            locals(),
            DataError,
            temperature=(temperature > 0, "a positive number"),
            epsilon=(epsilon > 0, "a positive number"),
            rounds=(rounds >= 1, "at least 1"),
            freeze=(freeze >= 0, "0 or more"),
            queue=(queue >= 0, "0 or more"),
        )
        _require_sizes(prototypes=prototypes, hidden=hidden, out=out)
        self.temperature, self.epsilon, self.rounds, self.freeze = temperature, epsilon, rounds, freeze
        self.projector = _mlp(inputs, hidden, out)
        self.prototypes = nn.Parameter(functional.normalize(torch.randn(prototypes, out), dim=1))
        for name, start in (("queue", torch.zeros(2, queue, out)), ("queued", torch.zeros((), dtype=torch.int64))):
            self.register_buffer(name, start, persistent=queue > 0)
        self._latest: Tensor | None = None  # [2, N, out], of the step under way

    def scores(self, z: Tensor) -> Tensor:
        """Return the cosines of projections [N, out] with the prototypes, [N, K]."""
        return functional.normalize(z, dim=1) @ self.prototypes.T

    def terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return the swapped prediction as the only term; the queue takes the projections of a step's first call."""
        if self._latest is None:
            self._latest = torch.stack([a, b]).detach()
        length = self.queue.shape[1]
        earlier = None
        if length and int(self.queued) == length:
            with torch.no_grad():
                earlier = self.scores(self.queue[0]), self.scores(self.queue[1])
        how = self.temperature, self.epsilon, self.rounds, earlier
        return {"prediction": swapped_prediction(self.scores(a), self.scores(b), *how)}

    def before_update(self, step: int) -> None:
        """Leave the prototypes as they are during the first steps."""
        if step < self.freeze:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_update(self) -> None:
        """Scale the prototypes to length 1, and let the projections of the step into the queue."""
        self.prototypes.copy_(functional.normalize(self.prototypes, dim=1))
        latest, self._latest = self._latest, None
        if latest is not None:
            length = self.queue.shape[1]
            self.queue.copy_(torch.cat([latest.to(self.queue), self.queue], 1)[:, :length])
            self.queued.add_(latest.shape[1]).clamp_(max=length)

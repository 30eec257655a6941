"""What an attack computes with: images in 0..1, the network's scores for them, and the gradient of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.adversarial import Ball, ball_around, margin_of
from deconvviz.graph.scores import Readout
from deconvviz.studies.attack.pixels import PixelNetwork, with_noise

NEAREST = 1e-6  # to 1 that a probability is taken as, where the logarithm of the rest is


class Seen(NamedTuple):
    """What the network makes of changed images.

    Attributes:
        loss: [N], which the attack raises.
        gradient: [N, C, H, W], of the loss of each image with respect to its pixels.
        fooled: bool [N], whether the attack has what it wants.
    """

    loss: Tensor
    gradient: Tensor
    fooled: Tensor


@dataclass(frozen=True, kw_only=True)
class Victims:
    """The images of a batch that are attacked, and the network: what an attack's equation is written in.

    An attack without targets wants any other class than `own`, one with targets these.

    Attributes:
        network: takes pixels in 0..1.
        x: floating [N, C, H, W] in 0..1, the images as they are.
        own: int64 [N], the class of each, which the network shall not find.
        targets: int64 [N], the class that it shall find; None where any other one will do.
        already: bool [N], whether it is fooled by the images as they are.
        epsilon: how far a pixel may go, as a share of the way from black to white.
        loss: "cross-entropy" or "margin".
        draw: (places of some of the images, shape, stream) -> [len(places), *shape], uniform in -1..1: the same for an
            image in whatever batch it comes, and others in another stream.
    """

    network: PixelNetwork
    x: Tensor
    own: Tensor
    targets: Tensor | None
    already: Tensor
    epsilon: float
    loss: str
    draw: Callable[[Sequence[int], tuple[int, ...], int], Tensor]

    @cached_property
    def ball(self) -> Ball:
        """The images that may be taken: within epsilon of x, and in 0..1."""
        return ball_around(self.x, self.epsilon)

    @cached_property
    def noise(self) -> Tensor:
        """Uniform in -1..1, [N, C, H, W]."""
        return self.draw(range(len(self.x)), tuple(self.x.shape[1:]), 0)

    def part(self, places: Sequence[int]) -> Victims:
        """Return some of the images, by their places."""
        rows, targets = list(places), self.targets
        return replace(
            self,
            x=self.x[rows],
            own=self.own[rows],
            targets=None if targets is None else targets[rows],
            already=self.already[rows],
            draw=lambda within, shape, stream: self.draw([rows[place] for place in within], shape, stream),
        )

    def kept(self, x: Tensor) -> Tensor:
        """Return images [N, C, H, W] as they are kept and measured: their changes in float16, within the ball."""
        return with_noise(self.x, (x - self.x).half(), self.epsilon)

    def seen(self, x: Tensor, loss: str | None = None) -> Seen:
        """Run images [N, C, H, W] in 0..1 forwards and backwards; `loss` replaces that of the attack."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            scores = self.network.scores(leaf)
            value = self.losses(scores, loss or self.loss)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return Seen(value.detach(), gradient, self.won(scores.detach()))

    def losses(self, scores: Tensor, loss: str) -> Tensor:
        """Return what the attack raises, [N], of scores [N, K].

        "cross-entropy" is log((1 - p) / p) of the own class, or log(p / (1 - p)) of the target: it rises with the
        cross-entropy -log p = log(1 + exp(log((1 - p) / p))), so that the gradient has the same direction, and it still
        has one where p is 1 to rounding. "margin" is above zero where the network is fooled: the largest other score
        less that of the own class, or the target's less the largest other.
        """
        classes, sign = (self.own, -1) if self.targets is None else (self.targets, 1)
        if loss == "margin":
            return -sign * margin_of(scores, classes)
        return -sign * log_odds_against(scores, classes, self.network.network.readout)

    def entropy(self, scores: Tensor) -> Tensor:
        """Return the cross-entropy -log p of the own class, or -log(1 - p) of the target, [N], of scores [N, K].

        It is positive and rises with what the attack raises.
        """
        if self.network.network.readout.kind in ("softmax", "sigmoid"):
            return functional.softplus(self.losses(scores, "cross-entropy"))
        logarithms = self.network.network.readout.log_probabilities(scores)
        if self.targets is None:
            return -logarithms.gather(1, self.own[:, None])[:, 0]
        return -torch.log1p(-logarithms.gather(1, self.targets[:, None])[:, 0].exp().clamp(max=1 - NEAREST))

    def won(self, scores: Tensor) -> Tensor:
        """Return whether scores [N, K] are what the attack wants, bool [N]."""
        top = scores.argmax(1)
        return top != self.own if self.targets is None else top == self.targets

    def fooled(self, x: Tensor) -> Tensor:
        """Return whether the network is fooled by images [N, C, H, W] in 0..1, bool [N]."""
        with torch.no_grad():
            return self.won(self.network.scores(x))


def log_odds_against(scores: Tensor, classes: Tensor, readout: Readout) -> Tensor:
    """Return log((1 - p) / p) of a class, [N], of scores [N, K] and classes int64 [N]; of probabilities it is -log p.

    >>> odds = log_odds_against(torch.tensor([[100.0, -100.0, -101.0]]), torch.tensor([0]), Readout())
    >>> round(float(odds), 3)  # where -log p is 0 in float32, and so is its gradient
    -199.687
    """
    own_scores = scores.gather(1, classes[:, None])[:, 0]
    if readout.kind == "softmax":
        return scores.scatter(1, classes[:, None], float("-inf")).logsumexp(1) - own_scores
    if readout.kind == "sigmoid":
        return -own_scores
    return -readout.log_probabilities(scores).gather(1, classes[:, None])[:, 0]


def chosen(which: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the images [N, C, H, W] of `first` where `which`, bool [N], holds, and those of `second` elsewhere."""
    return torch.where(which[:, None, None, None], first, second)


class Best(NamedTuple):
    """The best images of an attack so far: of those that are what it wants, those that cost least.

    Attributes:
        image: [N, C, H, W].
        cost: [N], what the attack keeps small, such as the length of the change; infinite where nothing succeeded yet.
    """

    image: Tensor
    cost: Tensor

    @classmethod
    def none(cls, image: Tensor) -> Best:
        """Return images of which none is known to be what the attack wants."""
        return cls(image, torch.full_like(image[:, 0, 0, 0], math.inf))

    def or_better(self, image: Tensor, cost: Tensor, succeeds: Tensor) -> Best:
        """Return the better of these and others, of which those count that are what the attack wants, bool [N]."""
        better = succeeds & (cost < self.cost)
        return Best(chosen(better, image, self.image), torch.where(better, cost, self.cost))

    def or_else(self, image: Tensor) -> Tensor:
        """Return the best images, and others where nothing succeeded."""
        return chosen(self.cost < math.inf, self.image, image)

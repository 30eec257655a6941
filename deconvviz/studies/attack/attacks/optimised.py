"""Attacks by Adam on variables that images are made of: Carlini and Wagner's, and one that moves pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.methods.shared import require_number
from deconvviz.studies.attack.fooling import lead
from deconvviz.studies.attack.registry import attack
from deconvviz.studies.attack.victims import Best, Victims

NEAREST = 1e-3  # to an end of its range, as a share of it, that a pixel may start: at the end u would be infinite
SMALL = 1e-8  # below the root of the flow's differences
UNBOUNDED = 1e10  # a weight above all
GROWTH = 10.0  # of the weight while no attack succeeds


class Form(ABC):
    """How images are made of variables, and what a change costs.

    Attributes:
        start: the variables of the unchanged images.
    """

    start: Tensor

    @abstractmethod
    def image(self, variables: Tensor) -> Tensor:
        """Return images [N, C, H, W] of the variables."""

    @abstractmethod
    def cost(self, variables: Tensor, image: Tensor) -> Tensor:
        """Return what their change costs, [N]."""


class Box(Form):
    """x' = low + (high - low) (tanh u + 1) / 2 in the ball; the cost is the square of the change's length, weighed."""

    def __init__(self, v: Victims, weight: float = 1.0) -> None:
        self.x, self.weight, (self.low, self.high) = v.x, weight, v.ball
        share = (v.x - self.low) / (self.high - self.low).clamp(min=torch.finfo(v.x.dtype).tiny)
        self.start = (2 * share.clamp(NEAREST, 1 - NEAREST) - 1).atanh()

    def image(self, variables: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * (variables.tanh() + 1) / 2

    def cost(self, variables: Tensor, image: Tensor) -> Tensor:
        return self.weight * (image - self.x).square().flatten(1).sum(1)


class Flow(Form):
    """x'(p) = x(p + f(p)), bilinear, f the flow [N, 2, H, W] in pixels; the cost is tau times its roughness."""

    def __init__(self, v: Victims, tau: float, reach: float) -> None:
        self.x, self.tau, self.reach = v.x, tau, reach
        self.start = v.x.new_zeros(len(v.x), 2, *v.x.shape[2:])
        sides = v.x.shape[2:]
        self.places = [torch.arange(side, dtype=v.x.dtype, device=v.x.device) for side in sides]

    def image(self, variables: Tensor) -> Tensor:
        flow = variables.clamp(-self.reach, self.reach)
        (down, across), (height, width) = self.places, self.x.shape[2:]
        y, x = down[:, None] + flow[:, 0], across[None] + flow[:, 1]
        grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
        moved = functional.grid_sample(self.x, grid, "bilinear", "border", align_corners=True)
        still = (flow == 0).all(1, keepdim=True)  # exactly, where nothing moves: sampling rounds
        return torch.where(still, self.x + (moved - moved.detach()), moved)

    def cost(self, variables: Tensor, image: Tensor) -> Tensor:
        down, across = (variables.diff(dim=axis).square() + SMALL for axis in (2, 3))
        return self.tau * (down.sqrt().flatten(1).sum(1) + across.sqrt().flatten(1).sum(1))


@attack("cw", levels=255)
def cw(
    v: Victims, steps: int = 100, searches: int = 5, rate: float = 0.01, weight: float = 1.0, confidence: float = 0.0
) -> Tensor:
    """min |x' - x|^2 + c max(confidence - lead, 0), x' = low + (high - low) (tanh u + 1) / 2: the shortest change.

    Carlini and Wagner 2017, arXiv 1608.04644, section V, with f_6: the lead is the score of the class that is wanted
    less the largest other one (any class: the largest other score less that of the own class). low and high are the
    ends of the ball, so that no pixel goes farther than epsilon; with epsilon 1, the default, they are 0 and 1 as in
    the paper. u by Adam; a pixel starts a 1000th of its range off its ends, where u is finite. c is found for each
    image by `searches` rounds from `weight`: by halving, or ten times as large while nothing succeeds. Of all images on
    the way that fool, as they are kept, that with the shortest change is taken; where there is none, the image stays.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("searches", searches, 1, whole=True)
    require_number("rate", rate, 0)
    require_number("weight", weight, 0)
    require_number("confidence", confidence, 0)
    form, best = Box(v), _unchanged(v)
    weights = torch.full_like(best.cost, float(weight))
    below, above = torch.zeros_like(weights), torch.full_like(weights, UNBOUNDED)
    for _ in range(searches):
        succeeded = torch.zeros_like(v.already)
        for image, cost, won in descent(v, form, weights, steps, rate, confidence):
            best, succeeded = best.or_better(image, cost, won), succeeded | won
        below = torch.where(succeeded, below, weights)
        above = torch.where(succeeded, torch.minimum(above, weights), above)
        weights = torch.where(above < UNBOUNDED, (below + above) / 2, GROWTH * weights)
    return best.image


@attack("stadv", levels=255)
def stadv(
    v: Victims, steps: int = 100, rate: float = 0.01, tau: float = 0.0005, reach: float = 4.0, confidence: float = 0.0
) -> Tensor:
    """min max(confidence - lead, 0) + tau sum sqrt(df^2), x'(p) = x(p + f(p)): pixels are moved, not painted.

    Xiao et al. 2018, arXiv 1801.02612, equations 1 to 4: f is a flow of pixels, bilinear, df its differences between
    neighbours; here by Adam (the paper: L-BFGS), tau as in the released code of AdvEdge (the paper: 0.05). reach: how
    far a pixel may come from, in pixels along each axis. epsilon bounds what it always does, the change of a pixel's
    value, exactly: a moved pixel is cut to the ball; with 1, the default, nothing is cut. Of all images on the way that
    are fooled, as they are kept, the one with the smoothest flow is taken; where there is none the image stays.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("rate", rate, 0)
    require_number("tau", tau, 0)
    require_number("reach", reach, 0)
    require_number("confidence", confidence, 0)
    best = _unchanged(v)
    for image, cost, won in descent(v, Flow(v, tau, reach), torch.ones_like(best.cost), steps, rate, confidence):
        best = best.or_better(image, cost, won)
    return best.image


def _unchanged(v: Victims) -> Best:
    """Return the images as they are, which cost nothing where they fool the network already."""
    best = Best.none(v.x)
    return best._replace(cost=torch.where(v.already, 0.0, best.cost))


def descent(
    v: Victims, form: Form, weights: Tensor, steps: int, rate: float, confidence: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lower cost + weight max(confidence - lead, 0) of each image by Adam; yield each step's images.

    Args:
        v: the images.
        form: how images are made of variables.
        weights: [N].
        steps: of Adam.
        rate: of Adam.
        confidence: the lead from which on only the cost counts.

    Yields:
        The images as they are kept, [N, C, H, W]; what their change costs, [N]; and bool [N], whether they are fooled.
    """
    variables = form.start.clone().requires_grad_()
    optimiser = torch.optim.Adam([variables], lr=rate)
    for _ in range(steps):
        with torch.enable_grad():
            made = form.image(variables)
            image = v.kept(made.detach())
            scores = v.network.scores(seen := image + (made - made.detach()))  # as it is kept, with its graph
            cost = form.cost(variables, seen)
            loss = cost + weights * (confidence - lead(v, scores)).relu()
            (variables.grad,) = torch.autograd.grad(loss.sum(), variables)
        yield image, cost.detach(), v.won(scores.detach())
        optimiser.step()

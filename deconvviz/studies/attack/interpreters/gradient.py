"""The gradient map as an attack needs it: with rectifiers whose derivative has one of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.cam.shaping import min_max
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.studies.attack.interpreters.base import Explained, Interpreter, Pass, Reader, interpreter
from deconvviz.studies.attack.pixels import PixelNetwork
from deconvviz.studies.attack.victims import log_odds_against

SOFTNESS = 1e-4
CELLS = 56  # a side of the pooled map on large images; small ones are pooled by 2


def softened_step(u: Tensor) -> Tensor:
    """Return h'(u), which takes the place of a rectifier's derivative: of the step from 0 to 1 at 0.

    h'(u) = u / sqrt(u^2 + 1e-4) from 0 on, and 1 + u / sqrt(u^2 + 1e-4) below, the derivative of sqrt(u^2 + 1e-4) and
    of u + sqrt(u^2 + 1e-4). Unlike the step it has a derivative of its own, 1e-4 / (u^2 + 1e-4)^1.5; at 0 it jumps
    back from 1 to 0.

    Source: Zhang et al. 2020, USENIX Security (Adv2), section 4, and their released code.

    >>> softened_step(torch.tensor([-1.0, -0.01, 0.0, 0.01, 1.0])).round(decimals=3).tolist()
    [0.0, 0.2930000126361847, 0.0, 0.7070000171661377, 1.0]
    """
    slope: Tensor = u / (u.square() + SOFTNESS).sqrt()
    return torch.where(u >= 0, slope, 1 + slope)


class _Softened(torch.autograd.Function):
    """A rectifier cut off at a limit: exact values, a softened derivative that can be derived once more."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.limit = limit
        return u.clamp(0, limit)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        step = softened_step(u)
        return signal * (step if ctx.limit == math.inf else step - softened_step(u - ctx.limit)), None


def softened_rectifier(u: Tensor, low: float = 0.0, high: float = math.inf) -> Tensor:
    """Return max(u, 0), at most `high`, whose derivative is h'(u), or h'(u) - h'(u - high) (ours) with a limit."""
    out: Tensor = _Softened.apply(u, float(high))
    return out


def softened(network: Network) -> Network:
    """Return the same network with softened derivatives of its rectifiers; what it computes is the same.

    Rectifiers are ReLU and its kind with an upper limit, such as ReLU6; others have derivatives of their own.
    """
    out = network.replaced(network.graph, network.tensors)
    for node in out.graph.nodes:
        if node.op == "call_function" and _is_rectifier(node):
            node.target = softened_rectifier
    return out


def _is_rectifier(node: fx.Node) -> bool:
    name = op_name(node)
    return name == "relu" or (name == "hardtanh" and len(node.args) == 3 and bool(node.args[1] == 0))


@interpreter
class GradientMap(Interpreter):
    """mm of the largest |d CE / dx| over the colours, average-pooled, CE the cross-entropy of the class.

    Simonyan et al. 2014, arXiv 1312.6034, as Adv2 attacks it: pooled by 4 pixels of 224 (2 of up to 112), and the
    derivatives of rectifiers softened, since those of a network that is linear by parts have no derivative.
    """

    name = "gradient"

    def __init__(self, explained: Explained) -> None:
        super().__init__(explained)
        network = explained.network
        self.softened = PixelNetwork(softened(network.network), network.scale)
        self.readout = network.network.readout

    def reader(self, x: Tensor, classes: Tensor) -> Reader:
        return self._read

    def _read(self, seen: Pass, classes: Tensor) -> Tensor:
        # CE = log(1 + exp(odds)) has the direction of the odds' gradient, which does not vanish where p is 1.
        odds = log_odds_against(self.softened.scores(seen.x), classes, self.readout)
        (slope,) = torch.autograd.grad(odds.sum(), seen.x, create_graph=True)
        side = max(2, min(seen.x.shape[-2:]) // CELLS)
        return min_max(torch.nn.functional.avg_pool2d(slope.abs().amax(1), side))

"""The optimised mask as an attack needs it: a few of its steps are kept in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deconvviz.cam.shaping import gaussian_blur, resized
from deconvviz.lengths import BlurWindow
from deconvviz.studies.attack.interpreters.base import Interpreter, Pass, Reader, interpreter

CELLS, RATE, AREA, SMOOTH = 28, 0.1, 1e-2, 1e-4
STEPS = 50  # for the maps that are kept
FIRST, INNER, UNROLLED = 40, 2, 2  # rounds for a new mask; in each step of the attack, without and with a graph
RENEWED = 10  # steps of the attack with one mask
MEAN, SQUARE, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class _Descent:
    """Adam on the values [N, h, w] of masks, of which the last steps may stay in the graph of the images."""

    def __init__(self, x: Tensor, cost: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.cost, self.rounds = cost, 0
        cells = (min(CELLS, x.shape[-2]), min(CELLS, x.shape[-1]))
        self.values = x.new_full((len(x), *cells), 0.5)
        self.mean, self.square = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def go(self, x: Tensor, rounds: int) -> None:
        """Take some steps of Adam without a graph."""
        for _ in range(rounds):
            slope = self._slope(self.values, x.detach(), False)
            self.rounds += 1
            self.mean = MEAN * self.mean + (1 - MEAN) * slope
            self.square = SQUARE * self.square + (1 - SQUARE) * slope.square()
            mean = self.mean / (1 - MEAN**self.rounds)
            self.values = (self.values - RATE * mean / self._scale()).clamp(0, 1)

    def unrolled(self, x: Tensor, rounds: int) -> Tensor:
        """Return the values after further steps that depend on the images; Adam's scale of each value is a constant."""
        values = self.values
        for _ in range(rounds):
            values = (values - RATE * self._slope(values, x, True) / self._scale()).clamp(0, 1)
        return values

    def _scale(self) -> Tensor:
        return (self.square / (1 - SQUARE**self.rounds)).sqrt() + EPSILON

    def _slope(self, values: Tensor, x: Tensor, graph: bool) -> Tensor:
        with torch.enable_grad():
            leaf = values if graph and values.requires_grad else values.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.cost(leaf, x).sum(), leaf, create_graph=graph)
        return slope


@interpreter
class OptimisedMask(Interpreter):
    """1 - m, m the mask in 0..1 that minimises p(x m + blurred (1 - m)) + .01 mean|1 - m| + 1e-4 sum |dm|^3.

    Fong and Vedaldi 2017, arXiv 1704.03296, equation 4; see the explanation method `mask`, here with 50 steps. A step
    of the attack goes on with the mask of the step before: two steps of Adam without a graph, then two with one, in
    which Adam's scale of each value is a constant; every ten steps the mask is found anew (ours: in the released code
    of Adv2 four to five of each, and anew every 50).
    """

    name = "mask"

    def reader(self, x: Tensor, classes: Tensor) -> Reader:
        cost, steps = self._cost(x, classes), 0
        descent = _Descent(x, cost)

        def read(seen: Pass, _: Tensor) -> Tensor:
            nonlocal descent, steps
            if steps % RENEWED == 0:
                descent = _Descent(x, cost)
                descent.go(seen.x, FIRST)
            steps += 1
            descent.go(seen.x, INNER)
            return 1 - descent.unrolled(seen.x, UNROLLED)

        return read

    def maps(self, made: Callable[[Tensor, Sequence[str]], Pass], x: Tensor, classes: Tensor) -> Tensor:
        descent = _Descent(x, self._cost(x, classes))
        descent.go(x, STEPS)
        return 1 - descent.values

    def _cost(self, x: Tensor, classes: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what the values of masks cost, [N], as a function of them and of the images."""
        network, size = self.explained.network, (x.shape[-2], x.shape[-1])
        kernel, sigma = BlurWindow(11, 10.0).of(*size)

        def cost(values: Tensor, images: Tensor) -> Tensor:
            kept = resized(values, size)[:, None]
            shown = images * kept + gaussian_blur(images, kernel, sigma) * (1 - kept)
            probabilities = network.probabilities(network.scores(shown))
            down, across = values.diff(dim=1)[:, :, :-1], values.diff(dim=2)[:, :-1]
            steep = (down.square() + across.square() + 1e-20) ** 1.5
            area = AREA * (1 - values).abs().mean((1, 2)) + SMOOTH * steep.sum((1, 2))
            return probabilities.gather(1, classes[:, None])[:, 0] + area

        return cost

"""The one optimiser of this study: it changes a canvas step by step until a loss of its pictures is small.

Every picture has a loss of its own, and the sum of them is minimised: pictures that are optimised together do not know
of each other, unless the loss compares them.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deconvviz.graph.computing import computing
from deconvviz.graph.evaluating import outside_inference_mode
from deconvviz.studies.visualisation.canvas import Canvas
from deconvviz.types import Floats
from deconvviz.words import counted

Loss = Callable[[Tensor, int], Tensor]
"""Pictures [N, C, h, w] in 0..1 and the number of the step -> the loss of each, [N]."""
TIMED = 3  # steps that are timed before the work; the first of them, which is slower, does not count
START, VIEWS, NOISE = range(3)  # what is drawn at random


@dataclass(frozen=True)
class Budget:
    """What a job takes, known before it begins.

    Attributes:
        pictures: number of pictures.
        size: (height, width) of a picture in pixels.
        steps: of the optimiser for each picture.
        passes: forward and backward passes of a step for each picture.
        until: the layer at which a pass ends.
        seconds: estimated; None before any step was timed.
    """

    pictures: int
    size: tuple[int, int]
    steps: int
    passes: int
    until: str
    seconds: float | None = None

    def timed(self, seconds: float, pictures: int) -> Budget:
        """Return the budget with an estimate from the seconds that one step of some pictures took."""
        return replace(self, seconds=seconds * self.steps * self.pictures / pictures)

    def words(self) -> str:
        """Return the budget in a line.

        >>> Budget(9, (128, 128), 512, 1, "conv3").timed(0.06, 9).words()
        '9 pictures of 128 x 128 px, 512 steps x 1 pass each: 4608 passes forward and backward up to conv3, about 31 s'
        """
        total = self.pictures * self.steps * self.passes
        about = "" if self.seconds is None else f", about {said_seconds(self.seconds)}"
        return (
            f"{counted(self.pictures, 'picture')} of {self.size[1]} x {self.size[0]} px, {self.steps} steps x "
            f"{self.passes} pass{'es' * (self.passes > 1)} each: {total} passes forward and backward up to "
            f"{self.until}{about}"
        )


def said_seconds(seconds: float) -> str:
    """Return a time in words, in seconds or minutes.

    >>> said_seconds(0.2), said_seconds(31.2), said_seconds(400)
    ('1 s', '31 s', '7 min')
    """
    return f"{max(seconds, 1):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def ascended(canvas: Canvas, loss: Loss, steps: int, rate: float | None, settle: bool, bar: tqdm) -> Floats:  # type: ignore[type-arg]
    """Change a canvas until the loss of its pictures is small.

    Args:
        canvas: what is changed, in place.
        loss: of each picture, at each step.
        steps: how many.
        rate: the learning rate; None takes the canvas's own.
        settle: whether the rate falls to zero along half a cosine, so that the pictures converge; else it stays.
        bar: is moved by one for each picture and step.

    Returns:
        float64 [steps, N], the loss before each step.
    """
    start = canvas.rate if rate is None else rate
    kind = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}[canvas.algorithm]
    optimiser: torch.optim.Optimizer = kind([canvas.parameters], lr=start)
    curve = []
    with outside_inference_mode(), torch.enable_grad(), computing("fp32"):
        for step in range(steps):
            if settle:
                optimiser.param_groups[0]["lr"] = start * (1 + math.cos(math.pi * step / steps)) / 2
            curve.append(_moved(canvas, loss, step, optimiser))
            bar.update(len(canvas.parameters))
    return torch.stack(curve).double().cpu().numpy() if curve else np.zeros((0, len(canvas.parameters)))


def seconds_of_a_step(canvas: Canvas, loss: Loss) -> float:
    """Return how long a step takes, from a few that leave the canvas as it is."""
    times = []
    with outside_inference_mode(), torch.enable_grad(), computing("fp32"):
        for _ in range(TIMED):
            begin = time.perf_counter()
            (gradient,) = torch.autograd.grad(loss(canvas.pictures(), 0).sum(), canvas.parameters)
            gradient.sum().item()  # waits for the device
            times.append(time.perf_counter() - begin)
    return min(times[1:])


def _moved(canvas: Canvas, loss: Loss, step: int, optimiser: torch.optim.Optimizer) -> Tensor:
    """Make one step; returns the loss of each picture before it."""
    losses = loss(canvas.pictures(), step)
    (canvas.parameters.grad,) = torch.autograd.grad(losses.sum(), canvas.parameters)
    optimiser.step()
    canvas.keep_in_range()
    return losses.detach()


def random_of(seed: int, layer: str, number: int, what: int, step: int = 0) -> np.random.Generator:
    """Return the random numbers at an address: those of a picture are the same in whatever batch it is made.

    Args:
        seed: of the job.
        layer: name of the layer.
        number: of the picture within the layer, such as its channel.
        what: is drawn: START, VIEWS or NOISE.
        step: of the optimiser.

    >>> random_of(0, "conv1", 5, START).random() == random_of(0, "conv1", 5, START).random()
    True
    """
    return np.random.default_rng([seed, zlib.crc32(layer.encode()), number, what, step])


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise as float32."""
    return torch.from_numpy(random.standard_normal(shape, np.float32))

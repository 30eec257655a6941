"""Attacks by the sign of the gradient: one step, or many."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.adversarial import unit_length
from deconvviz.cam.methods.shared import require_number
from deconvviz.errors import require_choice
from deconvviz.studies.attack.registry import attack
from deconvviz.studies.attack.victims import Victims, chosen

STARTS = ("uniform", "image")


@attack("fgsm", levels=8)
def fgsm(v: Victims) -> Tensor:
    """x + epsilon sign(dL/dx), cut to 0..1: one step in the direction in which the loss rises.

    Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572, section 4; with targets, Kurakin et al. 2017, 1607.02533.
    """
    return v.ball.nearest(v.x + v.epsilon * v.seen(v.x).gradient.sign())


@attack("pgd", levels=8)
def pgd(
    v: Victims, steps: int = 20, step: float = 0.125, start: str = "uniform", momentum: float = 0.0, stop: bool = True
) -> Tensor:
    """x <- nearest image of the ball to x + step epsilon sign(g), g = dL/dx, `steps` times, from a random image of it.

    Madry et al. 2018, arXiv 1706.06083, section 2.1; start "image" is the iterative method of Kurakin et al. 2017,
    1607.02533. step: as a share of epsilon, by default 2.5 / 20. momentum: g <- momentum g + dL/dx / |dL/dx|_1, Dong et
    al. 2018, arXiv 1710.06081, who take 1. stop: an image that fools the network stays as it is.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("step", step, 0, 2)
    require_number("momentum", momentum, 0, 1)
    require_choice("start", start, STARTS)
    x = v.ball.nearest(v.x + v.epsilon * v.noise) if start == "uniform" else v.x
    x = chosen(v.already, v.x, x) if stop else x
    summed = torch.zeros_like(x)
    for _ in range(steps):
        _, gradient, fooled = v.seen(x)
        summed = momentum * summed + unit_length(gradient) if momentum else gradient
        moved = v.ball.nearest(x + step * v.epsilon * summed.sign())
        x = chosen(fooled, x, moved) if stop else moved
    return x

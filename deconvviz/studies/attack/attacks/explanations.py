"""Attacks that fool a network and an interpreter together, or the interpreter alone: two stages, edges in either.

The first stage moves the decision alone; the second lowers -log p + c L, p the probability of the class that is wanted,
L the sum over the interpreters of the mean square difference between the map and the one that is wanted. An attack on
the explanation alone has the second stage only, in which p is that of the class that the image has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.methods.shared import require_number
from deconvviz.studies.attack.attacks.optimised import Box, Flow, Form
from deconvviz.studies.attack.fooling import Fooling, lead
from deconvviz.studies.attack.registry import fooler
from deconvviz.studies.attack.victims import Best

BEGINNING = 0.5  # of epsilon: the noise from which maps move away, since at the map itself there is no slope


@fooler("pgd", levels=8)
def fooling_pgd(
    f: Fooling,
    steps: int = 20,
    joint_steps: int = 60,
    step: float = 0.125,
    joint_step: float = 0.05,
    weight: float = 50.0,
    last_weight: float = 500.0,
) -> Tensor:
    """x <- nearest image of the ball to x - step epsilon w sign(g): first for the decision, then for maps as well.

    Zhang et al. 2020, USENIX Security (Adv2); with --edges weights, w the edge's strength, or threshold, w = 1 where it
    is above 0.1, AdvEdge and AdvEdge+ of Abdukhamidov et al. 2022, arXiv 2211.15926. steps, step: of the first stage,
    step as a share of epsilon; joint_steps, joint_step: of the second, in which c grows from weight to last_weight.
    Of the images of the second stage that have the class that is wanted, the one with the nearest map is taken.
    """
    _require(steps, joint_steps, weight=weight, last_weight=last_weight)
    require_number("step", step, 0, 2)
    require_number("joint_step", joint_step, 0, 2)
    v = f.victims
    x = v.x
    for _ in range(steps if f.moves_decision else 0):
        x = v.kept(v.ball.nearest(x + step * v.epsilon * f.shares(1) * v.seen(x).gradient.sign()))
    if f.sign < 0:
        x = v.kept(v.ball.nearest(x + BEGINNING * v.epsilon * f.shares(2) * v.noise))
    best = Best.none(x)
    for number in range(joint_steps + 1):
        judged = f.judged(x, _grown(weight, last_weight, number, joint_steps))
        best = best.or_better(x, judged.distance, judged.decided)
        if number < joint_steps:
            x = v.kept(v.ball.nearest(x - joint_step * v.epsilon * f.shares(2) * judged.gradient.sign()))
    return best.or_else(x)


@fooler("cw", levels=255)
def fooling_cw(
    f: Fooling,
    steps: int = 60,
    joint_steps: int = 120,
    rate: float = 0.01,
    length: float = 0.1,
    confidence: float = 5.0,
    weight: float = 50.0,
    last_weight: float = 500.0,
) -> Tensor:
    """Adam on u of `cw`: length |x' - x|^2 + max(confidence - lead, 0) first, then length |x' - x|^2 - log p + c L.

    Abdukhamidov et al. 2022, arXiv 2211.15926, after Carlini and Wagner 2017; with edges x' = x + w (x'' - x), x'' of
    u. Of the images of the second stage that have the class that is wanted, the one with the nearest map is taken; the
    released code keeps those that do not have it yet, and epsilon does not bound them.
    """
    numbers = {"rate": rate, "length": length, "confidence": confidence}
    _require(steps, joint_steps, weight=weight, last_weight=last_weight, **numbers)
    return _by_adam(f, Box(f.victims, length), (steps, joint_steps), rate, confidence, (weight, last_weight))


@fooler("stadv", levels=255)
def fooling_stadv(
    f: Fooling,
    steps: int = 60,
    joint_steps: int = 120,
    rate: float = 0.01,
    tau: float = 0.0005,
    reach: float = 4.0,
    confidence: float = 5.0,
    weight: float = 50.0,
    last_weight: float = 500.0,
) -> Tensor:
    """Adam on the flow of `stadv`: roughness + max(confidence - lead, 0) first, then roughness - log p + c L.

    Abdukhamidov et al. 2022, arXiv 2211.15926, after Xiao et al. 2018; with edges x' = x + w (x'' - x), x'' moved by
    the flow. epsilon and reach are those of `stadv`. Of the images of the second stage that have the class that is
    wanted, the one with the nearest map is taken.
    """
    numbers = {"rate": rate, "tau": tau, "reach": reach, "confidence": confidence}
    _require(steps, joint_steps, weight=weight, last_weight=last_weight, **numbers)
    return _by_adam(f, Flow(f.victims, tau, reach), (steps, joint_steps), rate, confidence, (weight, last_weight))


def _require(steps: int, joint_steps: int, **numbers: float) -> None:
    """Raise DataError unless there are steps of both stages, and the other options are numbers of at least 0."""
    require_number("steps", steps, 1, whole=True)
    require_number("joint_steps", joint_steps, 1, whole=True)
    for name, number in numbers.items():
        require_number(name, number, 0)


def _grown(weight: float, last: float, number: int, steps: int) -> float:
    """Return a weight that grows linearly from the first step to the last."""
    return weight + (last - weight) * min(number / max(steps - 1, 1), 1.0)


def _by_adam(
    f: Fooling, form: Form, steps: tuple[int, int], rate: float, confidence: float, weights: tuple[float, float]
) -> Tensor:
    """Return the best images of both stages of an attack by Adam on the variables of a form."""
    v, variables = f.victims, form.start.clone().requires_grad_()
    optimiser = torch.optim.Adam([variables], lr=rate)
    best, image = Best.none(v.x), v.x
    first = steps[0] if f.moves_decision else 0
    for number in range(first + steps[1] + 1):
        with torch.enable_grad():
            made = v.x + f.shares(1 if number < first else 2) * (form.image(variables) - v.x)
            image = v.kept(made.detach())
            seen = image + (made - made.detach())  # as it is kept, with its graph
            if number < first:
                loss = (confidence - lead(v, v.network.scores(seen))).relu()
            else:
                loss, distance, scores = f.loss(seen, _grown(*weights, number - first, steps[1]))
                best = best.or_better(image, distance.detach(), scores.detach().argmax(1) == f.classes)
            total = (loss + form.cost(variables, seen)).sum()
            (variables.grad,) = torch.autograd.grad(total, variables)
        optimiser.step()
    return best.or_else(image)

"""Relevance from a unit by a rule with settings of its own, such as a tiny epsilon: what `project` does not offer."""

from __future__ import annotations

import torch
from torch import Tensor

import deconvviz as dv
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.relevance import LRP, upper_half
from deconvviz.deconv.rules import PixelBounds
from deconvviz.deconv.windows import Sweep


def relevance(
    network: dv.Network,
    x: Tensor,
    layer: str,
    place: tuple[int, ...],
    rule: str,
    bounds: PixelBounds | None = None,
    epsilon: float = 1e-18,
) -> tuple[Tensor, float]:
    """The relevance of the pixels [C, H, W], and the activation of the unit, from which it starts.

    Args:
        network: BatchNorm is folded first, as in `project`.
        x: [1, C, H, W].
        layer: name of the layer.
        place: (channel, y, x) on its map, or (unit,) of a vector.
        rule: "epsilon", "gamma", "z+", or "composite".
        bounds: see `LRP`.
        epsilon: see `LRP`.
    """
    network = network.without_norms([layer])
    plan = make_plan(network, layer, windowed=False)
    index = (0, *place)
    sweep = Sweep(network, plan, x, Places.of([0], [(0, 0)], x.device))
    with torch.no_grad():
        value = sweep.forward()
        seed = torch.zeros_like(value)
        seed[index] = value[index]
        upper = upper_half(plan.steps) if rule == "composite" else frozenset()
        kind = "gamma" if rule == "composite" else rule
        policy = LRP(kind, epsilon, bounds=bounds, upper=upper, normalisation="pass")  # type: ignore[arg-type]
        return sweep.back(seed, policy)[0], float(value[index])

"""Methods that share out the difference of the score between an image and a baseline among the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import require_number
from deconvviz.cam.occluder import filling
from deconvviz.cam.registry import method
from deconvviz.deconv.rescale import Rescale, line_rule


@method("integrated-gradients", needs="image", passes="2 + steps forward, steps backward")
def integrated_gradients(v: View, steps: int = 50, baseline: float | str | Tensor = 0.0) -> Tensor:
    """Sum over colours of (x - b) times the mean of dy/dx on the straight line from the baseline b to x, signed.

    Sundararajan et al. 2017, arXiv 1703.01365, equation 1; by Gauss and Legendre's rule with `steps` points, as captum.
    baseline: a number in units of the normalised image (0 is the mean colour), images, "blur" or "noise". The map adds
    up to y(x) - y(b); what is missing is in `extras["unexplained"]`. Pixels that equal the baseline get nothing.
    """
    require_number("steps", steps, 1, whole=True)
    start = torch.zeros_like(v.x) + filling(v, baseline)
    total, together = torch.zeros_like(v.x), max(1, v.whole_at_once.size // len(v.x))
    rules = torch.tensor(line_rule(steps), dtype=v.x.dtype, device=v.x.device)
    for rule in torch.split(rules, together):
        places, weights = rule[:, :1, None, None, None], rule[:, 1:, None, None, None]
        points = torch.lerp(start[:, None], v.x[:, None], places.transpose(0, 1))  # [N, points, C, H, W]
        _, slopes = v.slopes(points.flatten(0, 1), v.everyone.repeat_interleave(len(rule)))
        total += (torch.unflatten(slopes, 0, (len(v.x), -1)) * weights[:, 0]).sum(1)
    return _differences(v, total, start)


@method("deeplift", needs="image", passes="4 forward, 2 backward")
def deeplift(v: View, baseline: float | str | Tensor = 0.0) -> Tensor:
    """Sum over colours of (x - b) m, m the product of (f(x) - f(b)) / (x - b) over the non-linear ops f, signed.

    Shrikumar et al. 2017, arXiv 1704.02685, the rescale rule, for the score before the softmax; see `deconv.rescale`
    for max pooling and other ops. baseline and `extras["unexplained"]` are those of integrated-gradients.
    """
    start = torch.zeros_like(v.x) + filling(v, baseline)
    pairs = torch.stack([v.x, start], 1).flatten(0, 1)
    multipliers = v.back(Rescale(len(v.x)), pairs, images=v.everyone.repeat_interleave(2))[::2]
    return _differences(v, multipliers, start)


def _differences(v: View, multipliers: Tensor, start: Tensor) -> Tensor:
    """Return the map of multipliers [N, C, H, W] times the differences from a baseline, [N, H, W]."""
    shares = (v.x - start) * multipliers
    with torch.no_grad():
        score = v.scorer.logit(v.backend(start), v.everyone)
    v.passes["forward"] += len(v.x)
    v.extras["unexplained"] = v.y - score - shares.sum((1, 2, 3))
    return shares.sum(1)

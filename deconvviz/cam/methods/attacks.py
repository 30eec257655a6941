"""Maps of attacks: the pixels that have to be changed for the decision to be another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconvviz.cam.adversarial import ball_around, fewest_changes, fewest_pixels, margin_of
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import require_number
from deconvviz.cam.registry import method
from deconvviz.errors import CamError


@method(
    "sparse-attack",
    needs="image",
    passes="1 + steps + mask_steps + search forward, steps + mask_steps backward",
)
def sparse_attack(v: View, steps: int = 20, mask_steps: int = 60, levels: float = 4.0, search: int = 0) -> Tensor:
    """sigmoid(s), the mask of the smallest mean through which a small change takes the decision away.

    Ours, after AdvMask's attack (Yang et al. 2022, arXiv 2211.16040): s is one logit a pixel, see
    `cam.adversarial.fewest_changes`; theirs is the attack sparse-convolution. The margin is the largest other score
    less the target's. levels: of 255, how far a pixel may go; steps: for the change, levels / 2 each; mask_steps: for
    the mask; search: with a number above 0 the map is 1 at the key points and 0 elsewhere: the first pixels by s that
    are enough, their number found by asking so often (17 are exact up to 256 px). There are none where all pixels do
    not suffice, or the decision is another.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("mask_steps", mask_steps, 1, whole=True)
    require_number("levels", levels, 0, 255)
    require_number("search", search, 0, whole=True)
    classes = v.scorer.classes
    if classes is None:
        raise CamError("sparse-attack takes the decision for a class away, and the target is no class; take mask")

    def margin(output: Any, images: Tensor) -> Tensor:
        return margin_of(v.readout.scores(output), classes[images])

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        return v.slopes(x, v.everyone, margin)

    black, white = (bound[:, :, None, None] for bound in v.bounds())
    radius = levels / 255 * (white - black).double()
    changes = fewest_changes(slopes, v.x, ball_around(v.x, radius, black, white), radius.to(v.x) / 2, steps, mask_steps)
    if not search:
        return torch.sigmoid(changes.logits)

    def fooled(x: Tensor) -> Tensor:
        return v.masked(1, lambda images, _: torch.zeros_like(v.x[images, 0]), margin, fill=x)[:, 0] > 0

    points = fewest_pixels(fooled, v.x, changes, margin(v.output, v.everyone) > 0, search)
    return points.to(v.x)

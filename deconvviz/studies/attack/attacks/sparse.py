"""The attack with the fewest pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.cam.adversarial import fewest_changes, fewest_pixels
from deconvviz.cam.methods.shared import require_number
from deconvviz.studies.attack.registry import attack
from deconvviz.studies.attack.victims import Victims


@attack("sparse", levels=4)
def sparse(v: Victims, steps: int = 20, mask_steps: int = 60) -> Tensor:
    """x + m n: the fewest pixels m in 0 or 1 whose change n, at most epsilon, fools the network; its key points.

    Ours, after AdvMask's attack (Yang et al. 2022, arXiv 2211.16040), whose own form is sparse-convolution: one logit a
    pixel in the place of a convolution as large as the image, the margin in the place of the cross-entropy, and the
    number of pixels by halving; see `cam.adversarial.fewest_changes`. steps: for all pixels, epsilon / 2 each;
    mask_steps: for the mask. Where not even the change of all pixels is enough, the image stays as it is.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("mask_steps", mask_steps, 1, whole=True)

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        return v.seen(x, "margin")[:2]

    changes = fewest_changes(slopes, v.x, v.ball, v.epsilon / 2, steps, mask_steps)
    points = fewest_pixels(v.fooled, v.x, changes, v.already)
    return torch.where(points[:, None], changes.full, v.x)

"""The attack with the fewest pixels, whose mask is a convolution as large as the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconvviz.cam.adversarial import DECAY, full_change, unit_length
from deconvviz.cam.methods.shared import require_number
from deconvviz.studies.attack.mask_convolution import MaskConvolution, require_room, together
from deconvviz.studies.attack.registry import attack
from deconvviz.studies.attack.victims import Best, Victims

CROWDING = (10.0, 1.0)  # of the first try, and of the second where the first finds nothing
SHARPNESS = (0.1, 100.0)  # of the mask, in the first step and in the last
LAST = 6  # the last step in so many is one of those in which the mask is to become one of 0 and 1
HURRY = 10.0  # so much faster the sharpness grows then, while the mask is not of 0 and 1
CRISP, ENOUGH = 0.01, 0.99  # from 0 or from 1, and the share of the pixels that have to be so
BEYOND = 0.05  # what a gain below 0 counts


@attack("sparse-convolution", levels=4, room=require_room)
def sparse_convolution(v: Victims, steps: int = 80, mask_steps: int = 360) -> Tensor:
    """min L(x + m n) + (1 + 10 r) mean(m), m = sigmoid(a s(n)), s a convolution as large as the image: its key points.

    From the released code of IPF-RDA (the authors of AdvMask, Yang et al. 2022, arXiv 2211.16040; that AdvMask's own is
    the same is not confirmed): n begins by `steps` steps of PGD, epsilon / 2 each. s has C H W x H W weights and begins
    anew for each image; a grows from 0.1 to 100 over `mask_steps`, ten times as fast in the last sixth while less than
    99 % of m are within 0.01 of 0 or 1. L = 1 - CE / CE(first n), times 0.05 below 0; r is the share of m > 0.5. A step
    is one of SGD on s (0.01, momentum 0.9, decay 0.0005) and one by epsilon / 2 on n. The key points are m > 0.5 where
    they fool the network; else again with 1 in the place of 10; else none, and the image stays as it is.

    Ours, where that is silent: s has a bias and begins as torch's layers do; the gradient of n goes through s too, and
    its momentum begins anew; points are tried in the last sixth of the steps, as they are kept, and the fewest are
    taken; towards a target, CE is -log(1 - p). Images of more than 2^29 weights (115 x 115 px) are refused.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("mask_steps", mask_steps, 1, whole=True)
    attacked, size = v.x.clone(), together(tuple(v.x.shape[1:]), mask_steps)
    waiting = _places(~v.already)
    for start in range(0, len(waiting), size):
        group = waiting[start : start + size]
        attacked[group] = _attacked(v.part(group), steps, mask_steps)
    return attacked


def _attacked(v: Victims, steps: int, mask_steps: int) -> Tensor:
    """Return the attacked images of a group. Between two tries it waits for the device, once in hundreds of passes."""
    begun = v.ball.nearest(v.x + v.epsilon * v.noise)
    full = full_change(lambda x: v.seen(x, "cross-entropy")[:2], begun, v.ball, v.epsilon / 2, steps)
    best = Best.none(v.x.clone())
    for crowding in CROWDING:
        left = _places(best.cost.isinf())
        if left:
            found = fewest_points(v.part(left), full[left], mask_steps, crowding)
            best.image[left], best.cost[left] = found
    return best.image


def fewest_points(v: Victims, full: Tensor, steps: int, crowding: float) -> Best:
    """Return the images with the fewest changed pixels that fool the network; the cost is the number of these.

    Args:
        v: the images, [N, C, H, W].
        full: [N, C, H, W], with every pixel changed.
        steps: of the mask.
        crowding: the 10 of (1 + 10 r).
    """
    best, momentum, convolution = Best.none(v.x), torch.zeros_like(v.x), MaskConvolution(v, steps)
    with torch.no_grad():
        hardest = v.entropy(v.network.scores(full)).clamp(min=torch.finfo(v.x.dtype).tiny)
    values, last = convolution(full - v.x), steps - math.ceil(steps / LAST)
    sharpness = torch.full_like(hardest, SHARPNESS[0])
    growth = (SHARPNESS[1] - SHARPNESS[0]) / max(steps - 1, 1)
    for number in range(steps):
        change = full - v.x
        mask, of_change, of_values = _slopes(v, change, values, sharpness, hardest, crowding)
        momentum = DECAY * momentum + unit_length(of_change + convolution.back(of_values, change))
        convolution.learn(of_values, change)
        full = v.ball.nearest(full - v.epsilon / 2 * momentum.sign())
        values = convolution(full - v.x)
        faster = torch.ones_like(sharpness)
        if number >= last:
            best = _tried(v, best, values > 0, full)
            crisp = ((mask < CRISP) | (mask > 1 - CRISP)).to(mask.dtype).mean((1, 2))
            faster = torch.where(crisp < ENOUGH, HURRY, faster)
        sharpness = sharpness + growth * faster
    return best


def _slopes(
    v: Victims, change: Tensor, values: Tensor, sharpness: Tensor, hardest: Tensor, crowding: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mask m, [N, H, W], and the gradients of the loss with respect to n, with m as it is, and to s.

    Args:
        v: the images.
        change: n, [N, C, H, W].
        values: s, [N, H, W].
        sharpness: a, [N].
        hardest: [N], the cross-entropy of the images with every pixel changed, as the search began.
        crowding: the 10 of (1 + 10 r).
    """
    with torch.enable_grad():
        n, s = change.detach().requires_grad_(), values.detach().requires_grad_()
        mask = torch.sigmoid(sharpness[:, None, None] * s)
        gain = 1 - v.entropy(v.network.scores(v.x + mask[:, None] * n)) / hardest
        share = (mask > 0.5).to(mask.dtype).mean((1, 2))
        loss = torch.where(gain < 0, BEYOND * gain, gain) + (1 + crowding * share) * mask.mean((1, 2))
        of_change, of_values = torch.autograd.grad(loss.sum(), (n, s))
    return mask.detach(), of_change, of_values


def _tried(v: Victims, best: Best, points: Tensor, full: Tensor) -> Best:
    """Return the better of the best images so far and those whose points, bool [N, H, W], alone are changed."""
    image = v.kept(torch.where(points[:, None], full, v.x))
    return best.or_better(image, (image != v.x).any(1).sum((1, 2)).to(best.cost), v.fooled(image))


def _places(which: Tensor) -> list[int]:
    """Return where bool [N] is true."""
    return [int(place) for place in which.nonzero()[:, 0].tolist()]

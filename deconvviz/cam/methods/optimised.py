"""Masks that are optimised for one image: what has to be hidden, or kept, for the score to fall or to stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.backend import Read
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import require_number
from deconvviz.cam.registry import method
from deconvviz.cam.shaping import gaussian_blur
from deconvviz.errors import require_choice
from deconvviz.lengths import BlurWindow, Length

LEVELS = 8  # of blur in the pyramid, from all of it to none
COLDNESS = 20.0  # of the smooth maximum
Function = Callable[[Tensor], Tensor]
GAMES = ("preserve", "delete", "dual")


@method("mask", needs="image", lengths={"blur": BlurWindow(11, 10.0)}, passes="1 + steps forward, steps backward")
def mask(
    v: View,
    steps: int = 400,
    cells: int = 28,
    rate: float = 0.1,
    area: float = 1e-2,
    smooth: float = 1e-4,
    *,
    blur: tuple[int, float],
) -> Tensor:
    """1 - m, m the mask in 0..1 that minimises p(x m + blurred (1 - m)) + area mean|1 - m| + smooth sum |dm|^3.

    Fong and Vedaldi 2017, arXiv 1704.03296, equation 4; cells x cells values from 0.5, bilinear, by `steps` of Adam, as
    in a released implementation, without jitter. blur: kernel size and sigma in pixels; by default 11 and 10 of 224 px.
    Where p is near 1 its slope is nearly zero until much is hidden: the small costs shape the mask, and it is diffuse.
    """
    require_number("steps", steps, 1, whole=True)
    require_number("cells", cells, 2, whole=True)
    blurred = gaussian_blur(v.x, *blur)
    leaf = v.x.new_full((len(v.x), min(cells, v.size[0]), min(cells, v.size[1])), 0.5)
    optimiser = torch.optim.Adam([leaf], lr=rate)

    def changed(values: Tensor) -> Tensor:
        kept = v.up(values)[:, None]
        return v.x * kept + blurred * (1 - kept)

    def penalty(values: Tensor) -> Tensor:
        down, across = values.diff(dim=1)[:, :, :-1], values.diff(dim=2)[:, :-1]
        steep = (down**2 + across**2 + 1e-20) ** 1.5
        return area * (1 - values).abs().mean((1, 2)).sum() + smooth * steep.sum()

    for _ in range(steps):
        leaf.grad = _slope(v, leaf, lambda values: values, changed, v.scorer.probability, penalty)
        optimiser.step()
        leaf.clamp_(0, 1)
    return 1 - v.up(leaf)


@method(
    "extremal-perturbation",
    needs="image",
    lengths={"step": Length(7), "sigma": Length(21), "blur": Length(20)},
    passes="1 + steps forward, steps backward",
)
def extremal_perturbation(
    v: View, area: float = 0.1, steps: int = 800, game: str = "preserve", *, step: int, sigma: int, blur: int
) -> Tensor:
    """The smooth mask of a fixed area that keeps y highest where the rest of the image is blurred.

    Fong et al. 2019, arXiv 1910.08485, equations 3 to 7, with the constants of the released code: the mask's sorted
    values are held at `area` by a weight that grows from 300 by 1.0035 a step; SGD of 0.01, momentum 0.9; every other
    step sees the image flipped. game: "preserve", "delete" or "dual", which runs twice as much. step, sigma: of the
    mask's grid and its smooth maximum; blur: the strongest; in pixels, by default 7, 21 and 20 of 224. Other areas give
    other masks.
    """
    require_number("area", area, 0.001, 0.999)
    require_number("steps", steps, 1, whole=True)
    require_choice("game", game, GAMES)
    levels = [blur * (1 - level / (LEVELS - 1)) for level in range(LEVELS)]
    pyramid = torch.stack([gaussian_blur(v.x, 2 * math.ceil(3 * s) + 1, s) if s else v.x for s in levels], 1)
    places = v.x.shape[2] * v.x.shape[3]
    wanted = (torch.arange(places, device=v.x.device) >= round((1 - area) * places)).to(v.x)
    smoothed = _smooth_masks(v, step, sigma)
    leaf = v.x.new_ones(len(v.x), 1, *(math.ceil(side / step) for side in v.size))
    optimiser = torch.optim.SGD([leaf], lr=0.01, momentum=0.9, dampening=0.9)
    number, flipped, weight = 0, False, 300.0

    def blurred(masks: Tensor) -> Tensor:
        images = _at_level(pyramid, masks)
        return images.flip(-1) if flipped else images

    def penalty(masks: Tensor) -> Tensor:
        ordered = masks.flatten(1).sort(1).values
        # All values are equal at first, and sorting would keep the last rows: each is to be the area then.
        goal = wanted.mean() if number == 0 else wanted
        return weight * (ordered - goal).square().mean(1).sum()

    def fallen(output: object, images: Tensor) -> Tensor:
        return -v.scorer.logit(output, images)

    for number in range(steps):
        flipped = number % 2 == 1
        grads = [torch.zeros_like(leaf)]
        if game != "delete":
            grads.append(_slope(v, leaf, smoothed, blurred, fallen, penalty))
        if game != "preserve":
            bare = None if game == "dual" else penalty  # the area counts once
            grads.append(_slope(v, leaf, smoothed, lambda masks: blurred(1 - masks), v.scorer.logit, bare))
        leaf.grad = torch.stack(grads).sum(0)
        optimiser.step()
        leaf.clamp_(0, 1)
        weight *= 1.0035
    return smoothed(leaf)


def _slope(v: View, leaf: Tensor, shaped: Function, changed: Function, read: Read, penalty: Function | None) -> Tensor:
    """Return the gradient of a score of changed images, and of a penalty, with respect to a mask's values.

    shaped: makes masks of the values; changed: makes images of the masks; penalty: of the masks.
    """
    with torch.enable_grad():
        values = leaf.detach().clone().requires_grad_()
        masks = shaped(values)
        images = changed(masks)
        _, slopes = v.slopes(images.detach(), v.everyone, read)
        loss = (images * slopes).sum() + (0 if penalty is None else penalty(masks))
        (gradient,) = torch.autograd.grad(loss, values)
    return gradient


def _at_level(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Return images of which each pixel is blurred by 1 - mask, between the levels of a pyramid [N, L, C, H, W]."""
    level = masks * (LEVELS - 1)
    below = level.detach().floor().clamp(0, LEVELS - 2)
    share, index = (level - below)[:, None, None], below.long()[:, None, None].expand(-1, 1, *pyramid.shape[2:])
    return torch.lerp(pyramid.gather(1, index), pyramid.gather(1, index + 1), share)[:, 0]


def _smooth_masks(v: View, step: int, sigma: int) -> Callable[[Tensor], Tensor]:
    """Return a function from a grid's values [N, 1, h, w] to masks [N, H, W]: a smooth maximum over near points.

    A point at the distance d counts k(d) = exp(-2 max(d / sigma - 1/2, 0)^2) of its value, and the maximum z of these
    is sum softmax(20 z) z.
    """
    radius = 1 + math.ceil(sigma / step)
    side = 2 * radius + 1
    offsets = []
    for length in v.size:
        pixel = torch.arange(length, device=v.x.device)
        points = pixel[None] // step + torch.arange(-radius, radius + 1, device=v.x.device)[:, None]
        offsets.append(pixel[None] - (points + 0.5) * step + 0.5)
    distance = (offsets[0][:, None, :, None].square() + offsets[1][None, :, None, :].square()).sqrt() / sigma
    kernel = torch.exp(-2 * (distance - 0.5).clamp(min=0) ** 2).flatten(0, 1).to(v.x)  # [side^2, H, W]

    def smoothed(values: Tensor) -> Tensor:
        near = torch.unflatten(functional.unfold(values, side, padding=radius), 2, values.shape[2:])
        large = near.repeat_interleave(step, 2).repeat_interleave(step, 3)[..., : v.size[0], : v.size[1]] * kernel
        masks: Tensor = ((COLDNESS * large).softmax(1) * large).sum(1)
        return masks

    return smoothed

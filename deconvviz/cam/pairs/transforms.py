"""Methods for pairs that change the colours of an image and ask which pixels keep the similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.pairs.draws import Colours, covers
from deconvviz.cam.pairs.registry import pair_method
from deconvviz.cam.pairs.similarity import EmbeddingView
from deconvviz.cam.shaping import gaussian_blur, min_max
from deconvviz.deconv.rules import Policy
from deconvviz.errors import DataError, require_choice

PIXEL_RULES = ("gradient", "guided")
STRENGTHS = torch.logspace(-4, 4, 33, dtype=torch.float64)  # of the ridge, in units of the mean eigenvalue
SURROGATE_BLUR = 11, 5.0  # window and sigma on the surrogate's own grid


@pair_method("averaged-transforms", reads="each", cost="10 forward passes an image, and 9 back to the pixels")
def averaged_transforms(
    v: EmbeddingView, transforms: int = 1, step: float = 0.1, rule: str = "gradient", noise: float = 0.0
) -> Tensor:
    """max over colours of |x mean gradient of s|, the mean over mixes l x + (1 - l) t(x), l = 0.9, 0.8 .. 0.1.

    Sammani et al. 2022, for one image x and its transform: the gradients of cos(f(x), f(mix)) to the mix. Here the
    other image's embedding takes the place of f(x), so that two images are explained; for two equal images it is the
    published one, but for the last factor, which is x and not the last mix. t changes colours and moves no pixel.
    transforms: how many t are averaged over; step: between two l; rule: "gradient" or "guided"; noise: standard
    deviation of noise on the mixes, as a share of the image's range (the release divides by the range).
    """
    require_choice("rule", rule, PIXEL_RULES)
    if transforms < 1 or not 0 < step < 1:
        raise DataError(f"transforms {transforms} and step {step:g} given; expected 1 or more, and above 0 and below 1")
    colours, policy = Colours(v.x, v.black_and_white, v.seed), Policy(rule, lrn="gradient")
    spread = noise * (v.x.amax((1, 2, 3), keepdim=True) - v.x.amin((1, 2, 3), keepdim=True))
    shares = [1 - step * number for number in range(1, round(1 / step)) if 1 - step * number > 1e-9]
    total = torch.zeros_like(v.x)
    for transform in range(transforms):
        changed = colours.changed(transform)
        for number, share in enumerate(shares):
            mix = share * v.x + (1 - share) * changed
            if noise:
                drawn = v.noise(torch.tensor([transform * len(shares) + number]), tuple(v.x.shape[1:]))
                mix = mix + spread * drawn
            total += v.back(policy, mix)
    return (v.x * total / (transforms * len(shares))).abs().amax(1)


@pair_method("pixel-invariance", reads="each", cost="1001 forward passes an image: one for each draw")
def pixel_invariance(
    v: EmbeddingView, draws: int = 1000, pixels: int = 64, floor: float = 0.5, blur: bool = True
) -> Tensor:
    """Weights of a linear model that predicts s from pixels, over changes of colour and erased boxes; max over colours.

    Sammani et al. 2022, for one image: s = cos(f(x), f(t(x))). Here the other image's embedding takes the place of
    f(x). pixels: side of the small images that the model reads; floor: weights below, after scaling to 0..1, are zero;
    blur: the map is blurred on the small images' grid.
    The release trains by SGD with binary cross-entropy, which is not for a cosine below 0, and from random weights,
    whose noise stays in the map. Here the model is ridge regression, solved exactly; its strength is chosen by
    generalised cross-validation (Golub, Heath and Wahba 1979), our choice.
    """
    if draws < 10 or pixels < 2 or not 0 <= floor < 1:
        raise DataError(
            f"draws {draws}, pixels {pixels} and floor {floor:g} given; expected 10 or more, 2 or more, and a share "
            "from 0 to below 1"
        )
    colours, explained = Colours(v.x, v.black_and_white, v.seed), []
    maps = torch.empty(len(v.x), min(pixels, v.size[0]), min(pixels, v.size[1]), dtype=v.x.dtype, device=v.x.device)
    for image in range(len(v.x)):
        small, scores = _drawn(v, colours, image, draws, maps.shape[1:])
        weights, share = ridge(small.flatten(1).double(), scores.double())
        explained.append(share)
        maps[image] = min_max(weights.reshape(small.shape[1:]).amax(0)).to(maps.dtype)
    v.extras["explained variance"] = torch.stack(explained).to(v.x)
    maps = torch.where(maps < floor, 0.0, maps)
    return gaussian_blur(maps[:, None], *SURROGATE_BLUR)[:, 0] if blur else maps


def _drawn(v: EmbeddingView, colours: Colours, image: int, draws: int, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Return one image after each draw at a small size, [draws, C, h, w], and the scores of these, [draws]."""
    small, scores = [], []
    for start in range(0, draws, v.batch_size):
        changed = torch.cat(
            [_erased(v, colours, image, draw) for draw in range(start, min(start + v.batch_size, draws))]
        )
        scores.append(v.scored(changed, torch.full((len(changed),), image, device=v.x.device)))
        small.append(functional.interpolate(changed, size=tuple(size), mode="area"))
    return torch.cat(small), torch.cat(scores)


def _erased(v: EmbeddingView, colours: Colours, image: int, draw: int) -> Tensor:
    """Return an image after a draw, [1, C, H, W]: its colours changed, and perhaps a box filled with zeros."""
    changed, box = colours.changed(draw, slice(image, image + 1)), colours.box(draw)
    if box is None:
        return changed
    return changed.masked_fill(covers(torch.tensor([box], device=v.x.device), v.size)[:, None], 0.0)


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of a ridge regression with an intercept, of the strength that cross-validates best.

    Args:
        x: float64 [n, p].
        y: float64 [n].

    Returns:
        The weights [p], and the share of the variance of y that they explain in generalised cross-validation, a
        scalar; below 0 where the mean predicts better. Zeros where x or y does not vary.

    Source: Golub, Heath and Wahba 1979, equation 1.4, over 33 strengths from 1e-4 to 1e4 times the mean eigenvalue.

    >>> x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> weights, share = ridge(x, x @ torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64) + 5)
    >>> [round(weight, 2) for weight in weights.tolist()], float(share) > 0.99
    ([1.0, 0.0, -2.0], True)
    """
    x, y = x - x.mean(0), y - y.mean()
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, rotated = values.clamp(min=0), vectors.T @ y
    if float(values.sum()) <= 0 or float(y.square().sum()) <= 1e-24 * len(y):
        return x.new_zeros(x.shape[1]), x.new_zeros(())
    strengths = STRENGTHS.to(x.device) * values.mean()
    left = strengths[:, None] / (values + strengths[:, None])  # the residual is this share of y, direction by direction
    residual, freedom = (left * rotated).square().sum(1), left.sum(1) - 1  # the mean takes one degree
    errors = len(y) * residual / freedom.clamp(min=1e-9).square()
    best = errors.argmin()
    coefficients = vectors @ (rotated / (values + strengths[best]))
    share = 1 - errors[best] / (y.square().sum() / (len(y) - 1) * len(y) / (len(y) - 1))
    return x.T @ coefficients, share

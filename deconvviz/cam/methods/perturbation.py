"""Methods that change the image or the layer and read the score of the changed one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.arrays import widened
from deconvviz.cam.backend import Make
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import channel_masks, mean, significant, weighted
from deconvviz.cam.registry import method
from deconvviz.cam.shaping import gaussian_blur, min_max
from deconvviz.errors import require_choice
from deconvviz.lengths import STRONG_BLUR


@method("ablation-cam", passes="1 forward, K tail")
def ablation_cam(v: View) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = (y - y without map k) / |y|. Desai and Ramaswamy 2020 (WACV), equations 3 and 4.

    The paper divides by y; |y| keeps the signs right where a score is negative.
    """

    every = torch.arange(v.A.shape[1], device=v.A.device)

    def without(images: Tensor, channels: Tensor) -> Tensor:
        return v.A[images].masked_fill((every == channels[:, None])[:, :, None, None], 0)

    drop = significant(v.y[:, None] - v.after(v.A.shape[1], without), v.y[:, None])
    return weighted(drop / v.y.abs().clamp(min=1e-12)[:, None], v.A).relu()


@method("score-cam", passes="up to 1 + K forward")
def score_cam(v: View, weights: str = "probability") -> Tensor:
    """ReLU(sum_k w_k up(A_k)), w_k = p(x * mm(up(A_k))). Wang et al. 2020, arXiv 1910.01279, algorithm 1.

    weights: "probability" as the authors' code; "increase" over a black image, through a softmax over the channels, as
    the paper; "logit" through a softmax over the channels, as pytorch-grad-cam and torch-cam.
    """
    require_choice("weights", weights, ("probability", "increase", "logit"))
    masks, varied = channel_masks(v)
    if weights == "probability":
        return v.up(weighted(v.masked(v.A.shape[1], masks, keep=varied), v.A)).relu()
    # The black image's score, which the paper subtracts, is the same for all channels: the softmax cancels it.
    scores = v.masked(v.A.shape[1], masks, v.scorer.logit if weights == "logit" else None, keep=varied)
    shares = scores.masked_fill(~varied, -torch.inf).softmax(1).nan_to_num(0)  # no channel varies: nothing to share
    return v.up(weighted(shares, v.A)).relu()


@method("ss-cam", passes="up to 1 + K * samples forward")
def ss_cam(v: View, samples: int = 10, sigma: float = 2.0) -> Tensor:
    """Score-CAM with smoothed scores: mean of p over `samples` masks with Gaussian noise. Wang et al. 2020,
    arXiv 2006.14255, the variant that adds noise to the mask; the paper takes 35 samples."""
    masks, varied = channel_masks(v)

    def noisy(images: Tensor, variants: Tensor) -> Tensor:
        return masks(images, variants // samples) + sigma * v.noise(variants, v.size)

    return _averaged(v, noisy, varied, samples)


@method("is-cam", passes="up to 1 + K * samples forward")
def is_cam(v: View, samples: int = 10) -> Tensor:
    """Score-CAM with integrated scores: mean of p over masks scaled by i / n, i = 1 .. n. Naidu et al. 2020,
    arXiv 2010.03023. (torch-cam scales by a running sum of i / n, which exceeds 1.)"""
    masks, varied = channel_masks(v)

    def scaled(images: Tensor, variants: Tensor) -> Tensor:
        share = (variants % samples + 1).to(v.x.dtype) / samples
        return masks(images, variants // samples) * share[:, None, None]

    return _averaged(v, scaled, varied, samples)


def _averaged(v: View, make: Make, varied: Tensor, samples: int) -> Tensor:
    """Weigh each channel by the mean score of its samples; the samples of one channel are consecutive variants."""
    keep = varied.repeat_interleave(samples, 1)
    scores = v.masked(keep.shape[1], make, keep=keep).reshape(*varied.shape, samples).mean(2)
    return v.up(weighted(scores, v.A)).relu()


@method("group-cam", lengths={"blur": STRONG_BLUR}, passes="up to 2 + groups forward, 1 tail backward")
def group_cam(v: View, *, groups: int = 32, percentile: float = 70.0, blur: tuple[int, float]) -> Tensor:
    """Masks of groups of channels, scored by what they restore of a blurred image. Zhang et al. 2021, arXiv 2103.13859.

    A group's mask is ReLU(sum mean(g_k) A_k) with what is below its percentile set to zero, through min-max and
    resized; its weight ReLU(p(x M + blurred (1 - M)) - p(blurred)). blur: kernel size and sigma in pixels; by
    default 51 and 50 of 224 px.
    """
    weighed = mean(v.g)[:, :, None, None] * v.A
    parts = torch.stack([part.sum(1) for part in torch.chunk(weighed, groups, 1)], 1).relu()
    floor = quantile(parts.flatten(2), percentile / 100)[..., None]
    parts = min_max(torch.where(parts < floor, 0.0, parts))

    def masks(images: Tensor, variants: Tensor) -> Tensor:
        return v.up(parts[images, variants])

    blurred = gaussian_blur(v.x, *blur)
    gain = v.masked(parts.shape[1], masks, fill=blurred)
    nothing = v.masked(1, lambda images, _: v.x.new_zeros(len(images), *v.size), fill=blurred)
    return v.combined((gain - nothing).relu(), masks).relu()


@method("sidu", passes="1 + K forward")
def sidu(v: View, threshold: float = 0.1, sigma: float = 0.25) -> Tensor:
    """sum_k SD_k U_k M_k / (K / 2): how like the image a mask's prediction is, times how unlike the other masks'.

    Muddamsetty et al. 2020, arXiv 2006.03122; M_k = up(1[A_k > threshold]), as the authors' code.
    """

    def masks(images: Tensor, channels: Tensor) -> Tensor:
        return v.up((v.A[images, channels] > threshold).to(v.x.dtype))

    count = v.A.shape[1]
    vectors = v.masked(count, masks, lambda output, _: v.readout.probabilities_of(output))  # [N, K, C]
    here = vectors[v.everyone, :, v.scorer.classes]
    alike = torch.exp(-((v.p[:, None] - here) ** 2) / sigma**2).sqrt()
    wide = vectors.to(widened(vectors.dtype))
    apart = torch.cdist(wide, wide).sum(2)
    low, high = apart.amin(1, keepdim=True), apart.amax(1, keepdim=True)
    unique = (apart - low) / (high - low).clamp(min=1e-12)
    return v.combined((alike * unique / (0.5 * count)).to(v.x.dtype), masks)


@method("fd-cam", passes="1 forward, 2 * K tail, 1 tail backward")
def fd_cam(v: View, share: float = 0.95) -> Tensor:
    """Channels grouped by cosine similarity, switched on and off together. Li et al. 2022, arXiv 2206.08792.

    s_k = y(only the group of k) + y - y(without it); w_k = exp(mm(s)_k) mm(mean g)_k - 0.5; ReLU(sum w_k A_k).
    share: a channel's group is those more alike to it than this share of all.
    """
    slopes = mean(v.g)
    flat = functional.normalize(v.A.flatten(2), dim=2, eps=1e-12)
    alike = flat @ flat.transpose(1, 2)
    group = alike > quantile(alike, share)  # [N, K, K]
    count = v.A.shape[1]

    def switched(images: Tensor, variants: Tensor) -> Tensor:
        members = group[images, variants % count] ^ (variants >= count)[:, None]
        return v.A[images] * members[:, :, None, None]

    scores = v.after(2 * count, switched)
    worth = scores[:, :count] + v.y[:, None] - scores[:, count:]
    weights = torch.exp(_min_max_row(worth)) * _min_max_row(slopes) - 0.5
    return weighted(weights, v.A).relu()


def quantile(values: Tensor, share: float) -> Tensor:
    """Return the quantile of the last axis, kept; half precision is widened for it."""
    return torch.quantile(values.to(widened(values.dtype)), share, dim=-1, keepdim=True).to(values.dtype)


def _min_max_row(values: Tensor) -> Tensor:
    return min_max(values[:, None])[:, 0]


@method("shap-cam", passes="1 forward, permutations * (P + 1) tail")
def shap_cam(v: View, permutations: int = 16) -> Tensor:
    """Shapley values of the layer's positions, by Monte Carlo: the mean gain in p when one joins those before it.

    After Zheng et al. 2022 (ECCV), arXiv 2208.03608, who go on to weights of channels, for which no code is published;
    absent positions are zero. The map's standard error is in `extras["standard error"]`.
    """
    _, _, rows, columns = v.A.shape
    places = rows * columns
    generator = torch.Generator().manual_seed(v.seed)
    orders = torch.stack([torch.randperm(places, generator=generator) for _ in range(permutations)])
    return shapley(v, orders)


def shapley(v: View, orders: Tensor) -> Tensor:
    """Return the mean marginal contributions of positions over `orders` [n, h w], signed, [N, h, w]."""
    _, _, rows, columns = v.A.shape
    count, places = orders.shape
    rank = torch.empty_like(orders).scatter_(1, orders, torch.arange(places).expand(count, -1)).to(v.x.device)

    def joined(images: Tensor, variants: Tensor) -> Tensor:
        present = rank[variants // (places + 1)] < (variants % (places + 1))[:, None]
        return v.A[images] * present.reshape(-1, 1, rows, columns)

    scores = v.after(count * (places + 1), joined, v.scorer.probability).reshape(len(v.x), count, places + 1)
    # [N, n, h w], by position
    gains = significant(scores.diff(dim=2), scores[..., 1:]).gather(2, rank.expand(len(v.x), -1, -1))
    spread = gains.std(1) if count > 1 else torch.full_like(gains[:, 0], torch.inf)
    v.extras["standard error"] = (spread / math.sqrt(count)).reshape(-1, rows, columns)
    return gains.mean(1).reshape(-1, rows, columns)


@method("recipro-cam", passes="1 forward, P tail")
def recipro_cam(v: View, gaussian: bool = True) -> Tensor:
    """p of the layer with one position kept: L[i, j] = p(A at (i, j), zero elsewhere). Byun and Lee 2022,
    arXiv 2209.14074. gaussian: the position's vector spread over its 3x3 neighbours by a Gaussian, as the paper."""
    _, _, rows, columns = v.A.shape
    line = v.A.new_tensor([1, 2, 1]) / 4 if gaussian else None  # the kernel is its outer product, exact in binary
    down_of_row, across_of_column = (torch.arange(side, device=v.A.device) for side in (rows, columns))

    def kept(images: Tensor, positions: Tensor) -> Tensor:
        y, x = positions // columns, positions % columns
        vectors = v.A[images, :, y, x]
        down, across = down_of_row - y[:, None], across_of_column - x[:, None]  # from the position, [m, h] and [m, w]
        if line is None:
            place = (down == 0)[:, :, None] & (across == 0)[:, None]
        else:
            along = [torch.where(d.abs() <= 1, line[(d + 1).clamp(0, 2)], 0) for d in (down, across)]
            place = along[0][:, :, None] * along[1][:, None]
        return vectors[:, :, None, None] * place[:, None]

    return v.after(rows * columns, kept, v.scorer.probability).reshape(len(v.x), rows, columns)

"""Methods that weigh a layer's maps by gradients, or by nothing but themselves.

A [N, K, h, w] are the maps, g the gradient of the target's score (its logit) with respect to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import channel_masks, mean, require_number, weighted
from deconvviz.cam.registry import method
from deconvviz.errors import CamError, require_choice


@method("grad-cam", passes="1 forward, 1 tail backward")
def grad_cam(v: View) -> Tensor:
    """ReLU(sum_k mean(g_k) A_k). Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2."""
    return weighted(mean(v.g), v.A).relu()


@method("grad-cam++", passes="1 forward, 1 tail backward")
def grad_cam_plus_plus(v: View) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum alpha ReLU(e^S g), alpha = g^2 / (2 g^2 + g^3 sum A); Y = e^S makes it closed.

    Chattopadhay et al. 2018, arXiv 1710.11063, equations 10 and 19. The factor e^S scales a whole map and is left out;
    the authors' code also divides alpha by its sum over a channel, which the paper does not.
    """
    below = 2 * v.g**2 + v.g**3 * v.A.sum((2, 3), keepdim=True)
    alpha = v.g**2 / torch.where(below == 0, torch.ones_like(below), below)
    return weighted((alpha * v.g.relu()).sum((2, 3)), v.A).relu()


@method("xgrad-cam", passes="1 forward, 1 tail backward")
def xgrad_cam(v: View) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum(g A) / (sum A + 1e-6). Fu et al. 2020, arXiv 2008.02312, equation 8."""
    return weighted((v.g * v.A).sum((2, 3)) / (v.A.sum((2, 3)) + 1e-6), v.A).relu()


@method("hirescam", passes="1 forward, 1 tail backward")
def hires_cam(v: View) -> Tensor:
    """sum_k g_k A_k, element by element, signed. Draelos and Carin 2020, arXiv 2011.08891."""
    return (v.g * v.A).sum(1)


@method("layercam", fuse="max", passes="1 forward, 1 tail backward")
def layer_cam(v: View) -> Tensor:
    """ReLU(sum_k ReLU(g_k) A_k), element by element. Jiang et al. 2021 (TIP), equations 6 to 8; several layers are
    fused by the maximum of tanh(2 L / max L), equation 9."""
    return (v.g.relu() * v.A).sum(1).relu()


@method("abs-cam", passes="1 forward, 1 tail backward")
def abs_cam(v: View, refined: bool = False) -> Tensor:
    """ReLU(sum_k mean(|g_k|) A_k). Zeng et al. 2022, arXiv 2207.03648, its first stage.

    refined: the second stage as a third party has it: the channels' masks scored on the image. A mask is normalised by
    itself, so the first stage's weights cancel, and what is left is Score-CAM.
    """
    weights = mean(v.g.abs())
    if not refined:
        return weighted(weights, v.A).relu()
    masks, varied = channel_masks(v, weights[:, :, None, None] * v.A)
    return v.combined(v.masked(v.A.shape[1], masks, keep=varied), masks).relu()


@method("eigen-cam", passes="1 forward")
def eigen_cam(v: View) -> Tensor:
    """The maps, positions by channels, on their first right singular vector; no class. Muhammad and Yeasin 2020,
    arXiv 2008.00299. Not centred; the sign, which is arbitrary, makes the sum of the map positive."""
    return first_component(v.A)


@method("eigengrad-cam", passes="1 forward, 1 tail backward")
def eigen_grad_cam(v: View) -> Tensor:
    """Eigen-CAM of g A: it knows the class. From pytorch-grad-cam (Gildenblat 2021), which centres the columns."""
    return first_component(v.g * v.A)


def first_component(maps: Tensor) -> Tensor:
    """Project [N, K, h, w] on the first right singular vector of its [h w, K] matrix, [N, h, w]."""
    flat = maps.flatten(2).transpose(1, 2)
    exact = widened(flat.dtype)  # there is no decomposition in half precision
    _, _, vectors = torch.linalg.svd(flat.to(exact), full_matrices=False)
    map_ = (flat.to(exact) @ vectors[:, 0, :, None]).squeeze(-1)
    sign = torch.where(map_.sum(1, keepdim=True) < 0, -1.0, 1.0)
    component: Tensor = (map_ * sign).reshape(len(maps), *maps.shape[2:])
    return component


@method("finer-cam", passes="1 forward, 1 tail, 1 tail backward")
def finer_cam(v: View, references: int = 3, gamma: float = 0.6) -> Tensor:
    """Grad-CAM of y minus gamma times the mean score of the classes whose scores are nearest to y.

    Zhang et al. 2025, arXiv 2501.11309 (from memory of the paper; gamma as torch-cam). It shows what tells the class
    from those it is taken for, not what it shares with them. references: how many classes.
    """
    require_number("references", references, 1, whole=True)
    require_number("gamma", gamma, 0)
    if v.scorer.classes is None:
        raise CamError("finer-cam compares a class with others, and the target is a function; take grad-cam")
    scores, own = v.readout.scores(v.output), v.scorer.classes[:, None]
    apart = (scores - scores.gather(1, own)).abs().scatter(1, own, torch.inf)
    others = apart.topk(min(references, scores.shape[1] - 1), largest=False).indices

    def contrast(output: Any, images: Tensor) -> Tensor:
        rival = v.readout.scores(output).gather(1, others[images]).mean(1)
        return v.scorer.logit(output, images) - gamma * rival

    return weighted(mean(v.sensitivity(contrast)), v.A).relu()


@method("shapley-cam", passes="1 forward, 1 tail, 3 tail backward")
def shapley_cam(v: View, utility: str = "rest") -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean(g - H A / 2), g and H the gradient and the Hessian of the utility.

    Cai 2025, arXiv 2501.06261: Shapley values by a Taylor expansion of second order. utility: "rest" is y + log p (the
    residual softmax), "logit" is y, whose Hessian is zero in networks of ReLU and max pooling: then it is Grad-CAM.
    """
    require_choice("utility", utility, ("rest", "logit"))

    def read(output: Any, images: Tensor) -> Tensor:
        score = v.scorer.logit(output, images)
        if utility == "logit" or v.scorer.classes is None:
            return score
        logs = v.readout.log_probabilities(v.readout.scores(output))
        return score + logs.gather(1, v.scorer.classes[images][:, None])[:, 0]

    return weighted(mean(v.sensitivity(read) - v.sensitivity(read, curved=True) / 2), v.A).relu()


@method("kpca-cam", passes="1 forward")
def kpca_cam(v: View, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """The first component of a kernel PCA of the maps, positions by channels; no class.

    Karmani et al. 2024, arXiv 2410.00267. Columns are centred. kernel: "sigmoid", tanh(gamma a b + 1), or "rbf",
    exp(-gamma |a - b|^2); gamma: 1 / channels. The sign, which is arbitrary, makes the map high where the maps are
    large, of either sign (our choice).
    """
    require_choice("kernel", kernel, ("sigmoid", "rbf"))
    flat = v.A.flatten(2).transpose(1, 2)
    wide = flat.to(widened(flat.dtype))
    centred = wide - wide.mean(1, keepdim=True)
    scale = 1 / flat.shape[2] if gamma is None else gamma
    product = centred @ centred.transpose(1, 2)
    if kernel == "sigmoid":
        alike = torch.tanh(scale * product + 1)
    else:
        squares = product.diagonal(dim1=1, dim2=2)
        alike = torch.exp(-scale * (squares[:, :, None] + squares[:, None] - 2 * product).clamp(min=0))
    alike = alike - alike.mean(1, keepdim=True) - alike.mean(2, keepdim=True) + alike.mean((1, 2), keepdim=True)
    values, vectors = torch.linalg.eigh(alike)
    rounding = flat.shape[1] * torch.finfo(wide.dtype).eps
    length = torch.where(values[:, -1] > rounding, values[:, -1], 0).sqrt()
    map_ = vectors[:, :, -1] * length[:, None]
    sign = torch.where((map_ * wide.square().sum(2)).sum(1, keepdim=True) < 0, -1.0, 1.0)
    component: Tensor = (map_ * sign).reshape(len(v.A), *v.A.shape[2:])
    return component

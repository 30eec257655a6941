"""Float64 replicas of the methods that mask the image, and of the pixel maps; conventions as in replicas.py.

Masks multiply the already normalised image (a masked pixel is 0); p_c is the softmax of the target; up() is bilinear,
align_corners=False, to the image. Maps are [H,W] before any min-max. Self-check: python tests/helpers/replicas_masks.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from replicas import Array, Case, case_of, grad_cam, mm, relu, resize, softmax
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]
from skimage.filters import threshold_otsu
from torch import Tensor, nn

Layers = list[tuple[Array, Array]]  # (A_l, g_l) of several layers, from low to high
Share = Callable[[Array, Array, Array], tuple[Array, Array]]  # a, w, b of a layer -> parts [out,in], extra [out]


def probability(case: Case, x: Array) -> float:
    """p_c of one image [3,H,W]."""
    return float(softmax(case.model(x))[case.target])


def _masks(case: Case, a: Array) -> dict[int, Array]:
    """{k: mm(up(A_k))} over the channels that are not constant (constancy judged at the layer's resolution)."""
    return {k: mm(resize(m, case.x.shape[1:])) for k, m in enumerate(a) if m.max() > m.min()}


def _scored(case: Case, score: Callable[[int, Array], float]) -> Array:
    """ReLU(sum_k score(k, M_k) up(A_k)) over the channels of _masks; the maps summed are not normalised."""
    total = np.zeros(case.x.shape[1:])
    for k, mask in _masks(case, case.a).items():
        total += score(k, mask) * resize(case.a[k], total.shape)
    return relu(total)


def score_cam(case: Case, increase: bool = False) -> Array:
    """ReLU(sum_k w_k up(A_k)), w_k = p_c(x * M_k); increase: w = softmax_k(p_c(x * M_k) - p_c(0)) (1910.01279)."""
    w = {k: probability(case, case.x * mask) for k, mask in _masks(case, case.a).items()}
    if increase and w:
        w = dict(zip(w, softmax(np.array([*w.values()]) - probability(case, 0 * case.x)), strict=True))
    return _scored(case, lambda k, _mask: w[k])


def ss_cam(case: Case, noise: Array) -> Array:
    """Score-CAM with w_k = mean_i p_c(x * (M_k + noise[i,k])), noise [n,K,H,W], not clipped (2006.14255; torch-cam)."""
    return _scored(case, lambda k, mask: float(np.mean([probability(case, case.x * (mask + n[k])) for n in noise])))


def is_cam(case: Case, n: int = 10) -> Array:
    """Score-CAM with w_k = mean over i=1..n of p_c(x * M_k * i/n) (2010.03023; the ramp i/n is the notes' reading)."""
    return _scored(case, lambda _k, m: float(np.mean([probability(case, case.x * m * i / n) for i in range(1, n + 1)])))


def group_cam(case: Case, blurred: Array, groups: int = 32, theta: float = 70, authors: bool = False) -> Array:
    """ReLU(sum_g s_g M_g), s_g = ReLU(p_c(x M_g + blurred (1 - M_g)) - p_c(blurred)) (2103.13859).
    M_g = ReLU(sum_{k in g} GAP(g_k) A_k); values below its theta-th percentile (linear, of the rectified map at the
    layer's resolution) -> 0; mm; up. Groups: contiguous chunks of ceil(K / groups) channels.
    authors: as their code: up before mm, no ReLU on s_g, and values equal to the percentile -> 0 as well.
    """
    terms, base = case.g.mean((1, 2))[:, None, None] * case.a, probability(case, blurred)
    length, total, below = -(-len(terms) // groups), np.zeros(case.x.shape[1:]), np.less_equal if authors else np.less
    for start in range(0, len(terms), length):
        m = relu(terms[start : start + length].sum(0))
        m[below(m, np.percentile(m, theta))] = 0.0
        if m.max() > m.min():
            mask = mm(resize(m, total.shape)) if authors else resize(mm(m), total.shape)
            score = probability(case, case.x * mask + blurred * (1 - mask)) - base
            total += (score if authors else max(score, 0.0)) * mask
    return relu(total)


def sidu(case: Case, threshold: float = 0.1, sigma: float = 0.25, whole: bool = False) -> Array:
    """1/(0.5 K) sum_k SD_k U_k M_k, M_k = up(1[A_k > 0.1]), P_k = softmax vector of x * M_k, P of x (2006.03122).
    SD_k = sqrt(exp(-(P_c - P_kc)^2 / 0.25^2)) (the authors' code; whole: |P - P_k|^2, the paper from memory);
    U = mm over k of sum_j ||P_k - P_j||_2. Every channel counts, empty masks too.
    """
    masks = [resize((m > threshold).astype(np.float64), case.x.shape[1:]) for m in case.a]
    p, outputs = softmax(case.model(case.x)), [softmax(case.model(case.x * m)) for m in masks]
    distances = [(p - q) @ (p - q) if whole else (p[case.target] - q[case.target]) ** 2 for q in outputs]
    similarity = np.sqrt(np.exp(-np.array(distances) / sigma**2))
    uniqueness = mm(np.array([sum(np.linalg.norm(q - r) for r in outputs) for q in outputs]))
    total = sum(s * u * m for s, u, m in zip(similarity, uniqueness, masks, strict=True))
    return np.asarray(total / (0.5 * len(masks)))


def rise(case: Case, masks: Array, p1: float) -> Array:
    """1/(N p1) sum_i p_c(x * M_i) M_i, masks [N,H,W] (RISE, 1806.07421)."""
    return np.asarray(sum(probability(case, case.x * m) * m for m in masks) / (len(masks) * p1))


def starts(length: int, size: int, stride: int) -> list[int]:
    """0, stride, 2 stride, ... while the window fits, and the last one flush with the border."""
    return sorted({*range(0, length - size + 1, stride), length - size})


def occlusion(case: Case, size: int, stride: int, fill: float | Array = 0.0) -> Array:
    """Mean of p_c(x) - p_c(window := fill [3,1,1]) over the windows over a pixel; 0 where none is (1311.2901)."""
    (total, count), p = np.zeros((2, *case.x.shape[1:])), probability(case, case.x)
    for top in starts(len(total), size, stride):
        for left in starts(total.shape[1], size, stride):
            window, occluded = np.s_[..., top : top + size, left : left + size], case.x.copy()
            occluded[window] = fill
            total[window] += p - probability(case, occluded)
            count[window] += 1
    return np.asarray(total / np.maximum(count, 1))


def otsu(values: Array, bins: int = 256) -> float:
    """Centre of the first bin b of maximal n_low n_high (mean_low - mean_high)^2, low = bins <= b (as skimage)."""
    if values.max() == values.min():
        return float(values.max())
    counts, edges = np.histogram(values, bins)
    centres, between = (edges[1:] + edges[:-1]) / 2, []
    for low, high in ((slice(b), slice(b, None)) for b in range(1, bins)):
        means = [counts[side] @ centres[side] / counts[side].sum() for side in (low, high)]
        between.append(counts[low].sum() * counts[high].sum() * (means[0] - means[1]) ** 2)
    return float(centres[np.flatnonzero(np.array(between) >= max(between) * (1 - 1e-12))[0]])


def _sise(case: Case, layers: Layers, keep: Callable[[Array], Any], gate: Callable[[Array], Any]) -> Array:
    """E = V_1, then E = (E + V_l) gate(V_l); V = mm(sum over k in keep(GAP(g)) of p_c(x * M_k) M_k / sum(M_k))."""
    fused = np.zeros(case.x.shape[1:])
    for number, (a, g) in enumerate(layers):
        kept = [m for k, m in _masks(case, a).items() if keep(g.mean((1, 2)))[k]]
        v = mm(sum((probability(case, case.x * m) * m / m.sum() for m in kept), np.zeros_like(fused)))
        fused = (fused + v) * (gate(v) if number else 1.0)
    return fused


def sise(case: Case, layers: Layers, mu: float = 0.0, threshold: Callable[[Array], float] = otsu) -> Array:
    """_sise with keep: beta > mu max(beta), beta = GAP(g); gate: sigmoid(100 (V - threshold(V))) (2010.00672).
    M_k = mm(up(A_k)), constant channels skipped; out_c = p_c. Of `case` only model, x and target are used.
    """
    return _sise(case, layers, lambda beta: beta > mu * beta.max(), lambda v: expit(100 * (v - threshold(v))))


def ada_sise(case: Case, layers: Layers) -> Array:
    """_sise with keep: b > otsu(positive b), b = beta / max(beta); gate: 1[V > otsu(V)] (2102.07799).
    Seen only in reimplementations (notes, 3), which do not divide M_k by its sum as is done here. No positive beta:
    V = 0. All positive b equal (one channel, say): all of them are kept.
    """

    def keep(beta: Array) -> NDArray[np.bool_]:
        positive = beta[beta > 0] / beta.max()
        return (beta > 0) & ((beta / beta.max() > otsu(positive)) if len(set(positive)) > 1 else True)

    return _sise(case, layers, keep, lambda v: v > otsu(v))


def sess(
    maps: list[Array],
    probabilities: Array,
    boxes: Sequence[tuple[int, int, int, int]],
    size: tuple[int, int],
    theta: float = 0.0,
    pre_filter: float = 0.0,
    smooth: bool = True,
    blur: tuple[int, float] = (11, 5.0),
) -> Array:
    """SESS's fusion (2207.01769, authors' code): sum over patches / count(> theta), Gaussian 11x11, sigma 5, reflected.
    Patch i: mm(map_i) p_i / max p, pasted on zeros of its scaled image, resized (bilinear) to `size`; values <= theta
    -> 0; 0/0 -> 0. boxes: (scaled height, scaled width, top, left). The int(pre_filter n) least probable go.
    """
    total, count = np.zeros(size), np.zeros(size)
    for i in np.argsort(probabilities, kind="stable")[int(len(maps) * pre_filter) :]:
        (height, width, top, left), (h, w) = boxes[i], maps[i].shape
        canvas = np.zeros((height, width))
        canvas[top : top + h, left : left + w] = mm(maps[i]) * probabilities[i] / probabilities.max()
        pasted = resize(canvas, size)
        total, count = total + np.where(pasted > theta, pasted, 0.0), count + (pasted > theta)
    fused = total / np.maximum(count, 1)
    return gaussian_filter(fused, blur[1], radius=blur[0] // 2, mode="mirror") if smooth else fused


def _trace(net: nn.Sequential, x: Array) -> list[tuple[str, Array, Array, Array]]:
    """(class name, flat input a, dense matrix, bias) per layer of an nn.Sequential, Flatten left out.
    The matrix of Conv2d, Linear or an average has as columns its outputs on the unit images; MaxPool2d's picks winners.
    """
    steps, value = [], torch.tensor(x, dtype=torch.float64)
    for module in copy.deepcopy(net).double().eval().requires_grad_(False):
        a, n = value, value.numel()
        value = module(a.clone()[None])[0]
        matrix, bias = torch.zeros(0), torch.zeros(value.numel()).double()
        if isinstance(module, nn.MaxPool2d):
            module.return_indices = True  # indices within each channel
            winners = (module(a[None])[1][0] + torch.arange(0, n, n // len(a))[:, None, None]).flatten()
            matrix = torch.eye(n).double()[winners]
        elif not isinstance(module, nn.ReLU | nn.Flatten):
            assert isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d), module
            bias = module(torch.zeros_like(a)[None]).flatten()
            matrix = (module(torch.eye(n).double().reshape(n, *a.shape)).reshape(n, -1) - bias).T
        if not isinstance(module, nn.Flatten):
            steps.append((type(module).__name__, a.numpy().ravel(), matrix.numpy(), bias.numpy()))
    return steps


def backward(net: nn.Sequential, x: Array, target: int, rule: str = "gradient") -> Array:
    """[3,H,W]: R = 1 at logit c, then layer by layer R <- matrix^T R; at a ReLU with input a:
    gradient: 1[a>0] R (1312.6034); guided: 1[a>0] max(R,0) (1412.6806); deconvnet: max(R,0) (1311.2901).
    """
    steps = _trace(net, x)
    r = np.eye(len(steps[-1][3]))[target]
    for kind, a, matrix, _ in reversed(steps):
        r = matrix.T @ r if kind != "ReLU" else (r if rule == "gradient" else relu(r)) * (rule == "deconvnet" or a > 0)
    return np.asarray(r.reshape(x.shape))


def squared_gradient(net: nn.Sequential, x: Array, target: int) -> Array:
    """sum over channels of (dy_c/dx)^2 [H,W]."""
    return np.asarray((backward(net, x, target) ** 2).sum(0))


def gradient_times_input(net: nn.Sequential, x: Array, target: int) -> Array:
    """sum over channels of x dy_c/dx [H,W], signed (1605.01713)."""
    return np.asarray((backward(net, x, target) * x).sum(0))


def smooth_grad(net: nn.Sequential, x: Array, target: int, noise: Array) -> Array:
    """mean over i of dy_c/dx at x + noise[i], signed [3,H,W]; noise [n,3,H,W] (1706.03825)."""
    return np.asarray(np.mean([backward(net, x + n, target) for n in noise], axis=0))


def guided_grad_cam(net: nn.Sequential, x: Array, target: int, layer: int) -> Array:
    """Guided backward [3,H,W] times up(Grad-CAM of the value before net[layer]), bilinear (1610.02391)."""
    coarse = grad_cam(case_of(net[:layer], net[layer:], x, target))
    return backward(net, x, target, "guided") * resize(coarse, x.shape[1:])


def lrp_epsilon(net: nn.Sequential, x: Array, target: int, eps: float = 1e-6, conv: Share | None = None) -> Array:
    """[3,H,W] from R = y_c: R_j = sum_k parts_kj R_k / (z_k + eps sign(z_k)), z_k = sum_j parts_kj + extra_k (zennit).
    parts_kj = w_kj a_j, extra = b (the bias absorbs) at Linear; parts, extra = conv(a, w, b), by default the same, at
    Conv2d; sign(0) = 1. A ReLU passes R on, a max-pool gives it to the winner, the first of equals.
    """
    steps = _trace(net, x)
    _, a, matrix, bias = steps[-1]
    r = np.eye(len(bias))[target] * (matrix @ a + bias)
    for kind, a, matrix, bias in reversed(steps):
        if kind == "MaxPool2d":
            r = matrix.T @ r
        elif kind != "ReLU":
            parts, extra = conv(a, matrix, bias) if conv and kind == "Conv2d" else (matrix * a, bias)
            z = parts.sum(1) + extra
            r = parts.T @ (r / (z + eps * np.where(z >= 0, 1.0, -1.0)))
    return np.asarray(r.reshape(x.shape))


def lrp_zplus(net: nn.Sequential, x: Array, target: int, eps: float = 1e-6, zennit: bool = False) -> Array:
    """lrp_epsilon with parts_kj = w_kj+ a_j+, extra = 0 at every Conv2d, u+ = max(u, 0).
    zennit: as its ZPlus, min(w_kj,0) min(a_j,0) joins the parts, and extra = b+.
    """

    def conv(a: Array, w: Array, b: Array) -> tuple[Array, Array]:
        return relu(w) * relu(a) + zennit * relu(-w) * relu(-a), zennit * relu(b)

    return lrp_epsilon(net, x, target, eps, conv)


def _check_pixels(rng: np.random.Generator) -> None:
    """The rules against autograd with hooks; LRP against gradient * input and, without biases, conservation of y_c."""
    close, x = np.testing.assert_allclose, rng.normal(size=(3, 8, 8))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2, 2), nn.ReLU())
    net.extend([nn.MaxPool2d(2, 1, 1), nn.Flatten(), nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 3)]).double()
    rules = {"gradient": lambda g, _: g, "guided": lambda g, _: g.clamp(0), "deconvnet": lambda _, r: r.clamp(0)}
    for rule, f in rules.items():
        hooked, leaf = copy.deepcopy(net), torch.tensor(x[None], requires_grad=True)

        def ruled(_: nn.Module, g: Any, r: Any, f: Any = f) -> tuple[Tensor]:
            return (f(g[0], r[0]),)

        for m in (hooked[1], hooked[4], hooked[8]):
            m.register_full_backward_hook(ruled)
        close(backward(net, x, 1, rule), torch.autograd.grad(hooked(leaf)[0, 1], leaf)[0][0].numpy(), atol=1e-12)
    close(lrp_epsilon(net, x, 1, 1e-13).sum(0), gradient_times_input(net, x, 1), atol=1e-9)
    assert guided_grad_cam(net, x, 1, 3).shape == smooth_grad(net, x, 1, x[None]).shape == x.shape
    for module in net:
        module.bias = None if hasattr(module, "bias") else 0  # type: ignore[assignment]
    for relevances, image in ((lrp_epsilon, x), (lrp_zplus, abs(x))):
        close(relevances(net, image, 1, 1e-12).sum(), net(torch.tensor(image[None]))[0, 1].item(), atol=1e-9)


def _self_check() -> None:
    """RISE, occlusion and the rest where their answer is known; Otsu against skimage."""
    rng, close = np.random.default_rng(0), np.testing.assert_allclose
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    case = case_of(nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU()), head, 3 * rng.normal(size=(3, 9, 9)), 1)
    p, layers = probability(case, case.x), [(case.a, case.g), (case.a[:, 1:], case.g[:, 1:])]
    close(rise(case, np.ones((1, 9, 9)), 1.0), p)
    close(occlusion(case, 9, 4), p - probability(case, 0 * case.x))
    close(is_cam(case, 1), score_cam(case))
    close(ss_cam(case, np.zeros((2, 6, 9, 9))), score_cam(case))
    close(group_cam(case, case.x), 0)
    close(sess([case.a[0]], np.array([0.3]), [(4, 4, 0, 0)], (4, 4), smooth=False), mm(case.a[0]))
    close(otsu(case.a), threshold_otsu(case.a.ravel()))  # type: ignore[no-untyped-call]
    maps = [score_cam(case, True), sidu(case), group_cam(case, 0 * case.x, 3), occlusion(case, 4, 3)]
    assert all(m.shape == (9, 9) and m.any() for m in [*maps, sise(case, layers), ada_sise(case, layers)])
    _check_pixels(rng)
    print("replicas_masks: ok")


if __name__ == "__main__":
    _self_check()

"""Float64 replicas of the methods that share out a score among pixels or positions; conventions as in replicas.py.

Written from the definitions, with a dense matrix for every linear layer; nothing here imports the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from replicas import Array, mm, relu, resize
from replicas_masks import Share, _trace, backward, lrp_epsilon
from torch import nn

Step = tuple[str, Array, Array, Array]


def output(net: nn.Sequential, x: Array) -> Array:
    """The logits [C] of one image [3,H,W]."""
    with torch.no_grad():
        return np.asarray(net(torch.tensor(x)[None])[0].numpy())


def integrated_gradients(net: nn.Sequential, x: Array, target: int, steps: int, baseline: float = 0.0) -> Array:
    """sum over colours of (x - b) sum_i w_i dy/dx at b + t_i (x - b), t and w of Gauss and Legendre (1703.01365)."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    start = np.full_like(x, baseline)
    points = [start + (place + 1) / 2 * (x - start) for place in places]
    mean = sum(weight / 2 * backward(net, point, target) for point, weight in zip(points, weights, strict=True))
    return np.asarray(((x - start) * mean).sum(0))


def deeplift(net: nn.Sequential, x: Array, target: int, baseline: float = 0.0) -> Array:
    """sum over colours of (x - b) m: multipliers backwards, by the rescale rule (1704.02685, section 3.5.1)."""
    here, there = _trace(net, x), _trace(net, np.full_like(x, baseline))
    m = np.eye(len(here[-1][3]))[target]
    for (kind, a, matrix, _), (_, b, other, _) in zip(reversed(here), reversed(there), strict=True):
        if kind == "ReLU":
            step = a - b
            m = m * np.where(np.abs(step) < 1e-10, a > 0, (relu(a) - relu(b)) / np.where(step == 0, 1, step))
        elif kind == "MaxPool2d":  # one value a row is picked
            up, down = matrix @ a, other @ b
            larger = np.maximum(up, down)
            given = matrix.T @ (m * (larger - down)) + other.T @ (m * (up - larger))
            step = a - b
            m = np.where(np.abs(step) < 1e-10, matrix.T @ m, given / np.where(step == 0, 1, step))
        else:
            m = matrix.T @ m
    return np.asarray(((x.ravel() - here[0][1] * 0 - baseline) * m).reshape(x.shape).sum(0))


def winning(steps: Sequence[Step], target: int, negated: bool = False) -> Array:
    """p [n] at the input of the first step, from 1 at the target; p_j = a_j sum_i w+_ij p_i / sum_j w+_ij a_j."""
    last = max(number for number, step in enumerate(steps) if step[0] in ("Linear", "Conv2d"))
    p: Array = np.eye(len(steps[-1][3]))[target]
    for number, (kind, a, matrix, _) in reversed([*enumerate(steps)]):
        if kind == "MaxPool2d":
            p = matrix.T @ p
        elif kind != "ReLU":
            w = relu(-matrix if negated and number == last else matrix)
            z = w @ relu(a)
            p = np.asarray(relu(a) * (w.T @ np.divide(p, z, out=np.zeros_like(p), where=z > 0)))
    return p


def excitation(net: nn.Sequential, x: Array, target: int, layer: int, contrastive: bool = False) -> Array:
    """sum_k p_k at the value of net[layer]; contrastive: ReLU of the difference to the negated classifier's."""
    with torch.no_grad():
        value = net[: layer + 1](torch.tensor(x)[None])[0].numpy()
    steps = _trace(net[layer + 1 :], value)
    p = winning(steps, target).reshape(value.shape).sum(0)
    opposite = winning(steps, target, True).reshape(value.shape).sum(0) if contrastive else p * 0
    return relu(p - opposite)


def lrp(net: nn.Sequential, x: Array, target: int, rules: Sequence[Share], eps: float = 1e-6) -> Array:
    """lrp_epsilon with a rule of its own for each convolution, in their order; summed over colours."""
    waiting = [*rules]
    return np.asarray(lrp_epsilon(net, x, target, eps, lambda a, w, b: waiting.pop()(a, w, b)).sum(0))


def gamma(a: Array, w: Array, b: Array, g: float = 0.25) -> tuple[Array, Array]:
    """Parts c + g c^s, bias b + g b^s, where c = a w and ^s is the part with the sign s of the output."""
    c = w * a
    sign = np.sign(c.sum(1) + b)
    favoured, bias = np.where(c * sign[:, None] > 0, c, 0), np.where(b * sign > 0, b, 0)
    return c + g * favoured, b + g * bias


def of_sign(sign: int) -> Share:
    """Parts max(s c, 0) s and the bias's likewise."""
    return lambda a, w, b: (sign * relu(sign * w * a), sign * relu(sign * b))


def plain(a: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """The epsilon rule."""
    return w * a, b


def flat(a: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """Every pixel under a filter alike; the filters of these networks have no weight of exactly zero."""
    return (w != 0).astype(np.float64), np.zeros(len(b))


def squared(a: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """By the squares of the weights."""
    return w**2, np.zeros(len(b))


def box(low: Array, high: Array) -> Share:
    """z^B: a w - l w^+ - h w^-."""
    return lambda a, w, b: (w * a - relu(w) * low + relu(-w) * high, np.zeros(len(b)))


def pixel_limits(x: Array) -> tuple[Array, Array]:
    """The lowest and the highest value of each colour, at every pixel, flat."""
    return tuple(np.broadcast_to(f(x, axis=(1, 2), keepdims=True), x.shape).ravel() for f in (np.min, np.max))  # type: ignore[return-value]


def alpha_beta(net: nn.Sequential, x: Array, target: int, alpha: float, first: Share, eps: float = 1e-6) -> Array:
    """R = alpha R^+ - (alpha - 1) R^- at convolutions but the first, which takes `first`; summed over colours."""
    steps = _trace(net, x)
    _, a, matrix, bias = steps[-1]
    r = np.eye(len(bias))[target] * (matrix @ a + bias)

    def shared(share: Share, a: Array, w: Array, b: Array, r: Array) -> Array:
        parts, extra = share(a, w, b)
        z = parts.sum(1) + extra
        return np.asarray(parts.T @ (r / (z + eps * np.where(z >= 0, 1.0, -1.0))))

    for number, (kind, a, matrix, bias) in reversed([*enumerate(steps)]):
        if kind == "MaxPool2d":
            r = matrix.T @ r
        elif kind == "Conv2d" and number:
            positive, negative = (shared(of_sign(sign), a, matrix, bias, r) for sign in (1, -1))
            r = alpha * positive - (alpha - 1) * negative
        elif kind != "ReLU":
            r = shared(plain if number else first, a, matrix, bias, r)
    return np.asarray(r.reshape(x.shape).sum(0))


def full_grad(net: nn.Sequential, x: Array, target: int, scaled: bool = True) -> Array:
    """psi(x dy/dx) + sum over convolutions of psi(b dy/dz), psi: |.|, mm of the layer, resized (1905.00780, eq. 8)."""

    def drawn(term: Array) -> Any:
        return resize((mm(np.abs(term)) if scaled else np.abs(term)).sum(0), x.shape[1:])

    total, value = drawn(x * backward(net, x, target)), torch.tensor(x)[None]
    for number, module in enumerate(net):
        value = module(value).detach()
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            leaf = value.clone().requires_grad_()
            (g,) = torch.autograd.grad(net[number + 1 :](leaf.clone())[0, target], leaf)
            total = total + drawn(g[0].numpy() * module.bias.detach().numpy()[:, None, None])
    return np.asarray(total)


def _smoothing(sigma: float, order: int, n: int) -> Array:
    """[n,n] matrix: a Gaussian of at most 4 sigma, sum 1, or its second derivative; the border is mirrored."""
    radius = int(4 * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum() * (1.0 if order == 0 else steps**2 / sigma**4 - 1 / sigma**2)
    matrix = np.zeros((n, n))
    for i in range(n):
        for step, weight in zip(steps, weights, strict=True):
            place = (i + step) % (2 * n)
            matrix[i, min(place, 2 * n - 1 - place)] += weight
    return matrix


def hat(sigma: float, centred: bool) -> Array:
    """[5,5], what a Laplacian of a Gaussian makes of the point in the middle of 5 x 5; centred: minus its mean."""
    smooth, bent = (_smoothing(sigma, order, 5)[:, 2] for order in (0, 2))
    kernel = np.outer(bent, smooth) + np.outer(smooth, bent)
    return kernel - kernel.mean() if centred else kernel


def correlated(a: Array, kernel: Array) -> Array:
    """sum_ij k_ij a(u + i, v + j) for a [h,w]; the border is mirrored without repeating the edge."""
    padded, out = np.pad(a, 2, mode="reflect"), np.zeros_like(a)
    for u, v in np.ndindex(*a.shape):
        out[u, v] = (kernel * padded[u : u + 5, v : v + 5]).sum()
    return out


def rectifier_strengths(net: nn.Sequential, x: Array, target: int) -> list[Array]:
    """The norm over channels of dy/d(input) of every ReLU with maps of at least 3 x 3, [h,w] each."""
    strengths, value = [], torch.tensor(x)[None]
    for number, module in enumerate(net):
        if isinstance(module, nn.ReLU) and value.dim() == 4 and min(value.shape[2:]) >= 3:
            leaf = value.clone().requires_grad_()
            (g,) = torch.autograd.grad(net[number:](leaf.clone())[0, target], leaf)
            strengths.append(np.sqrt((g[0].numpy() ** 2).sum(0)))
        value = module(value).detach()
    return strengths


def lateral_inhibition(net: nn.Sequential, x: Array, target: int, sigma: float = 1.0, centred: bool = True) -> Array:
    """sum over ReLUs of ReLU(up(-(LoG * G))) (2208.06918, released code)."""
    strengths, kernel = rectifier_strengths(net, x, target), hat(sigma, centred)
    return np.asarray(sum(np.maximum(resize(-correlated(g, kernel), x.shape[1:]), 0) for g in strengths))


def blurred_gradients(net: nn.Sequential, x: Array, target: int) -> Array:
    """sum over ReLUs of up(G blurred by 25 positive weights): what the released kernel, sigma 11, comes to."""
    weights = -hat(11.0, centred=False)
    assert (weights > 0).all()
    return np.asarray(sum(resize(correlated(g, weights), x.shape[1:]) for g in rectifier_strengths(net, x, target)))

"""Float64 replicas of methods on superpixels, of optimised masks and of maps with other weights; see replicas.py."""

from __future__ import annotations

import copy
import math
from itertools import permutations
from typing import Any

import numpy as np
import torch
from replicas import Array, Case, relu, softmax, weighted
from replicas_masks import probability
from sklearn.decomposition import KernelPCA  # type: ignore[import-untyped]
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.functional import interpolate


def _kept(case: Case, labels: Any, row: Array, fill: Array | float) -> float:
    """p_c with the superpixels of row [n] kept and the rest filled."""
    inside = row[labels]
    return probability(case, case.x * inside + fill * (1 - inside))


def lime(case: Case, labels: Any, rows: Array, width: float = 0.25, alpha: float = 1.0) -> Array:
    """scikit-learn's ridge, weighted by sqrt(exp(-d^2 / width^2)); absent superpixels have their mean colour."""
    fill = np.zeros_like(case.x)
    for label in range(labels.max() + 1):
        fill[:, labels == label] = case.x[:, labels == label].mean(1, keepdims=True)
    scores = [_kept(case, labels, row, fill) for row in rows]
    distance = 1 - np.array([row.sum() / math.sqrt(row.sum() * len(row)) if row.any() else 0.0 for row in rows])
    model = Ridge(alpha=alpha).fit(rows, scores, sample_weight=np.sqrt(np.exp(-(distance**2) / width**2)))
    return np.asarray(model.coef_[labels])


def exact_shapley(case: Case, labels: Any, fill: float = 0.0) -> Array:
    """The mean gain of each superpixel over all orders in which they join."""
    count = int(labels.max()) + 1
    values = {
        subset: _kept(case, labels, np.array([float(subset >> n & 1) for n in range(count)]), fill)
        for subset in range(2**count)
    }
    phi, orders = np.zeros(count), [*permutations(range(count))]
    for order in orders:
        inside = 0
        for player in order:
            phi[player] += values[inside | 1 << player] - values[inside]
            inside |= 1 << player
    return np.asarray(phi[labels] / len(orders))


def drawn_shapley(case: Case, labels: Any, rows: Array, fill: float = 0.0) -> Array:
    """min |rows phi - gains|^2 with sum phi = p(x) - p(filled), by Lagrange's conditions."""
    count = rows.shape[1]
    nothing = _kept(case, labels, np.zeros(count), fill)
    gains = np.array([_kept(case, labels, row, fill) for row in rows]) - nothing
    ones = np.ones((count, 1))
    system = np.block([[2 * rows.T @ rows, ones], [ones.T, np.zeros((1, 1))]])
    right = np.concatenate([2 * rows.T @ gains, [_kept(case, labels, np.ones(count), fill) - nothing]])
    return np.asarray(np.linalg.solve(system, right)[:count][labels])


def _probability(net: nn.Module, x: Tensor, target: int) -> Tensor:
    score: Tensor = net(x).softmax(1)[0, target]
    return score


def mask(net: nn.Module, x: Tensor, blurred: Tensor, target: int, steps: int, cells: tuple[int, int]) -> Array:
    """MASK by autograd of its whole loss and Adam written out (1704.03296, equation 4)."""
    net, size = copy.deepcopy(net).double().eval(), x.shape[2:]
    m, first, second = torch.full(cells, 0.5, dtype=torch.float64), torch.zeros(cells), torch.zeros(cells)
    for step in range(1, steps + 1):
        leaf = m.clone().requires_grad_()
        up = interpolate(leaf[None, None], size=tuple(size), mode="bilinear", align_corners=False)
        loss = _probability(net, x * up + blurred * (1 - up), target) + 1e-2 * (1 - leaf).abs().mean()
        steep = [
            ((leaf[i + 1, j] - leaf[i, j]) ** 2 + (leaf[i, j + 1] - leaf[i, j]) ** 2 + 1e-20) ** 1.5
            for i in range(cells[0] - 1)
            for j in range(cells[1] - 1)
        ]
        (g,) = torch.autograd.grad(loss + 1e-4 * torch.stack(steep).sum(), leaf)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        m = m - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        m = m.clamp(0, 1)
    return np.asarray(
        1 - interpolate(m[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0].numpy()
    )


def _smooth(grid: Tensor, size: tuple[int, int], step: int, sigma: int) -> Tensor:
    """Pixel by pixel: the smooth maximum of the near points, of which those off the grid are zero."""
    radius, rows = 1 + math.ceil(sigma / step), []
    for y in range(size[0]):
        for x in range(size[1]):
            values = []
            for i in range(y // step - radius, y // step + radius + 1):
                for j in range(x // step - radius, x // step + radius + 1):
                    d = math.hypot(y - ((i + 0.5) * step - 0.5), x - ((j + 0.5) * step - 0.5)) / sigma
                    there = 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1]
                    values.append(math.exp(-2 * max(d - 0.5, 0) ** 2) * (grid[i, j] if there else grid[0, 0] * 0))
            z = torch.stack(values)
            rows.append((torch.softmax(20 * z, 0) * z).sum())
    return torch.stack(rows).reshape(size)


def extremal(net: nn.Module, x: Tensor, pyramid: Tensor, target: int, area: float, steps: int, game: str) -> Array:
    """The extremal perturbation, step and sigma of one pixel, pyramid [8,3,H,W] from blurred to sharp (1910.08485)."""
    net, size = copy.deepcopy(net).double().eval(), (int(x.shape[2]), int(x.shape[3]))
    m, momentum, weight, count = torch.ones(size, dtype=torch.float64), torch.zeros(size), 300.0, size[0] * size[1]
    wanted = torch.tensor([0.0] * round((1 - area) * count) + [1.0] * (count - round((1 - area) * count))).double()

    def shown(mask: Tensor, number: int) -> Tensor:
        level = mask * 7
        images = torch.stack([pyramid[k] * (1 - (level - k).abs()).clamp(min=0) for k in range(8)]).sum(0)
        score: Tensor = net((images.flip(-1) if number % 2 else images)[None])[0, target]
        return score

    for number in range(steps):
        leaf = m.clone().requires_grad_()
        smoothed = _smooth(leaf, size, 1, 1)
        loss = weight * ((smoothed.flatten().sort().values - (wanted if number else wanted.mean())) ** 2).mean()
        if game != "delete":
            loss = loss - shown(smoothed, number)
        if game != "preserve":
            loss = loss + shown(1 - smoothed, number)
        (g,) = torch.autograd.grad(loss, leaf)
        momentum = g if number == 0 else 0.9 * momentum + 0.1 * g  # torch's first step is not dampened
        m = (m - 0.01 * momentum).clamp(0, 1)
        weight *= 1.0035
    return np.asarray(_smooth(m, size, 1, 1).detach().numpy())


def finer_cam(case: Case, references: int = 3, gamma: float = 0.6) -> Array:
    """Grad-CAM of y_c - gamma mean of the y_d nearest to it (2501.11309)."""
    y = case.head(case.a)
    others = sorted((d for d in range(len(y)) if d != case.target), key=lambda d: abs(y[d] - y[case.target]))
    slopes = [case.gradient(case.a, d) for d in others[:references]]
    g = case.g - gamma * np.mean(slopes, axis=0)
    return relu(weighted(g.mean((1, 2)), case.a))


def shapley_cam(case: Case, step: float = 1e-5) -> Array:
    """w_k = mean(g - H A / 2) of u = y_c + log p_c, H A by central differences of g along A (2501.06261)."""

    def slope(a: Array) -> Array:
        p = softmax(case.head(a))
        logs = case.gradient(a, case.target) - sum(p[d] * case.gradient(a, d) for d in range(len(p)))
        return np.asarray(case.gradient(a, case.target) + logs)

    product = (slope(case.a * (1 + step)) - slope(case.a * (1 - step))) / (2 * step)
    return relu(weighted((slope(case.a) - product / 2).mean((1, 2)), case.a))


def kpca_cam(case: Case, kernel: str = "sigmoid") -> Array:
    """scikit-learn's kernel PCA of centred columns; the sign goes with the sum of the maps' squares (2410.00267)."""
    matrix = case.a.reshape(len(case.a), -1).T
    centred = matrix - matrix.mean(0)
    map_ = KernelPCA(1, kernel=kernel, eigen_solver="dense").fit_transform(centred)[:, 0]
    return np.asarray((map_ * np.sign(map_ @ (matrix**2).sum(1))).reshape(case.a.shape[1:]))


def sparse_attack(
    net: nn.Module, x: Tensor, target: int, levels: float, steps: int, mask_steps: int, asked: int = 0
) -> Array:
    """The attack with one logit a pixel, with numpy's arithmetic on the change n itself (ours; see its docstring)."""
    net, image = copy.deepcopy(net).double().eval(), x[0].numpy()
    black, white = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    radius = levels / 255 * (white - black)

    def seen(changed: Array) -> tuple[float, Array]:
        leaf = torch.from_numpy(changed)[None].requires_grad_()
        scores = net(leaf)[0]
        margin = max(scores[c] for c in range(len(scores)) if c != target) - scores[target]
        (gradient,) = torch.autograd.grad(margin, leaf)
        return float(margin.detach()), gradient[0].numpy()

    def cut(n: Array) -> Array:
        return np.asarray(np.minimum(np.maximum(image + np.clip(n, -radius, radius), black), white) - image)

    n, total = np.zeros_like(image), np.zeros_like(image)
    for _ in range(steps):
        _, gradient = seen(image + n)
        total = 0.9 * total + gradient / np.abs(gradient).sum()
        n = cut(n + radius / 2 * np.sign(total))
    logits, total = np.zeros(image.shape[1:]), np.zeros_like(image)
    for _ in range(mask_steps):
        m = 1 / (1 + np.exp(-logits))
        margin, gradient = seen(image + m * n)
        effect = (gradient * n).sum(0)
        pull = 10 * effect / np.abs(effect).mean() if margin <= 0 else 0.0
        logits = logits + 0.3 * (pull - 1)
        total = 0.9 * total + m * gradient / np.abs(m * gradient).sum()
        n = cut(n + radius / 2 * np.sign(total))
    if not asked:
        return np.asarray(1 / (1 + np.exp(-logits)))
    order = np.argsort(-logits, axis=None, kind="stable")
    for count in range(logits.size + 1):  # one by one: where fooling does not come and go, halving finds the same
        points = np.zeros(logits.size)
        points[order[:count]] = 1
        if seen(image + points.reshape(logits.shape) * n)[0] > 0:
            return points.reshape(logits.shape)
    return np.zeros(logits.shape)

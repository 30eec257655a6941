"""Float64 replicas, from their definitions, of the explanation methods that work at one layer of a network.

The oracle of the tests: nothing here imports the package. A [K,h,w] is the layer's value, g = dy_c/dA, y the logits,
p = softmax(y), GAP the mean over the positions. Maps come at the layer's resolution, before any min-max.
Masks of the image and pixel maps: replicas_masks.py. Self-check: python tests/replicas.py
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


@dataclass
class Case:
    """A network cut at one layer, the image and the class: all that a replica knows of the network under test."""

    head: Callable[[Array], Array]  # layer value A [K,h,w] -> logits [C], the layers after A
    model: Callable[[Array], Array]  # normalised image [3,H,W] -> logits [C]
    gradient: Callable[[Array, int], Array]  # (A, class c) -> dy_c/dA [K,h,w]
    x: Array  # [3,H,W]
    a: Array  # the value of the layer on x [K,h,w]
    target: int

    @property
    def g(self) -> Array:
        """g = dy_c/dA at the layer's value [K,h,w]."""
        return self.gradient(self.a, self.target)


def case_of(before: nn.Module, after: nn.Module, x: Array | torch.Tensor, target: int) -> Case:
    """The case of the network after(before(x)), from float64 eval-mode copies; the gradient is torch's, of `after`."""
    first, second = (copy.deepcopy(m).cpu().double().eval() for m in (before, after))

    def run(module: nn.Module, value: Array) -> Array:
        with torch.no_grad():
            return np.array(module(torch.tensor(value, dtype=torch.float64)[None])[0].numpy())

    def gradient(a: Array, c: int) -> Array:
        leaf = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(second(leaf.clone()[None])[0, c], leaf)[0].numpy()

    image = torch.as_tensor(x).detach().cpu().double().numpy().copy()
    value = run(first, image)
    return Case(lambda a: run(second, a), lambda i: run(second, run(first, i)), gradient, image, value, target)


def numeric_gradient(case: Case, step: float = 1e-6) -> Array:
    """dy_c/dA by central differences (y(A + s e) - y(A - s e)) / 2s, entry by entry."""
    result = np.zeros_like(case.a)
    for index in np.ndindex(*case.a.shape):
        up, down = case.a.copy(), case.a.copy()
        up[index] += step
        down[index] -= step
        result[index] = (case.head(up)[case.target] - case.head(down)[case.target]) / (2 * step)
    return result


def relu(a: Array) -> Array:
    """max(a, 0)."""
    return np.maximum(a, 0.0)


def softmax(y: Array) -> Array:
    """p_i = exp(y_i) / sum_j exp(y_j) over a vector."""
    e = np.exp(y - y.max())
    return np.asarray(e / e.sum())


def mm(a: Array) -> Array:
    """(a - min) / (max - min) over the whole array; a constant array becomes zeros."""
    span = a.max() - a.min()
    return (a - a.min()) / span if span > 0 else np.zeros_like(a)


def _interpolation(n: int, m: int) -> Array:
    """[m,n] matrix of linear interpolation: output i reads input at s = max((i + 1/2) n/m - 1/2, 0)."""
    matrix = np.zeros((m, n))
    for i in range(m):
        s = max((i + 0.5) * n / m - 0.5, 0.0)
        low = min(int(s), n - 1)
        matrix[i, low] += 1 - (s - low)
        matrix[i, min(low + 1, n - 1)] += s - low
    return matrix


def resize(a: Array, size: tuple[int, ...]) -> Array:
    """Bilinear, align_corners=False, no antialiasing: [...,h,w] -> [...,H,W]."""
    return np.asarray(_interpolation(a.shape[-2], size[0]) @ a @ _interpolation(a.shape[-1], size[1]).T)


def weighted(w: Array, a: Array) -> Array:
    """sum_k w_k A_k, for w [K]."""
    return sum((w[k] * a[k] for k in range(len(a))), np.zeros(a.shape[1:]))


def cam(case: Case, w_fc: Array) -> Array:
    """sum_k W_fc[c,k] A_k, no ReLU (CAM, 1512.04150). w_fc [C,K]; the network must be GAP and one linear layer."""
    return weighted(w_fc[case.target], case.a)


def grad_cam(case: Case) -> Array:
    """ReLU(sum_k GAP(g_k) A_k) (1610.02391)."""
    return relu(weighted(case.g.mean((1, 2)), case.a))


def grad_cam_pp(case: Case, shift: float = 0.0) -> Array:
    """ReLU(sum_k w_k A_k), w_k = sum_ij alpha ReLU(exp(S) g), alpha = g^2 / (2 g^2 + g^3 sum_ab A_k) (1710.11063).

    S = y_c; exp(S - shift) is used: shift only scales the map (shift=S: no exp). A zero denominator becomes 1.
    The authors' further normalisation of alpha over the positions of positive gradient is left out (notes, 1).
    """
    g, s = case.g, case.head(case.a)[case.target]
    denominator = 2 * g**2 + g**3 * case.a.sum((1, 2), keepdims=True)
    alpha = g**2 / np.where(denominator == 0, 1.0, denominator)
    return relu(weighted((alpha * relu(math.exp(s - shift) * g)).sum((1, 2)), case.a))


def xgrad_cam(case: Case, eps: float = 1e-6) -> Array:
    """ReLU(sum_k w_k A_k), w_k = sum_ij(g A) / (sum_ij A + 1e-6) (2008.02312, the authors' eps)."""
    return relu(weighted((case.g * case.a).sum((1, 2)) / (case.a.sum((1, 2)) + eps), case.a))


def hires_cam(case: Case) -> Array:
    """sum_k g_k * A_k, no ReLU, signed (2011.08891 and the authors' code)."""
    return np.asarray((case.g * case.a).sum(0))


def layer_cam(case: Case) -> Array:
    """ReLU(sum_k ReLU(g_k) * A_k) (TIP 2021); the authors' code has no last ReLU, which matters only where A < 0."""
    return relu((relu(case.g) * case.a).sum(0))


def layer_cam_fusion(maps: list[Array], size: tuple[int, ...]) -> Array:
    """max over layers of up(tanh(2 L / max L)), from one layer_cam per layer (notes, 1: memory); max 0 -> zeros."""
    scaled = [np.tanh(2 * m / m.max()) if m.max() > 0 else np.zeros_like(m) for m in maps]
    return np.asarray(np.max([resize(m, size) for m in scaled], axis=0))


def _first_component(a: Array) -> Array:
    """M v_1 for M = A as [hw,K], not centred, v_1 its first right singular vector; the sign makes the sum >= 0."""
    matrix = a.reshape(len(a), -1).T
    projection = (matrix @ np.linalg.svd(matrix, full_matrices=False)[2][0]).reshape(a.shape[1:])
    return np.asarray(-projection if projection.sum() < 0 else projection)


def eigen_cam(case: Case) -> Array:
    """A [hw,K] times its first right singular vector (2008.00299), not centred, no ReLU, sum >= 0."""
    return _first_component(case.a)


def eigengrad_cam(case: Case) -> Array:
    """As eigen_cam, on g * A (pytorch-grad-cam's EigenGradCAM, there centred)."""
    return _first_component(case.g * case.a)


def abs_cam(case: Case) -> Array:
    """ReLU(sum_k GAP(|g_k|) A_k) (2207.03648, its first stage: notes, 1)."""
    return relu(weighted(np.abs(case.g).mean((1, 2)), case.a))


def ablation_weights(case: Case) -> Array:
    """w_k = (y_c - y_c[A_k := 0]) / max(|y_c|, 1e-12) [K] (WACV 2020; |.| guards the sign of the weights)."""
    y, w = case.head(case.a)[case.target], np.zeros(len(case.a))
    for k in range(len(w)):
        ablated = case.a.copy()
        ablated[k] = 0
        w[k] = (y - case.head(ablated)[case.target]) / max(abs(y), 1e-12)
    return w


def ablation_cam(case: Case) -> Array:
    """ReLU(sum_k w_k A_k) with ablation_weights (Ablation-CAM, WACV 2020)."""
    return relu(weighted(ablation_weights(case), case.a))


def fd_groups(a: Array, q: float = 0.95) -> NDArray[np.bool_]:
    """[K,K]: j in G_k iff C_kj > quantile_q(C_k,:), strictly; C: cosines of flattened channels (dead ones: 0)."""
    flat = a.reshape(len(a), -1)
    product = np.outer(*2 * [np.linalg.norm(flat, axis=1)])
    cosine = np.divide(flat @ flat.T, product, out=np.zeros_like(product), where=product > 0)
    return np.array([row > np.quantile(row, q) for row in cosine])


def fd_cam(case: Case, q: float = 0.95) -> Array:
    """ReLU(sum_k w_k A_k), w = exp(mm(s)) mm(GAP g) - 0.5, s_k = y_c[keep G_k] + y_c - y_c[drop G_k] (2206.08792).
    As in the authors' code: logits, both mm over the channels; G_k as in fd_groups.
    """
    y, s = case.head(case.a)[case.target], np.zeros(len(case.a))
    for k, group in enumerate(fd_groups(case.a, q)):
        keep = group[:, None, None]
        s[k] = case.head(case.a * keep)[case.target] + y - case.head(case.a * ~keep)[case.target]
    return relu(weighted(np.exp(mm(s)) * mm(case.g.mean((1, 2))) - 0.5, case.a))


def recipro_cam(case: Case, gaussian: bool = False) -> Array:
    """L[i,j] = p_c(head(A^(ij))), A^(ij) = A at (i,j) and 0 elsewhere (2209.14074 and the authors' code).

    gaussian: the CENTRE vector A[:,i,j] times [[1,2,1],[2,4,2],[1,2,1]]/16 on its 3x3 neighbourhood, cut at the border.
    """
    h, w = case.a.shape[1:]
    result, kernel = np.zeros((h, w)), (np.outer([1, 2, 1], [1, 2, 1]) / 16 if gaussian else np.diag([0, 1, 0]))
    for i, j in np.ndindex(h, w):
        padded = np.zeros((len(case.a), h + 2, w + 2))
        padded[:, i : i + 3, j : j + 3] = case.a[:, i, j][:, None, None] * kernel
        result[i, j] = softmax(case.head(padded[:, 1:-1, 1:-1]))[case.target]
    return result


def coalition_value(case: Case, inside: Array) -> float:
    """v(S) = p_c(head(A with the positions outside S set to 0)); inside [hw] of 0/1, positions row by row."""
    return float(softmax(case.head(case.a * inside.reshape(case.a.shape[1:])))[case.target])


def shap_cam(case: Case, orders: NDArray[np.int64]) -> tuple[Array, Array]:
    """Shapley values phi [h,w] of the positions by Monte-Carlo, and their standard error over the permutations.

    phi_p = mean over the rows of orders [n,hw] of v(before p, with p) - v(before p); error = std(ddof=1) / sqrt(n)
    (0 for n = 1). The game is Shap-CAM's (2208.03608), from memory: notes, 1; the baseline 0 is a choice.
    """
    gains = np.zeros(orders.shape)
    for n, order in enumerate(orders):
        inside = np.zeros(orders.shape[1])
        value = coalition_value(case, inside)
        for p in order:
            inside[p] = 1
            previous, value = value, coalition_value(case, inside)
            gains[n, p] = value - previous
    error = gains.std(0, ddof=min(1, len(gains) - 1)) / math.sqrt(len(gains))
    return gains.mean(0).reshape(case.a.shape[1:]), error.reshape(case.a.shape[1:])


def shap_cam_exact(case: Case) -> Array:
    """phi_p = sum over S without p of |S|! (n-|S|-1)! / n! (v(S+p) - v(S)), all subsets; n = hw <= 9 (Shapley 1953)."""
    n, phi = case.a[0].size, np.zeros(case.a[0].size)
    assert n <= 9, "2^hw passes"
    subsets = [np.array([s >> p & 1 for p in range(n)], dtype=np.float64) for s in range(2**n)]
    v = [coalition_value(case, inside) for inside in subsets]
    for s, p in np.ndindex(2**n, n):
        if not s >> p & 1:
            size = s.bit_count()
            phi[p] += math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n) * (v[s | 1 << p] - v[s])
    return phi.reshape(case.a.shape[1:])


def _check_identities(rng: np.random.Generator) -> None:
    """The identities of a GAP + linear network with A the input of the GAP (notes, 8)."""
    gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    case = case_of(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU()), gap, rng.normal(size=(3, 9, 11)), 2)
    w, b = (p.detach().double().numpy() for p in gap[2].parameters())
    hw, plain = case.a[0].size, cam(case, w) / case.a[0].size
    y = case.head(case.a)[2]
    for found in (grad_cam(case), xgrad_cam(case, 0.0), relu(hires_cam(case))):
        np.testing.assert_allclose(found, relu(plain), atol=1e-12)
    np.testing.assert_allclose(hires_cam(case), plain, atol=1e-12)
    np.testing.assert_allclose(hires_cam(case).sum() + b[2], y)
    np.testing.assert_allclose(layer_cam(case), weighted(relu(w[2]), case.a) / hw)
    np.testing.assert_allclose(ablation_weights(case), w[2] * case.a.mean((1, 2)) / abs(y))
    expected = [softmax(w @ a / hw + b)[2] for a in case.a.reshape(5, -1).T]
    np.testing.assert_allclose(recipro_cam(case).ravel(), expected)


def _self_check() -> None:
    """Finite differences, bilinear against torch, the identities, Shapley efficiency, and that every map is finite."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 30, 3, stride=3), nn.ReLU())
    after = nn.Sequential(nn.Conv2d(30, 6, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(54, 4))
    case = case_of(before, after, rng.normal(size=(3, 9, 9)), 1)
    np.testing.assert_allclose(case.g, numeric_gradient(case), atol=1e-8)
    for size in ((7, 12), (3, 3), (2, 2), (1, 5)):
        torch_map = nn.functional.interpolate(torch.tensor(case.a)[None], size, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(resize(case.a, size), torch_map[0].numpy(), atol=1e-12)
    _check_identities(rng)
    exact, efficiency = shap_cam_exact(case), coalition_value(case, np.ones(9)) - coalition_value(case, np.zeros(9))
    np.testing.assert_allclose(exact.sum(), efficiency)
    phi, error = shap_cam(case, np.array([rng.permutation(9) for _ in range(400)]))
    np.testing.assert_allclose(phi.sum(), efficiency)
    assert (np.abs(phi - exact) < 5 * error).all()
    small = case_of(nn.AvgPool2d(4), nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh()), case.x[:, :8, :8], 0)
    np.testing.assert_allclose(shap_cam(small, np.array(list(permutations(range(4)))))[0], shap_cam_exact(small))
    methods = (grad_cam_pp, eigen_cam, eigengrad_cam, abs_cam, ablation_cam, fd_cam, lambda c: recipro_cam(c, True))
    assert all(m(case).shape == (3, 3) and np.isfinite(m(case)).all() and m(case).any() for m in methods)
    np.testing.assert_allclose(layer_cam_fusion([exact * 0, abs(exact)], (3, 3)).max(), np.tanh(2))
    print("replicas: ok")


if __name__ == "__main__":
    _self_check()

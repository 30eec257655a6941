"""Float64 replicas of the methods that explain a pair of images, from their definitions, without the package.

f is an embedding, s the cosine of two. Images are [3,H,W] of float64; maps come before any min-max, at the size that
the equation gives. What is drawn at random (boxes, changed images) is handed over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]
Embedding = Callable[[Array], Array]


def embedding_of(module: nn.Module) -> Embedding:
    """The embedding that a module computes, flattened; maps are averaged over their places."""
    double = copy.deepcopy(module).cpu().double().eval()

    def embedding(x: Array) -> Array:
        with torch.no_grad():
            value = double(torch.tensor(x, dtype=torch.float64)[None])[0].numpy()
        return np.asarray(value if value.ndim == 1 else value.mean((1, 2)))

    return embedding


def cosine(a: Array, b: Array) -> float:
    """a . b / (|a| |b|)."""
    return float((a * b).sum() / np.sqrt((a * a).sum()) / np.sqrt((b * b).sum()))


def _starts(room: int, side: int, step: int) -> list[int]:
    """0, step, 2 step ... and one that ends with the image."""
    starts = [start for start in range(room) if start % step == 0 and start + side <= room]
    if starts[-1] + side < room:
        starts.append(room - side)
    return starts


def _over_windows(x: Array, square: int, stride: int, value: Callable[[Array], float]) -> Array:
    """The mean over the windows that cover a pixel of value(window as bool [H,W])."""
    total, count = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for top in _starts(x.shape[1], square, stride):
        for left in _starts(x.shape[2], square, stride):
            window = np.zeros(x.shape[1:], bool)
            window[top : top + square, left : left + square] = True
            total[window] += value(window)
            count[window] += 1
    return total / count


def conditional_occlusion(f: Embedding, x: Array, other: Array, square: int, stride: int, fill: float) -> Array:
    """s - cos(f(x without the window), f(other))."""
    z = f(other)
    return _over_windows(x, square, stride, lambda w: cosine(f(x), z) - cosine(f(np.where(w, fill, x)), z))


def context_agnostic(f: Embedding, x: Array, other: Array, square: int, stride: int, fill: float) -> Array:
    """cos(f(the window alone) - f(x without the window), f(other))."""
    z = f(other)
    return _over_windows(x, square, stride, lambda w: cosine(f(np.where(w, x, fill)) - f(np.where(w, fill, x)), z))


def pairwise_occlusion(
    f: Embedding, x: tuple[Array, Array], boxes: tuple[Any, Any], fill: float, temperature: float | None, relative: bool
) -> tuple[Array, Array]:
    """Softmax over the draws of the fall of s, added to the box of the image whose embedding is the shorter."""
    whole = [f(image) for image in x]
    falls, erased, lengths = [], [], []
    for pair in zip(*boxes, strict=True):
        changed, masks = [], []
        for image, (top, left, bottom, right) in zip(x, pair, strict=True):
            mask = np.zeros(image.shape[1:], bool)
            mask[top:bottom, left:right] = True
            masks.append(mask)
            changed.append(f(np.where(mask, fill, image)))
        falls.append(cosine(*whole) - cosine(*changed))
        erased.append(masks)
        lengths.append(
            [np.linalg.norm(z) / (np.linalg.norm(w) if relative else 1) for z, w in zip(changed, whole, strict=True)]
        )
    if temperature is None:
        mean = sum(falls) / len(falls)
        temperature = (sum((fall - mean) ** 2 for fall in falls) / (len(falls) - 1)) ** 0.5
    powers = [np.exp(fall / temperature) for fall in falls]
    maps = [np.zeros(image.shape[1:]) for image in x]
    for power, masks, (first, second) in zip(powers, erased, lengths, strict=True):
        which = 0 if first < second else 1
        maps[which][masks[which]] += power / sum(powers)
    return maps[0], maps[1]


def interaction_cam(
    before: nn.Module, after: nn.Module, x: tuple[Array, Array], reduce: str, interact: bool
) -> tuple[Array, Array]:
    """sum_k j_k A_k ReLU(G_k), G = ds/dA by autograd of the layers after A; channel by channel."""
    first, second = (copy.deepcopy(module).cpu().double().eval() for module in (before, after))
    leaves = [first(torch.tensor(image)[None]).detach().requires_grad_() for image in x]
    z = [
        second(leaf * 1)[0].flatten(1).mean(1) if second(leaf * 1).dim() == 4 else second(leaf * 1)[0]
        for leaf in leaves
    ]
    s = (z[0] * z[1]).sum() / z[0].norm() / z[1].norm()
    g = [gradient[0].numpy() for gradient in torch.autograd.grad(s, leaves)]
    a = [leaf.detach()[0].numpy() for leaf in leaves]
    channels, places = len(a[0]), a[0][0].size

    def reduced(maps: Array) -> list[float]:
        if reduce == "mean":
            return [sum(m.ravel()) / places for m in maps]
        if reduce == "max":
            return [max(m.ravel()) for m in maps]
        vectors = [maps.reshape(channels, -1)[:, place] for place in range(places)]
        query = sum(vectors) / places
        powers = np.array([np.exp((query * vector).sum()) for vector in vectors])
        return list(sum(p * vector for p, vector in zip(powers / powers.sum(), vectors, strict=True)))

    joint = [p * q for p, q in zip(reduced(a[0]), reduced(a[1]), strict=True)]
    if interact:
        m = np.array([[(g[0][k] * g[1][other]).sum() for other in range(channels)] for k in range(channels)])
        g = [np.stack([np.full(a[0][0].shape, m[k].max()) for k in range(channels)]),
             np.stack([np.full(a[0][0].shape, m[:, k].max()) for k in range(channels)])]  # fmt: skip
    maps = [sum(joint[k] * a[i][k] * np.maximum(g[i][k], 0) for k in range(channels)) for i in (0, 1)]
    return np.asarray(maps[0]), np.asarray(maps[1])


def averaged_transforms(module: nn.Module, x: Array, other: Array, changed: Sequence[Array], guided: bool) -> Array:
    """max over colours of |x mean gradient of cos(f(mix), f(other))|; mixes 0.9 x + 0.1 t(x) .. 0.1 x + 0.9 t(x)."""
    double = copy.deepcopy(module).cpu().double().eval()
    if guided:
        for each in double.modules():
            if isinstance(each, nn.ReLU):
                each.register_full_backward_hook(lambda _, inner, __: (inner[0].clamp(min=0),))  # type: ignore[index]

    def f(value: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = double(value)[0]
        return z if z.dim() == 1 else z.mean((1, 2))

    z = f(torch.tensor(other)[None]).detach()
    gradients = []
    for t in changed:
        for tenth in range(9, 0, -1):
            mix = tenth / 10 * x + (1 - tenth / 10) * t
            leaf = torch.tensor(mix)[None].requires_grad_()
            own = f(leaf)  # once: the guided rule is not linear in the signal
            s = (own * z).sum() / own.norm() / z.norm()
            gradients.append(torch.autograd.grad(s, leaf)[0][0].numpy())
    return np.asarray(np.abs(x * np.mean(gradients, 0)).max(0))


def pixel_invariance(
    f: Embedding, changed: Sequence[Array], other: Array, size: tuple[int, int], floor: float
) -> tuple[Array, float]:
    """Ridge regression of cos(f(t(x)), f(other)) on small images; max over colours, min-max, floor, no blur."""
    z = f(other)
    y = np.array([cosine(f(image), z) for image in changed])
    rows, columns = changed[0].shape[1] // size[0], changed[0].shape[2] // size[1]
    small = np.array(
        [image.reshape(len(image), size[0], rows, size[1], columns).mean((2, 4)).ravel() for image in changed]
    )
    n = len(y)
    design = np.concatenate([small, np.ones((n, 1))], 1)
    centred = small - small.mean(0)
    scale = np.trace(centred @ centred.T) / n
    best: tuple[float, Array] = (np.inf, np.zeros(0))
    for exponent in np.linspace(-4, 4, 33):
        penalty = np.diag([scale * 10**exponent] * small.shape[1] + [0.0])  # the intercept is free
        solve = np.linalg.solve(design.T @ design + penalty, design.T)
        residual = y - design @ (solve @ y)
        error = n * (residual**2).sum() / np.trace(np.eye(n) - design @ solve) ** 2
        if error < best[0]:
            best = error, (solve @ y)[:-1]
    weights = best[1].reshape(len(changed[0]), *size).max(0)
    weights = (weights - weights.min()) / (weights.max() - weights.min())
    nothing = n * ((y - y.mean()) ** 2).sum() / (n - 1) ** 2
    return np.where(weights < floor, 0.0, weights), 1 - best[0] / nothing


def spatial_attention(features: nn.Module, x: tuple[Array, Array], mutual: bool, weigh: bool) -> tuple[Array, Array]:
    """At each place the largest cosine with a place of the other image, or the product with that; 0 if not mutual."""
    module = copy.deepcopy(features).double().eval()
    with torch.no_grad():
        maps = [module(torch.tensor(image, dtype=torch.float64)[None])[0].numpy() for image in x]
    best: list[dict[tuple[int, int], tuple[float, tuple[int, int]]]] = []
    for mine, other in (maps, maps[::-1]):
        found = {}
        for place in np.ndindex(*mine.shape[1:]):
            each = {
                there: cosine(mine[:, place[0], place[1]], other[:, there[0], there[1]])
                for there in np.ndindex(*other.shape[1:])
            }
            there = max(each, key=lambda key: each[key])
            product = float((mine[:, place[0], place[1]] * other[:, there[0], there[1]]).sum())
            found[place] = product if weigh else each[there], there
        best.append(found)
    results = []
    for mine, other, shape in zip(best, best[::-1], (maps[0].shape[1:], maps[1].shape[1:]), strict=True):
        values = np.zeros(shape)
        for place, (value, there) in mine.items():
            values[place] = value if not mutual or other[there][1] == place else 0
        results.append(values)
    return results[0], results[1]

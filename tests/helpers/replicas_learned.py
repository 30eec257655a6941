"""The learned explainers' formulas in float64 numpy, written from the definitions and not from the package.

L-CAM: arXiv 2209.11189 and its authors' code. Real-time masking: arXiv 1705.07857 and its authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from replicas import resize

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def cross_entropy(logits: Array, classes: Labels) -> float:
    """mean_n of -log softmax(logits_n)[y_n], for logits [N,C]."""
    total = 0.0
    for row, y in zip(logits, classes, strict=True):
        total += row.max() + np.log(np.exp(row - row.max()).sum()) - row[y]
    return float(total) / len(logits)


def binary_cross_entropy(logits: Array, real: NDArray[np.bool_]) -> float:
    """The 2-class form: mean of -log sigmoid(z) where real, -log sigmoid(-z) where fake."""
    return float(np.mean([np.log1p(np.exp(-z if yes else z)) for z, yes in zip(logits, real, strict=True)]))


def area(maps: Array, power: float = 0.3) -> float:
    """AV = mean((a + 0.0005)^0.3)."""
    return float(((maps + 0.0005) ** power).mean())


def total_variation(maps: Array, count: int | None = None) -> float:
    """1/(2N) {sum of squared differences down and across + 0.3 sum over the four borders of a^2}, maps [N,h,w].

    A corner lies on two borders and counts twice.
    """
    total = 0.0
    for a in maps:
        h, w = a.shape
        total += sum((a[i + 1, j] - a[i, j]) ** 2 for i in range(h - 1) for j in range(w))
        total += sum((a[i, j + 1] - a[i, j]) ** 2 for i in range(h) for j in range(w - 1))
        total += 0.3 * sum((border**2).sum() for border in (a[0], a[-1], a[:, 0], a[:, -1]))
    return float(total) / (2 * (count or len(maps)))


def class_maps(weight: Array, bias: Array, a: Array) -> Array:
    """The 1x1 convolution c_r = sum_k W_rk A_k + b_r: weight [R,K], bias [R], a [...,K,h,w] -> [...,R,h,w]."""
    return np.asarray(np.einsum("rk,...khw->...rhw", weight, a) + bias[:, None, None])


def lcam_regularisers(maps: Array, classes: Labels, batch_wide: bool) -> tuple[float, float]:
    """(TV, AV) of sigmoid(c) from c [N,R,h,w]: of a_y for each image, or of all N^2 pairs a[:, labels] (TV / 2N)."""
    a = sigmoid(maps)
    n = len(a)
    if batch_wide:
        pairs = np.concatenate([a[:, y] for y in classes])
        return total_variation(pairs, n), area(pairs)
    own = a[np.arange(n), classes]
    return total_variation(own), area(own)


def lcam_loss(tv: float, av: float, ce: float) -> float:
    """0.01 TV + 2 AV + 1.5 CE."""
    return 0.01 * tv + 2 * av + 1.5 * ce


def margin(logits: Array, classes: Labels) -> Array:
    """y_c minus the best other logit, for each image."""
    return np.array([row[y] - np.delete(row, y).max() for row, y in zip(logits, classes, strict=True)])


def preserve(logits: Array, classes: Labels, fake: NDArray[np.bool_]) -> float:
    """mean ReLU(best_other - y_c + 1) on the image kept by the mask; a fake target swaps the direction."""
    m = margin(logits, classes)
    return float(np.maximum(np.where(fake, m, -m) + 1, 0).mean())


def destroy(logits: Array, classes: Labels, fake: NDArray[np.bool_]) -> float:
    """mean ReLU(y_c - best_other + 5) on the image without the mask; a fake target swaps the direction."""
    m = margin(logits, classes)
    return float(np.maximum(np.where(fake, -m, m) + 5, 0).mean())


def masking_loss(d: float, av: float, tv: float, p: float) -> float:
    """D + 8 AV + 0.005 TV + 0.3 P."""
    return d + 8 * av + 0.005 * tv + 0.3 * p


def gate(features: Array, embedding: Array, confidence: float) -> Array:
    """sigmoid(sum_k F_k e_k - confidence), features [K,h,w], embedding [K] -> [h,w]."""
    return sigmoid(np.einsum("khw,k->hw", features, embedding) - confidence)


def two_class_mask(s: Array) -> Array:
    """|s0| / (|s0| + |s1|), s [2,h,w]."""
    return np.asarray(np.abs(s[0]) / (np.abs(s[0]) + np.abs(s[1])))


def convolution(x: Array, weight: Array, bias: Array) -> Array:
    """Cross-correlation with zero padding that keeps the size: x [K,h,w], weight [M,K,s,s] with odd s, bias [M]."""
    side, (h, w) = weight.shape[2], x.shape[1:]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    total = np.zeros((len(weight), h, w)) + bias[:, None, None]
    for i, j in np.ndindex(side, side):
        total += np.einsum("mk,khw->mhw", weight[:, :, i, j], padded[:, i : i + h, j : j + w])
    return total


def group_norm(x: Array, groups: int, scale: Array, shift: Array) -> Array:
    """(x - mean) / sqrt(var + 1e-5) over each group of maps, then times scale [K] plus shift [K]."""
    parts = x.reshape(groups, -1)
    normal = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-5)
    return np.asarray(normal.reshape(x.shape) * scale[:, None, None] + shift[:, None, None])


def joined(state: Mapping[str, Array], n: int, signal: Array, shallow: Array) -> Array:
    """Step n of a decoder: the deep signal [D,h,w] brought to the shallow maps [K,H,W] and both mixed."""
    w = {k.removeprefix(f"joins.{n}."): v for k, v in state.items() if k.startswith(f"joins.{n}.")}
    up = resize(np.maximum(convolution(signal, w["deep.weight"], w["deep.bias"]), 0), shallow.shape[1:])
    beside = np.maximum(convolution(shallow, w["shallow.weight"], w["shallow.bias"]), 0)
    mixed = convolution(np.concatenate([up, beside]), w["mixed.weight"], w["mixed.bias"])
    return np.maximum(group_norm(mixed, 4, w["norm.weight"], w["norm.bias"]), 0)


def drawn_mask(state: Mapping[str, Array], maps: Sequence[Array], target: int, confidence: float) -> Array:
    """The mask [h,w] of one image from its maps [K,h,w], shallow ones first, by a decoder with this state dict.

    From the gated deepest map: 3x3 and up, beside a 1x1 of the shallower one, 3x3 over both, GroupNorm of 4; ReLUs.
    """
    embedding = state["embedding.weight"][target]
    signal = maps[-1] * gate(maps[-1], embedding, confidence)
    for n, shallow in enumerate(maps[-2::-1]):
        signal = joined(state, n, signal, shallow)
    return two_class_mask(convolution(signal, state["head.weight"], state["head.bias"]))


def bump_numbers(state: Mapping[str, Array], maps: Sequence[Array], target: int) -> Array:
    """a, b and c of one image from its maps [K,h,w], shallow ones first, by a selector with this state dict.

    Gate, 3x3, the sizes joined, all rows and columns (no more than 32 here) read by one linear map.
    """
    state = {key.removeprefix("selector."): value for key, value in state.items()}
    gated = maps[-1] * gate(maps[-1], state["embedding.weight"][target], 0.0)
    signal = np.maximum(convolution(gated, state["entry.weight"], state["entry.bias"]), 0)
    for n, shallow in enumerate(maps[-2::-1]):
        signal = joined(state, n, signal, shallow)
    return np.asarray(state["head.weight"] @ signal.ravel() + state["head.bias"])


def bump_place(abc: Array, size: tuple[int, int]) -> Array:
    """Row, column and sigma in pixels: 14 and c of 32 pixels, scaled to the image."""
    h, w = size
    row = h / 2 + 14 * h / 32 * np.tanh(abc[0] / 14)
    column = w / 2 + 14 * w / 32 * np.tanh(abc[1] / 14)
    return np.array([row, column, min(size) / 32 * (np.log1p(np.exp(abc[2])) + 1e-8)])


def bump_map(place: Array, size: tuple[int, int]) -> Array:
    """exp(-d^2 / 2 sigma^2), pixel by pixel; the middle of pixel i is at i + 0.5."""
    row, column, sigma = place
    out = np.zeros(size)
    for i, j in np.ndindex(*size):
        out[i, j] = np.exp(-((i + 0.5 - row) ** 2 + (j + 0.5 - column) ** 2) / (2 * sigma**2))
    return out


def drawn_bump(state: Mapping[str, Array], maps: Sequence[Array], target: int, size: tuple[int, int]) -> Array:
    """The map [H,W] of one image by a selector with this state dict."""
    return bump_map(bump_place(bump_numbers(state, maps, target), size), size)


def gaussian_blur(x: Array, side: int = 55, sigma: float = 11.0) -> Array:
    """Convolution of x [...,H,W] with a normalised Gaussian of side x side taps, the border reflected."""
    taps = np.exp(-0.5 * (np.arange(-(side // 2), side // 2 + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (-2, -1):
        margins = [(0, 0)] * x.ndim
        margins[axis] = (side // 2, side // 2)
        padded = np.moveaxis(np.pad(x, margins, mode="reflect"), axis, -1)
        n = padded.shape[-1] - side + 1
        x = np.moveaxis(sum(t * padded[..., i : i + n] for i, t in enumerate(taps)), -1, axis)
    return x

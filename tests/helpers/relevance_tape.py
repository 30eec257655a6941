"""Relevance propagation once more, in NumPy: every linear map is a matrix that loops fill, every share is written out.

A `Tape` runs a network op by op and keeps with each value how relevance goes from it to what it was made of. With
Z_kj = w_kj a_j, what input j contributes to output k, and b the bias, the rules read

    epsilon   R_j = sum_k Z_kj R_k / (sum_j Z_kj + b_k)
    z+        the same of max(Z, 0) and max(b, 0)
    gamma     the same of Z + gamma max(Z, 0) where the output is positive, of Z + gamma min(Z, 0) where it is negative
    z^B       the same of Z_kj - l_j max(w_kj, 0) - h_j min(w_kj, 0), without b

Padding has no column in a matrix. Nothing of the package is used, and of torch only the modules' weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]
EPSILON, GAMMA = 1e-6, 0.25
Pairs = tuple[int, int]


def away(z: Array) -> Array:
    return z + np.where(z >= 0, EPSILON, -EPSILON)


def shares(contributions: Array, bias: Array | float, relevance: Array) -> Array:
    """R_j = sum_k Z_kj R_k / (sum_j Z_kj + b_k)."""
    return np.asarray((contributions * (relevance / away(contributions.sum(1) + bias))[:, None]).sum(0))


def conv_matrix(
    weight: Array, shape: tuple[int, int, int], stride: Pairs, padding: tuple[int, ...], dilation: Pairs, groups: int
) -> tuple[Array, tuple[int, int, int]]:
    """The matrix of a convolution, [outputs, inputs], and its output's shape; padding is (top, bottom, left, right)."""
    outs, ins, *kernel = weight.shape
    sizes = shape[1:]
    borders = (padding[:2], padding[2:])
    rows, columns = (
        (n + sum(b) - d * (k - 1) - 1) // s + 1
        for n, b, d, k, s in zip(sizes, borders, dilation, kernel, stride, strict=True)
    )
    matrix = np.zeros((outs, rows, columns, *shape))
    for o, y, x, i, v, u in product(*map(range, (outs, rows, columns, ins, *kernel))):
        at_y = y * stride[0] - padding[0] + v * dilation[0]
        at_x = x * stride[1] - padding[2] + u * dilation[1]
        if 0 <= at_y < sizes[0] and 0 <= at_x < sizes[1]:
            matrix[o, y, x, o // (outs // groups) * ins + i, at_y, at_x] += weight[o, i, v, u]
    return matrix.reshape(outs * rows * columns, -1), (outs, rows, columns)


@dataclass
class Value:
    """A value of the network, and how the relevance of it is shared out.

    Attributes:
        array: the value, without the dimension of the batch.
        parents: what it was made of, each with the function from its relevance to the parent's.
        gate: whether it comes from a sigmoid or a softmax.
    """

    array: Array
    parents: list[tuple[Value, Callable[[Array], Array]]] = field(default_factory=list)
    gate: bool = False


@dataclass
class Tape:
    """A run of a network, for one rule.

    Attributes:
        rule: "epsilon", "gamma" or "z+": of the convolutions.
        bounds: lowest and highest value of a pixel, [C] each; the convolutions of the image then take z^B.
        upper: the numbers of the convolutions, in the order in which they run, that take epsilon.
    """

    rule: str
    bounds: tuple[Array, Array] | None = None
    upper: Sequence[int] = ()
    image: Value | None = None
    values: list[Value] = field(default_factory=list)
    convolutions: int = 0

    def start(self, image: Array) -> Value:
        self.image = Value(image)
        return self.image

    def keep(self, array: Array, *parents: tuple[Value, Callable[[Array], Array]], gate: bool = False) -> Value:
        self.values.append(Value(array, list(parents), gate))
        return self.values[-1]

    def relevance(self, target: Value, place: tuple[int, ...], start: float | None = None) -> Array:
        """The relevance of the image where one place of the target has its own value, or `start`."""
        assert self.image is not None
        seed = np.zeros_like(target.array)
        seed[place] = target.array[place] if start is None else start
        collected: dict[int, Array] = {id(target): seed}
        for value in reversed(self.values):
            if id(value) in collected:
                for parent, share in value.parents:
                    part = share(collected[id(value)])
                    collected[id(parent)] = collected.get(id(parent), 0) + part.reshape(parent.array.shape)
        return collected.get(id(self.image), np.zeros_like(self.image.array))

    # --- linear maps ---

    def affine(self, v: Value, matrix: Array, bias: Array | float, shape: tuple[int, ...], rule: str) -> Value:
        """W a + b, flat in and out."""
        a = v.array.ravel()
        contributions = matrix * a
        out = contributions.sum(1) + bias

        def share(relevance: Array) -> Array:
            r = relevance.ravel()
            if rule == "z+":
                return shares(np.maximum(contributions, 0), np.maximum(bias, 0), r)
            if rule == "gamma":
                return sum(
                    (
                        shares(contributions + GAMMA * part(contributions, 0), bias + GAMMA * part(bias, 0), r * counts)
                        for part, counts in ((np.maximum, out > 0), (np.minimum, out < 0))
                    ),
                    np.zeros(a.size),
                )
            if rule == "box":
                assert self.bounds is not None
                low, high = (np.repeat(bound, a.size // len(bound)) for bound in self.bounds)
                return shares(contributions - low * np.maximum(matrix, 0) - high * np.minimum(matrix, 0), 0.0, r)
            return shares(contributions, bias, r)

        return self.keep(out.reshape(shape), (v, share))

    def conv(
        self, v: Value, module: nn.Conv2d, padding: tuple[int, ...] | None = None, norm: nn.BatchNorm2d | None = None
    ) -> Value:
        """A convolution, its own padding replaced where it is given, and BatchNorm folded into it where it is given."""
        weight = _array(module.weight)
        bias = np.zeros(len(weight)) if module.bias is None else _array(module.bias)
        if norm is not None:
            scale, shift = _norm(norm)
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        if padding is None:
            assert not isinstance(module.padding, str)
            (height, width) = module.padding
            padding = (height, height, width, width)
        (a, b, c), (s, t), (d, e) = v.array.shape, module.stride, module.dilation
        matrix, shape = conv_matrix(weight, (a, b, c), (s, t), padding, (d, e), module.groups)
        rule = "epsilon" if self.convolutions in self.upper else self.rule
        if self.bounds is not None and v is self.image:
            rule = "box"
        self.convolutions += 1
        return self.affine(v, matrix, np.repeat(bias, shape[1] * shape[2]), shape, rule)

    def linear(self, v: Value, module: nn.Linear) -> Value:
        """A linear map of the last dimension."""
        weight, length = _array(module.weight), v.array.size // v.array.shape[-1]
        bias = np.zeros(len(weight)) if module.bias is None else _array(module.bias)
        matrix: Array = np.zeros((length, len(weight), length, weight.shape[1]))
        matrix[range(length), :, range(length)] = weight
        shape = (*v.array.shape[:-1], len(weight))
        return self.affine(v, matrix.reshape(-1, v.array.size), np.tile(bias, length), shape, "epsilon")

    def avg_pool(self, v: Value, kernel: int, stride: int, padding: int = 0, count_include_pad: bool = True) -> Value:
        """Average pooling; a mean over positions where kernel is the size of the map."""
        channels, height, width = v.array.shape
        weight: Array = np.zeros((channels, channels, kernel, kernel))
        weight[range(channels), range(channels)] = 1
        matrix, shape = conv_matrix(weight, (channels, height, width), (stride, stride), (padding,) * 4, (1, 1), 1)
        counts = (
            np.full((len(matrix), 1), float(kernel * kernel)) if count_include_pad else matrix.sum(1, keepdims=True)
        )
        return self.affine(v, matrix / counts, 0.0, shape, "epsilon")

    def layer_norm(self, v: Value, module: nn.LayerNorm) -> Value:
        """Over the last dimension: the mean is taken away by a matrix, the standard deviation is a constant."""
        size = v.array.shape[-1]
        rows = v.array.reshape(-1, size)
        matrix = np.zeros((len(rows), size, len(rows), size))
        for n, row in enumerate(rows):
            deviation = math.sqrt(((row - row.mean()) ** 2).mean() + module.eps)
            matrix[n, :, n, :] = _array(module.weight)[:, None] * (np.eye(size) - 1 / size) / deviation
        bias = np.tile(_array(module.bias), len(rows))
        return self.affine(v, matrix.reshape(v.array.size, -1), bias, v.array.shape, "epsilon")

    # --- the rest ---

    def passed(self, v: Value, array: Array) -> Value:
        """A rectifier, or BatchNorm alone: the relevance is handed through."""
        return self.keep(array, (v, lambda relevance: relevance))

    def relu(self, v: Value) -> Value:
        return self.passed(v, np.maximum(v.array, 0))

    def norm(self, v: Value, module: nn.BatchNorm2d) -> Value:
        scale, shift = _norm(module)
        return self.passed(v, v.array * scale[:, None, None] + shift[:, None, None])

    def moved(self, v: Value, move: Callable[[Array], Array]) -> Value:
        """A view, a permutation, a border: each place of the result takes one place of the value, or none."""
        numbers = move(np.arange(1, v.array.size + 1, dtype=np.float64).reshape(v.array.shape)).astype(int)

        def share(relevance: Array) -> Array:
            out = np.zeros(v.array.size + 1)
            np.add.at(out, numbers.ravel(), relevance.ravel())
            return out[1:]

        return self.keep(move(v.array), (v, share), gate=v.gate)

    def max_pool(self, v: Value, kernel: int, stride: int, padding: int = 0) -> Value:
        channels, height, width = v.array.shape
        rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
        out = np.full((channels, rows, columns), -np.inf)
        winner = np.zeros(out.shape, dtype=int)
        for c, y, x, dy, dx in product(range(channels), range(rows), range(columns), range(kernel), range(kernel)):
            at_y, at_x = y * stride - padding + dy, x * stride - padding + dx
            if 0 <= at_y < height and 0 <= at_x < width and v.array[c, at_y, at_x] > out[c, y, x]:
                out[c, y, x], winner[c, y, x] = v.array[c, at_y, at_x], (c * height + at_y) * width + at_x

        def share(relevance: Array) -> Array:
            back = np.zeros(v.array.size)
            for place, r in zip(winner.ravel(), relevance.ravel(), strict=True):
                back[place] += r
            return back

        return self.keep(out, (v, share))

    def add(self, first: Value, second: Value) -> Value:
        """Each part takes what it contributed."""
        total = first.array + second.array
        return self.keep(
            total,
            (first, lambda relevance: first.array * relevance / away(total)),
            (second, lambda relevance: second.array * relevance / away(total)),
        )

    def cat(self, first: Value, second: Value) -> Value:
        count = len(first.array)
        return self.keep(
            np.concatenate([first.array, second.array]), (first, lambda r: r[:count]), (second, lambda r: r[count:])
        )

    def sigmoid(self, v: Value, hard: bool = False) -> Value:
        """A gate takes nothing."""
        array = np.clip(v.array / 6 + 0.5, 0, 1) if hard else 1 / (1 + np.exp(-v.array))
        return self.keep(array, gate=True)

    def softmax(self, v: Value) -> Value:
        powers = np.exp(v.array - v.array.max(-1, keepdims=True))
        return self.keep(powers / powers.sum(-1, keepdims=True), gate=True)

    def times(self, first: Value, second: Value) -> Value:
        """A product, element by element; a factor may be broadcast."""
        half = 0.5 if first.gate == second.gate else None
        parents = [
            (v, _to(v, half if half is not None else float(not v.gate)))
            for v in (first, second)
            if half is not None or not v.gate
        ]
        return self.keep(first.array * second.array, *parents)

    def over(self, numerator: Value, denominator: Value) -> Value:
        return self.keep(numerator.array / denominator.array, (numerator, lambda relevance: relevance))

    def matmul(self, first: Value, second: Value) -> Value:
        """first [n, m] times second [m, d], in proportion to what each product contributed."""
        a, b = first.array, second.array
        out, both = a @ b, a[:, :, None] * b[None]  # [n, m, d]
        weights = {(True, False): (0.0, 1.0), (False, True): (1.0, 0.0)}.get((first.gate, second.gate), (0.5, 0.5))

        def part(axis: int, weight: float) -> Callable[[Array], Array]:
            return lambda relevance: weight * (both * (relevance / away(out))[:, None, :]).sum(axis)

        return self.keep(
            out, *((v, part(axis, w)) for v, axis, w in zip((first, second), (2, 0), weights, strict=True) if w)
        )


def _to(v: Value, weight: float) -> Callable[[Array], Array]:
    """The weighted relevance, summed where the value was broadcast."""

    def share(relevance: Array) -> Array:
        axes = tuple(n for n, size in enumerate(v.array.shape) if size == 1 and relevance.shape[n] > 1)
        return np.asarray(weight * relevance.sum(axes, keepdims=True))

    return share


def _array(parameter: Any) -> Array:
    return np.asarray(parameter.detach().numpy(), dtype=np.float64)


def _norm(module: nn.BatchNorm2d) -> tuple[Array, Array]:
    """What BatchNorm multiplies by and adds, one number a channel."""
    scale = _array(module.weight) / np.sqrt(_array(module.running_var) + module.eps)
    return scale, _array(module.bias) - _array(module.running_mean) * scale

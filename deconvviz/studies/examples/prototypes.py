"""Prototypes and criticisms of a class: images that are typical of it, and those where it differs from them."""

from __future__ import annotations

import numpy as np

from deconvviz.types import Floats, Ints


def kernel_of(features: Floats) -> Floats:
    """Return the Gaussian kernel exp(-|x - x'|^2 / m) between features [n, D], float64 [n, n].

    m is the median squared distance between two different images; our choice, for the paper's is tuned for each task.

    >>> kernel_of(np.array([[0.0], [1.0]])).round(3)
    array([[1.   , 0.368],
           [0.368, 1.   ]])
    """
    lengths = np.square(features).sum(1)
    squares = np.maximum(lengths[:, None] + lengths[None] - 2 * features @ features.T, 0)
    np.fill_diagonal(squares, 0)
    apart = squares[~np.eye(len(squares), dtype=bool)]
    median = float(np.median(apart)) if len(apart) else 0.0
    return np.asarray(np.exp(-squares / (median if median > 0 else 1.0)))


def prototypes(kernel: Floats, count: int) -> Ints:
    """Return `count` images whose distribution is as close to that of all as can be found greedily, int64.

    Each one is that which makes J(S) = 2 / (n |S|) sum_{i, j in S} k(i, j) - 1 / |S|^2 sum_{j, l in S} k(j, l) largest,
    which is the squared maximum mean discrepancy with its sign turned, up to a constant.

    Args:
        kernel: float64 [n, n].
        count: of prototypes; at most n are returned.

    Source: Kim, Khanna and Koyejo 2016, "Examples are not enough, learn to criticize!", MMD-critic, equation 4 and
    algorithm 1 (from memory of the paper).

    >>> prototypes(kernel_of(np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])), 2)
    array([2, 3])
    """
    closeness, size = kernel.mean(1), len(kernel)
    chosen: list[int] = []
    total, within, to_chosen = 0.0, 0.0, np.zeros(size)
    for number in range(1, min(count, size) + 1):
        gains = 2 * (total + closeness) / number - (within + 2 * to_chosen + kernel.diagonal()) / number**2
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        total, within = total + closeness[best], within + 2 * to_chosen[best] + kernel[best, best]
        to_chosen = to_chosen + kernel[best]
        chosen.append(best)
    return np.array(chosen, np.int64)


def witness(kernel: Floats, chosen: Ints) -> Floats:
    """Return the witness function at each image, float64 [n]: its mean kernel with all less that with the prototypes.

    Above zero, images of its kind are more frequent than prototypes are; below zero, they are rarer.
    """
    return np.asarray(kernel.mean(1) - kernel[:, chosen].mean(1))


def criticisms(kernel: Floats, chosen: Ints, count: int) -> Ints:
    """Return `count` images at which the class differs most from its prototypes, and that differ, int64.

    Each one is that which makes sum |witness| + log det K of the criticisms largest.

    Args:
        kernel: float64 [n, n].
        chosen: int64, the prototypes, which are no criticisms.
        count: of criticisms; at most n - len(chosen) are returned.

    Source: Kim, Khanna and Koyejo 2016, equations 5 and 6 and algorithm 2, with the regulariser log det (from memory of
    the paper).

    >>> kernel = kernel_of(np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [20.0]]))
    >>> criticisms(kernel, prototypes(kernel, 3), 1)
    array([6])
    """
    strength = np.abs(witness(kernel, chosen))
    left = kernel.diagonal().astype(np.float64)  # of each image, what the criticisms so far leave of its kernel
    roots = np.zeros((len(kernel), 0))  # rows of the Cholesky factor, one column a criticism
    found: list[int] = []
    for _ in range(min(count, len(kernel) - len(chosen))):
        gains = strength + np.log(np.maximum(left, 1e-12))
        gains[[*chosen.tolist(), *found]] = -np.inf
        best = int(gains.argmax())
        column = (kernel[:, best] - roots @ roots[best]) / np.sqrt(max(left[best], 1e-12))
        roots, left = np.column_stack([roots, column]), left - column**2
        found.append(best)
    return np.array(found, np.int64)

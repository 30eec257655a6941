"""Methods that fit a linear model to the scores of an image whose superpixels are switched on and off."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import require_number
from deconvviz.cam.occluder import filling
from deconvviz.cam.registry import method
from deconvviz.cam.superpixels import Superpixels, superpixels

OWN_MEAN = "superpixel"  # fills a superpixel with its mean colour


@method("lime", needs="image", passes="1 + samples forward")
def lime(
    v: View,
    segments: int = 50,
    samples: int = 1000,
    fill: float | str | Tensor = "superpixel",
    compactness: float = 10.0,
    width: float = 0.25,
    alpha: float = 1.0,
) -> Tensor:
    """Weights of a ridge regression of p on which superpixels are there, near the image, signed.

    Ribeiro et al. 2016, arXiv 1602.04938; as in the released code, each of `samples` images keeps a superpixel by an
    even chance, counts sqrt(exp(-d^2 / width^2)), d the cosine distance from all of them, and the penalty is `alpha`.
    Superpixels are slic's, about `segments`, whose outlines follow colours the less the higher `compactness` is (the
    code has quickshift). fill: "superpixel" is its own mean colour; else
    a number in units of the normalised image, images, "blur" or "noise". Another seed gives other weights.
    """
    require_number("samples", samples, 2, whole=True)
    require_number("width", width, 1e-6)
    require_number("alpha", alpha, 0)
    parts = _parts(v, segments, compactness)
    members = _table(v, parts, [_halves(count, samples, v.seed) for count in parts.counts])
    scores = _scores(v, parts, members, fill)
    weights = torch.zeros(len(v.x), max(parts.counts), dtype=torch.float64)
    for n, count in enumerate(parts.counts):
        present = members[n, :, :count].double().cpu()
        distance = 1 - present.sum(1).sqrt() / math.sqrt(count)
        weights[n, :count] = ridge(present, scores[n], torch.exp(-(distance**2) / width**2).sqrt(), alpha)
    return parts.drawn(weights.to(v.x))


@method("kernel-shap", needs="image", passes="up to 2 + samples forward")
def kernel_shap(
    v: View, segments: int = 50, samples: int = 1000, fill: float | str | Tensor = 0.0, compactness: float = 10.0
) -> Tensor:
    """Shapley values of superpixels for p, by a regression with Shapley's kernel, signed; they add up to p(x) - p(b).

    Lundberg and Lee 2017, arXiv 1705.07874, theorem 2. With 2^superpixels - 2 <= samples all coalitions run and the
    values are exact; else sizes are drawn by the kernel, each coalition with its complement (our choice, as in shap).
    segments, compactness, fill: as of lime; absent superpixels are the mean colour of the training images by default.
    """
    require_number("samples", samples, 2, whole=True)
    parts = _parts(v, segments, compactness)
    drawn = [coalitions(count, samples, v.seed) for count in parts.counts]
    members = _table(v, parts, [torch.cat([torch.zeros_like(rows[:1]), rows]) for rows, _ in drawn])
    sizes = torch.tensor([1 + len(rows) for rows, _ in drawn], device=v.x.device)
    there = torch.arange(members.shape[1], device=v.x.device) < sizes[:, None]
    scores = _scores(v, parts, members, fill, there)
    values = torch.zeros(len(v.x), max(parts.counts), dtype=torch.float64)
    for n, (rows, weights) in enumerate(drawn):
        gains = scores[n, 1 : 1 + len(rows)] - scores[n, 0]
        values[n, : parts.counts[n]] = shapley_values(rows, gains, weights, float(v.p[n]) - float(scores[n, 0]))
    return parts.drawn(values.to(v.x))


def _parts(v: View, segments: int, compactness: float) -> Superpixels:
    require_number("segments", segments, 1, whole=True)
    require_number("compactness", compactness, 1e-6)
    return superpixels(v.x, segments, compactness)


def _table(v: View, parts: Superpixels, rows: list[Tensor]) -> Tensor:
    """Return which superpixels take part, [N, variants, superpixels], in the images' dtype; padded with zeros."""
    table = v.x.new_zeros(len(rows), max(map(len, rows)), max(parts.counts))
    for n, each in enumerate(rows):
        table[n, : len(each), : each.shape[1]] = each.to(v.x)
    return table


def _scores(
    v: View, parts: Superpixels, members: Tensor, fill: float | str | Tensor, there: Tensor | None = None
) -> Tensor:
    """Return p of the images with absent superpixels filled, float64 [N, variants] on the CPU."""
    filled = parts.means(v.x) if isinstance(fill, str) and fill == OWN_MEAN else filling(v, fill)
    return v.masked(members.shape[1], parts.masks(members), fill=filled, keep=there).double().cpu()


def _halves(count: int, samples: int, seed: int) -> Tensor:
    """Return draws of which superpixels take part, by an even chance, [samples, count]; in the first all do."""
    rows = torch.randint(2, (samples, count), generator=torch.Generator().manual_seed(seed)).double()
    rows[0] = 1
    return rows


def coalitions(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return coalitions of players, neither empty nor all of them, and how much each counts.

    Returns:
        Float64 [n, count] of 0 and 1, and float64 [n].

    >>> rows, weights = coalitions(3, 6, seed=0)
    >>> rows.sum(1).tolist(), weights.tolist()[:1]
    ([1.0, 1.0, 2.0, 1.0, 2.0, 2.0], [0.3333333333333333])
    """
    if count == 1:  # no coalition lies between none and all
        return torch.ones(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if count < 40 and 2**count - 2 <= samples:
        every = torch.tensor([*product((0.0, 1.0), repeat=count)], dtype=torch.float64)[1:-1]
        sizes = [int(size) for size in every.sum(1).tolist()]
        kernel = [(count - 1) / (math.comb(count, size) * size * (count - size)) for size in sizes]
        return every, torch.tensor(kernel, dtype=torch.float64)
    generator, sizes_of = torch.Generator().manual_seed(seed), torch.arange(1, count, dtype=torch.float64)
    drawn = 1 + torch.multinomial(1 / (sizes_of * (count - sizes_of)), samples // 2, True, generator=generator)
    ranks = torch.rand(len(drawn), count, generator=generator).argsort(1).argsort(1)
    rows = (ranks < drawn[:, None]).double()
    rows = torch.stack([rows, 1 - rows], 1).flatten(0, 1)
    return rows, torch.ones(len(rows), dtype=torch.float64)


def shapley_values(rows: Tensor, gains: Tensor, weights: Tensor, total: float) -> Tensor:
    """Return the values [players] that fit the gains of coalitions best, by least squares, and add up to the total."""
    if rows.shape[1] == 1:
        return rows.new_tensor([total])
    last, root = rows[:, -1:], weights.sqrt()[:, None]
    free = torch.linalg.lstsq((rows[:, :-1] - last) * root, (gains[:, None] - last * total) * root, driver="gelsd")
    values = free.solution[:, 0]
    return torch.cat([values, total - values.sum(0, keepdim=True)])


def ridge(rows: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return the coefficients of a weighted ridge regression with an intercept that is not penalised.

    >>> rows = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> ridge(rows, torch.tensor([1.0, 4.0]).double(), torch.ones(2).double(), 0.5).tolist()
    [1.5]
    """
    share = weights / weights.sum()
    centred, rest = rows - share @ rows, scores - share @ scores
    normal = centred.T @ (weights[:, None] * centred) + alpha * torch.eye(rows.shape[1], dtype=rows.dtype)
    solved: Tensor = torch.linalg.lstsq(normal, centred.T @ (weights * rest)[:, None], driver="gelsd").solution
    return solved[:, 0]

"""Templates of one peak, and losses that ask a filter's maps to look like one of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLOPE = 2.0  # beta on coordinates from -1 to 1, where ICNN begins; the paper's 4 / side for each position is as steep

TEMPERATURE = 0.5  # of p(X|T)


def distances(height: int, width: int, like: Tensor) -> Tensor:
    """Return |dx| + |dy| from each position to each, on coordinates from -1 to 1, [height * width, height, width].

    >>> distances(1, 3, torch.zeros(()))[0]
    tensor([[0., 1., 2.]])
    """
    rows, columns = (
        torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device) if side > 1 else like.new_zeros(1)
        for side in (height, width)
    )
    down = (rows[:, None] - rows).abs()[:, None, :, None]
    across = (columns[:, None] - columns).abs()[None, :, None, :]
    return (down + across).reshape(height * width, height, width)


def templates(height: int, width: int, like: Tensor, slope: float = SLOPE) -> Tensor:
    """Return the template of a peak at each position, max(1 - slope (|dx| + |dy|), -1), [height * width, h, w].

    Args:
        height: rows of the maps.
        width: columns.
        like: a tensor whose dtype and device they take.
        slope: beta, how fast a template falls; coordinates go from -1 to 1.

    Source: Zhang, Wu, Zhu 2018, "Interpretable Convolutional Neural Networks", section 3.
    """
    return (1 - slope * distances(height, width, like)).clamp(min=-1)


def peaks(maps: Tensor) -> Tensor:
    """Return where each map [N, K, h, w] is largest, int64 [N, K], counted row by row."""
    return maps.detach().flatten(2).argmax(2)


def masked(maps: Tensor, slope: float = SLOPE) -> Tensor:
    """Return maps times the template at their own peak, rectified, [N, K, h, w].

    Source: Zhang, Wu, Zhu 2018, section 3; that the product is rectified is from memory of it.

    >>> masked(torch.tensor([[[[1.0, 4.0, 1.0, 1.0]]]]))
    tensor([[[[0., 4., 0., 0.]]]])
    """
    height, width = maps.shape[2:]
    return (maps * templates(height, width, maps, slope)[peaks(maps)]).relu()


def information(maps: Tensor, slope: float = SLOPE) -> Tensor:
    """Return the mutual information of a filter's maps and the templates, in nats, mean over the filters, a scalar.

    For one filter, with X its map on an image of the batch and T a template:

        I = sum_T p(T) sum_X p(X|T) log(p(X|T) / p(X)),   p(X|T) = exp(sum_uv X_uv T_uv / t) / Z_T,   Z_T over the batch

    T is the template of a peak at one of the positions, or -1 everywhere: the filter is silent. Every template is as
    likely as another. t is half of the mean over the batch of sum_uv X_uv, so that the scale of a filter's values does
    not count. I is large where each map fits one template clearly better than the others do, and different images fit
    different ones.

    Args:
        maps: floating [N, K, h, w], not negative.
        slope: beta of the templates.

    Source: Zhang, Wu, Zhu 2018, equations 2 and 3; the temperature 0.5 and Z_T over the batch are those of ICNN. The
    uniform p(T), and that t grows with the activity where the paper shrinks T with the number of positions, are our
    choice. ICNN adds the gradient of an approximation by hand; here it is that of the equation.

    >>> one_place = torch.zeros(2, 1, 3, 3)
    >>> one_place[0, 0, 0, 0] = one_place[1, 0, 2, 2] = 0.1
    >>> bool(information(one_place) > 0.1 > information(torch.ones(2, 1, 3, 3)))
    True
    """
    height, width = maps.shape[2:]
    positive = templates(height, width, maps, slope).flatten(1)
    every = torch.cat([positive, -torch.ones_like(positive[:1])])  # [T, P]
    activity = maps.sum((2, 3)).mean(0)[:, None]
    fits = maps.flatten(2) @ every.T / (TEMPERATURE * torch.where(activity > 0, activity, 1))  # [N, K, T]
    given = fits.log_softmax(0)  # log p(X|T)
    overall = given.logsumexp(2, keepdim=True) - math.log(len(every))  # log p(X)
    return (given.exp() * (given - overall)).sum(0).mean(1).mean()


def own_spread(maps: Tensor, of_own: Tensor) -> Tensor:
    """Return how far the filters' activity lies from its peak, on images of their own class, a scalar in 0..4.

    For each map it is sum_uv X_uv (|du| + |dv|) / sum_uv X_uv, distances from the map's peak on coordinates from -1 to
    1; then the mean over a filter's own images, then over the filters that have any.

    Args:
        maps: floating [N, K, h, w], not negative.
        of_own: bool [N, K], which images are of a filter's own class.

    Source: our choice.
    """
    height, width = maps.shape[2:]
    away = (maps * distances(height, width, maps)[peaks(maps)]).sum((2, 3))
    total = maps.sum((2, 3))
    active = of_own & (total > 0)
    return _mean_of_means(away / torch.where(active, total, 1), active)


def activity_elsewhere(maps: Tensor, of_own: Tensor) -> Tensor:
    """Return which share of a filter's mean activity is on images of other classes, mean over filters, in 0..1.

    With a the mean of a filter's maps over its own images and b that over the others, it is b / (a + b); filters of
    which the batch has no image of either kind take no part.

    Args:
        maps: floating [N, K, h, w], not negative.
        of_own: bool [N, K], which images are of a filter's own class.

    Source: our choice.
    """
    activity = maps.mean((2, 3))
    own, others = of_own.to(activity.dtype), (~of_own).to(activity.dtype)
    inside = (activity * own).sum(0) / own.sum(0).clamp(min=1)
    outside = (activity * others).sum(0) / others.sum(0).clamp(min=1)
    both = of_own.any(0) & (~of_own).any(0) & (inside + outside > 0)
    shares = outside / torch.where(both, inside + outside, 1)
    return (shares * both).sum() / both.sum().clamp(min=1)


def _mean_of_means(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over columns of the mean of their counted rows [N, K]; columns without any take no part."""
    rows, has_rows = counted.sum(0), counted.any(0)
    means = torch.where(counted, values, 0).sum(0) / rows.clamp(min=1)
    return (means * has_rows).sum() / has_rows.sum().clamp(min=1)

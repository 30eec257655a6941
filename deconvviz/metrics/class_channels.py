"""Which channels of a layer each class leans on, and the two constraints that Model Doctor trains with.

Notation: A are the maps of a layer, [N, K, h, w]; z_c is the score of class c; S_k(c) = sum over places of
ReLU(dz_c / dA_k); M is a table of channels, true where a class leans on one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.types import Floats, Ints, Mask

THRESHOLD = 0.2  # of the strongest channel, after the weakest is taken off: a class leans on the channels above it


def surest(certainty: Floats, correct: Mask, of_class: Mask, most: int) -> Ints:
    """Return the images that speak for a class: those that are classified correctly, the surest first.

    Args:
        certainty: floating [N], the probability of the class in each image.
        correct: bool [N], whether the image's class is the one that is found.
        of_class: bool [N], which images are of the class.
        most: how many images to return, at most.

    Returns:
        int64 [m], places of images; where none is classified correctly, the surest of all that are of the class.

    >>> surest(np.array([0.2, 0.9, 0.6, 0.8]), np.array([1, 1, 1, 0]) > 0, np.array([1, 0, 1, 1]) > 0, most=2)
    array([2, 0])
    """
    places = np.flatnonzero(of_class & correct)
    places = places if len(places) else np.flatnonzero(of_class)
    return places[np.argsort(-certainty[places], kind="stable")][:most]


def score_gradient(scores: Tensor, classes: Tensor, maps: Tensor, differentiable: bool = False) -> Tensor:
    """Return the gradient of one class's score for each image with respect to maps.

    The gradient is that of the score itself: it is not that of a loss, and is not divided by the number of images.

    Args:
        scores: [N, classes], computed from `maps` with a graph.
        classes: int64 [N], the class whose score counts, of each image.
        maps: [N, ...], a value that the scores follow from, of which a gradient is asked.
        differentiable: whether the gradient can be differentiated again, as a training needs.

    Returns:
        Of the shape of `maps`, float32 or wider; zeros where the scores do not follow from them.

    >>> maps = torch.ones(1, 2, 2, 2, requires_grad=True)
    >>> score_gradient(maps.mean((2, 3)) @ torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0]), maps).amax((2, 3))
    tensor([[0.7500, 0.0000]])
    """
    chosen = scores.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, maps, create_graph=differentiable, allow_unused=True)
    return (torch.zeros_like(maps) if gradient is None else gradient).to(widened(maps.dtype))


def channel_strengths(gradient: Tensor) -> Tensor:
    """Return S [N, K] of the gradients [N, K, h, w]: the sum over the places of what is positive.

    Where the maps are averaged and read by a linear layer W, S_k(c) is W_ck, or 0 where that is negative.

    Source: Feng et al. 2022, arXiv 2112.04934, the statistics of the gradient; the formula is that of the authors'
    code.

    >>> channel_strengths(torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]]))
    tensor([[1., 7.]])
    """
    return gradient.relu().flatten(2).sum(2)


def class_masks(strengths: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Return which channels each class leans on, bool [C, K].

    The strengths of a class are scaled so that its weakest channel has 0 and its strongest 1; it leans on those above
    the threshold. A class whose channels are all alike leans on none more than on another, and has none.

    Args:
        strengths: [C, K], sums or means of S over images of each class; negative nowhere.
        threshold: in 0..1.

    Source: Feng et al. 2022; the threshold 0.2 is that of the authors' code.

    >>> class_masks(torch.tensor([[0.0, 1.0, 10.0, 3.0], [2.0, 2.0, 2.0, 2.0]])).int().tolist()
    [[0, 0, 1, 1], [0, 0, 0, 0]]
    """
    low, high = strengths.amin(1, keepdim=True), strengths.amax(1, keepdim=True)
    return strengths - low > threshold * (high - low)


def rivals(scores: Tensor, classes: Tensor) -> Tensor:
    """Return the class that each image is most in danger of being taken for, int64 [N].

    It is the best of the other classes: the one that is decided for where the decision is wrong, else the runner-up.

    Args:
        scores: [N, classes], of two classes or more.
        classes: int64 [N], the class of each image.

    >>> rivals(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1])).tolist()
    [2, 0]
    """
    return scores.scatter(1, classes[:, None], float("-inf")).argmax(1)


def channel_constraint(scores: Tensor, classes: Tensor, maps: Tensor, masks: Tensor) -> Tensor:
    """Return L_ch of each image [N]: S of the rival on the rival's channels, and S of its class on foreign channels.

    L_ch = sum_k M[r, k] S_k(r) + sum_k (1 - M[y, k]) S_k(y), for class y and rival r (see `rivals`). It can be
    differentiated once more.

    Args:
        scores: [N, classes], computed from `maps` with a graph.
        classes: int64 [N], the class of each image.
        maps: [N, K, h, w].
        masks: bool [classes, K], the channels of each class, as `class_masks` returns them.

    Source: Feng et al. 2022, the channel constraint. The authors take the gradient of a loss that was averaged over the
    batch, which makes the term smaller the larger the batch is; here it is the gradient of each image's own score.
    """
    rival = rivals(scores.detach(), classes)
    of_rival = channel_strengths(score_gradient(scores, rival, maps, differentiable=True))
    of_class = channel_strengths(score_gradient(scores, classes, maps, differentiable=True))
    return (of_rival * masks[rival]).sum(1) + (of_class * ~masks[classes]).sum(1)


def space_constraint(scores: Tensor, classes: Tensor, maps: Tensor, outside: Tensor) -> Tensor:
    """Return L_sp of each image [N]: the sum of |dz_y / dA| outside the object. It can be differentiated once more.

    Args:
        scores: [N, classes], computed from `maps` with a graph.
        classes: int64 [N], the class of each image.
        maps: [N, K, h, w].
        outside: [N, h, w] in 0..1, which part of each place is not the object; zeros where the object is not known.

    Source: Feng et al. 2022, the space constraint.
    """
    gradient = score_gradient(scores, classes, maps, differentiable=True)
    return (gradient.abs().sum(1) * outside).flatten(1).sum(1)

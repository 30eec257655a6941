"""Losses of self-supervision, each a function of what two views of the same images became."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STEADY = 1e-5  # added to variances, as BatchNorm does


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent: each of the 2 N views has to find the other view of its image among all the others.

    The mean over i of -log(exp(cos(z_i, z_j) / t) / sum over k != i of exp(cos(z_i, z_k) / t)); j is the other view.

    Args:
        a: floating [N, D], the first views.
        b: floating [N, D], the second views.
        temperature: t.

    Returns:
        A scalar, in nats: 0 or more.

    Source: Chen et al. 2020, equation 1 (SimCLR), from memory; their temperature is 0.5 on CIFAR-10.

    >>> round(float(nt_xent(torch.eye(2), torch.eye(2), 0.1)), 4)  # log(1 + 2 exp(-10))
    0.0001
    """
    z = functional.normalize(torch.cat([a, b]), dim=1)
    scores = z @ z.T / temperature
    scores = scores.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    partners = torch.arange(len(z), device=z.device).roll(len(a))
    return functional.cross_entropy(scores, partners)


def barlow_twins(a: Tensor, b: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Barlow Twins: the correlation of the two views is 1 in each number and 0 between different numbers.

    sum over i of (1 - C_ii)^2, and weight * sum over i != j of C_ij^2. C [D, D] is the correlation over the batch of
    number i of the first views with number j of the second ones.

    Args:
        a: floating [N, D], the first views.
        b: floating [N, D], the second views.
        weight: lambda.

    Returns:
        Two scalars, the sum that draws views together and the one that keeps numbers apart. The loss is their sum.

    Source: Zbontar et al. 2021, equations 1 and 2, from memory; their lambda is 0.005.

    >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    >>> [round(float(term), 4) for term in barlow_twins(z, z, 0.005)]
    [0.0, 0.0]
    """
    a, b = _standardised(a), _standardised(b)
    correlation = a.T @ b / len(a)
    own = correlation.diagonal()
    return (1 - own).square().sum(), weight * (correlation.square().sum() - own.square().sum())


def _standardised(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred / (centred.square().mean(0) + STEADY).sqrt()


def sinkhorn(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
    """Return the codes of a batch: how its images are shared out among the prototypes, each of which is used alike.

    exp(scores / epsilon) is scaled so that each prototype has one share of 1 / K of the batch, then so that the code of
    each image sums to 1, again and again. It is computed with logarithms, which do not overflow.

    Args:
        scores: floating [N, K], how alike images and prototypes are.
        epsilon: how smooth the codes are; smaller is sharper.
        rounds: how often both are scaled.

    Returns:
        [N, K], 0 or more; each row sums to 1, and the mean of each column tends to 1 / K. No gradient goes through it.

    Source: Caron et al. 2020, section 3.1 (SwAV), after Cuturi 2013.

    >>> sinkhorn(torch.tensor([[9.0, 0.0], [9.0, 1.0]]), 1.0, 50).mean(0)
    tensor([0.5000, 0.5000])
    """
    logarithm = scores.detach() / epsilon
    for _ in range(rounds):
        logarithm = logarithm - logarithm.logsumexp(0, keepdim=True)
        logarithm = logarithm - logarithm.logsumexp(1, keepdim=True)
    return logarithm.exp()


def swapped_prediction(
    a: Tensor,
    b: Tensor,
    temperature: float,
    epsilon: float,
    rounds: int,
    earlier: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """SwAV: the code of one view is predicted from the other view.

    mean over images of -sum over k of (q_a log softmax(s_b / t) + q_b log softmax(s_a / t)) / 2, q being `sinkhorn(s)`.

    Args:
        a: floating [N, K], the scores of the first views: cosines with the prototypes.
        b: floating [N, K], those of the second views.
        temperature: t.
        epsilon: of the codes.
        rounds: of the codes.
        earlier: floating [Q, K] twice, scores of earlier first and second views. They share the prototypes with those
            of the batch, which makes the codes of a batch that is smaller than K meaningful, and are not predicted.

    Returns:
        A scalar, in nats.

    Source: Caron et al. 2020, equation 2, and section 3.1 for earlier views; t 0.1, epsilon 0.05 and 3 rounds are those
    of its release.

    >>> round(float(swapped_prediction(torch.eye(3), torch.eye(3), 0.1, 0.05, 3)), 4)
    0.0001
    """
    total = a.new_zeros(())
    for place, (coded, predicted) in enumerate(((a, b), (b, a))):
        shared = coded if earlier is None else torch.cat([earlier[place], coded.detach()])
        codes = sinkhorn(shared, epsilon, rounds)[-len(coded) :]
        total = total - (codes * functional.log_softmax(predicted / temperature, 1)).sum(1).mean() / 2
    return total

"""How far a map has moved: five distances of two maps of one image, all of them 0 where nothing has changed."""

from __future__ import annotations

import torch
from torch import Tensor

from deconvviz.metrics.inputs import check_pair, pairwise, ranks
from deconvviz.metrics.intervals import correlation
from deconvviz.metrics.sanity import spearman, ssim

MOVES = ("ssim", "pearson", "spearman", "l1", "top_15")
"""The distances, in the order in which they are tabled."""
SHARE = 0.15  # of the pixels, as in the metrics that keep the strongest ones


def moves(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Return how far each map has moved, by five measures; 0 is the same map, to the last bit.

    * "ssim": 1 - SSIM, 0..2; see `ssim`.
    * "pearson": 1 - Pearson's correlation of the pixels, 0..2.
    * "spearman": 1 - Spearman's rank correlation of the pixels, 0..2.
    * "l1": the mean absolute difference of the pixels, 0..1.
    * "top_15": 1 - intersection over union of the strongest 15 % of the pixels, 0..1. Pixels of value 0, the least of
      a map, are never among them; of equal ones the first in row-major order are.

    A map that is constant correlates with no other: against it the first three are 1.

    Args:
        before: [N, H, W] in 0..1, at least 11 x 11.
        after: [N, H, W] in 0..1.

    Returns:
        Name of the measure -> float64 [N] on the CPU.

    Raises:
        DataError: one of them is not a finite [N, H, W] tensor in 0..1, their shapes differ, or they are too small.

    Source: Ghorbani et al. 2019, arXiv 1710.10547, section 2, and Adebayo et al. 2018, arXiv 1810.03292, section 3.1,
    compare maps by rank correlation, the strongest pixels and SSIM. The 15 % are our choice.

    >>> ramp = torch.linspace(0, 1, 144).reshape(1, 12, 12)
    >>> {name: round(float(value), 2) for name, value in moves(ramp, 1 - ramp).items()}
    {'ssim': 1.93, 'pearson': 2.0, 'spearman': 2.0, 'l1': 0.5, 'top_15': 1.0}
    """
    check_pair(before, after, True, ("before", "after"))
    before, after = (maps.detach().to("cpu", torch.float64) for maps in (before, after))
    same = (before == after).flatten(1).all(1)
    found = {
        "ssim": 1 - ssim(before, after),
        "pearson": 1 - pairwise(before, after, correlation),
        "spearman": 1 - spearman(before, after),
        "l1": (before - after).abs().mean((1, 2)),
        "top_15": 1 - overlap(*(strongest(maps, SHARE) & (maps > 0) for maps in (before, after))),
    }
    return {name: torch.where(same, 0.0, found[name]) for name in MOVES}


def strongest(maps: Tensor, share: float) -> Tensor:
    """Return which pixels are among the strongest of their map, bool [N, H, W]; of equal ones the first are.

    Args:
        maps: [N, H, W].
        share: of the pixels, 0..1; at least one pixel is taken.

    >>> strongest(torch.tensor([[[0.2, 0.9], [0.9, 0.4]]]), 0.25).tolist()
    [[[False, True], [False, False]]]
    """
    return ranks(maps) < max(1, round(share * maps[0].numel()))


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of masks, float64 [N]; 0 where both are empty.

    Args:
        first: bool [N, H, W].
        second: bool [N, H, W].

    >>> overlap(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]])).tolist()
    [0.5]
    """
    both, either = (each.flatten(1).sum(1).double() for each in (first & second, first | second))
    return both / either.clamp(min=1)

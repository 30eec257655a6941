"""Max-sensitivity: how much a map changes when the image changes so little that nobody sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import as_values, check_maps, check_pair
from deconvviz.metrics.metric import register

register("max_sensitivity", "Max-sensitivity", False, "ratio", "Yeh et al. 2019, (In)fidelity and Sensitivity")

RADIUS, DRAWS = 0.02, 10  # captum's defaults


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    radius: float = RADIUS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Tensor:
    """Return the largest |e(x + d) - e(x)| / |e(x)| over draws of noise d; lower is better.

    The norms are Euclidean, over the pixels of a map. A map of zeros has a norm of 1 here, as in captum, so that a map
    that is zero whatever the image has a sensitivity of 0.

    Args:
        explain: makes the maps [N, H, W] of images [N, C, H, W], for the classes that `maps` explain.
        images: [N, C, H, W], normalised.
        maps: [N, H, W], those of the images.
        radius: each value of d is drawn uniformly from -radius to radius, in normalised values.
        draws: number of draws.
        seed: of the noise; every image has the same noise, wherever it is among the images.

    Returns:
        float64 [N].

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor, `explain` returns another shape, the radius is not positive
            or there is no draw.

    Source: Yeh et al. 2019, arXiv 1901.09392, definition 2; radius and draws are captum's. (In the authors' release
    `max(max_diff, norm(...)) / norm` divides the largest value so far once more at each draw; captum does not.)

    >>> images = torch.rand(2, 3, 4, 4)
    >>> max_sensitivity(lambda x: torch.ones(len(x), 4, 4), images, torch.ones(2, 4, 4))
    tensor([0., 0.], dtype=torch.float64)
    """
    check_maps(maps, unit=False)
    if not 0 < radius < float("inf") or draws < 1:
        raise DataError(f"radius {radius:g} and {draws} draws given; expected a positive radius and 1 draw or more")
    before = maps.detach().to("cpu", torch.float64).flatten(1)
    length = before.norm(dim=1)
    largest = np.zeros(len(maps))
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        noise = rng.uniform(-radius, radius, tuple(images.shape[1:]))
        after = explain(images + torch.from_numpy(noise).to(images))
        check_pair(maps, after, False, ("maps", "maps of the noisy images"))
        change = (after.detach().to("cpu", torch.float64).flatten(1) - before).norm(dim=1)
        largest = np.maximum(largest, (change / torch.where(length > 0, length, 1.0)).numpy())
    return as_values(largest)

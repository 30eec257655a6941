"""Countermeasures: squeezing what an attack needs out of an image, and asking several explanation methods."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.explain import Explainer, constant_maps_allowed
from deconvviz.cam.options import ExplainOptions
from deconvviz.metrics.sanity import spearman
from deconvviz.studies.attack.options import squeezer
from deconvviz.studies.attack.pixels import PixelNetwork

COARSE = 28  # cells of a side, to which maps are brought before their ranks are compared


def squeezed(x: Tensor, text: str) -> Tensor:
    """Return images as a countermeasure leaves them.

    "bit-depth=b" rounds each colour to the nearest of 2^b levels; "median=k" takes the median of each colour over a
    window of k x k pixels, the lower one of an even number; beyond the border the image is mirrored.

    Args:
        x: floating [N, C, H, W] in 0..1.
        text: as `squeezer` reads it.

    Source: Xu, Evans and Qi 2018, NDSS (feature squeezing), sections 3.1 and 3.2.

    >>> squeezed(torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]]), "bit-depth=1").flatten().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    kind, number = squeezer(text)
    if kind == "bit-depth":
        levels = 2**number - 1
        rounded: Tensor = (x * levels).round() / levels
        return rounded
    before = (number - 1) // 2
    around = (before, number - 1 - before) * 2
    near = functional.pad(x, around, mode="reflect").unfold(2, number, 1).unfold(3, number, 1)
    middle: Tensor = near.flatten(4).median(4).values
    return middle


class Jury:
    """Explanation methods that are asked about the same images.

    Attributes:
        network: takes pixels in 0..1.
        explainers: by name.
    """

    def __init__(self, network: PixelNetwork, methods: Sequence[str], layer: str | None, seed: int) -> None:
        """Make the methods; raises their errors where one does not exist, or a layer is missing."""
        self.network, how = network, ExplainOptions(seed=seed)
        layers = () if layer is None else (layer,)
        self.explainers = {name: Explainer(name, network.network, layers, how, {}) for name in methods}

    def agreement(self, x: Tensor, classes: Tensor) -> Tensor:
        """Return Spearman's correlation of the maps of each pair of methods, [N, pairs], of images in 0..1.

        The maps are averaged over 28 x 28 cells first, so that the fine grain of gradients does not count. A map that
        is the same everywhere correlates with nothing, 0.
        """
        with constant_maps_allowed():
            inputs, listed = self.network.scale.inputs(x), classes.tolist()
            maps_of_methods = [each(inputs, listed) for each in self.explainers.values()]
        pairs = combinations([_coarse(maps) for maps in maps_of_methods], 2)
        return torch.stack([spearman(first, second, absolute=False) for first, second in pairs], 1)


def _coarse(maps: Tensor) -> Tensor:
    """Return the means of maps [N, H, W] over 28 x 28 cells, float64 [N, 28, 28]; smaller maps keep their pixels."""
    sides = (min(COARSE, maps.shape[-2]), min(COARSE, maps.shape[-1]))
    return functional.adaptive_avg_pool2d(maps.double()[:, None], sides)[:, 0]

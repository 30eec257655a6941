"""Sparseness: whether a map is concentrated on a few pixels (the Gini index)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deconvviz.metrics.inputs import as_array, as_values, check_maps
from deconvviz.metrics.metric import register

register("sparseness", "Sparseness", True, "fraction", "Chalasani et al. 2020")


def sparseness(maps: Tensor) -> Tensor:
    """Return the Gini index of the absolute values of each map; higher is sparser.

    With the sizes v of a map's n pixels in ascending order it is sum_k (2 k - n - 1) v_k / (n sum_k v_k), k from 1.
    A sparse map is easier to read; whether it is right, this does not say.

    Args:
        maps: [N, H, W], finite.

    Returns:
        float64 [N], 0 for a constant map, 1 - 1 / n for one pixel alone; 0 for a map of zeros.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor.

    Source: Chalasani et al. 2020, arXiv 1810.06583; Hurley and Rickard 2009. Quantus adds 1e-7 to each value; here
    nothing is added.

    >>> import torch
    >>> sparseness(torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    check_maps(maps, unit=False)
    values = np.sort(np.abs(as_array(maps)).reshape(len(maps), -1), 1)
    count, total = values.shape[1], values.sum(1)
    weights = 2 * np.arange(1, count + 1) - count - 1
    return as_values((values @ weights) / np.where(total > 0, count * total, 1))

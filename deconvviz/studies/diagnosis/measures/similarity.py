"""How alike the filters of a layer are: by their weights, and by their responses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc  # type: ignore[import-untyped]

from deconvviz.graph.filters import Filters
from deconvviz.metrics.intervals import unit_columns
from deconvviz.types import Floats


def filter_cosines(filters: Filters) -> Floats:
    """Return the cosines between the effective weights of filters.

    Returns:
        float64 [channels, channels]; 0 between filters of different groups, which read different inputs, and for
        filters without weights.
    """
    directions = unit_columns(filters.effective.reshape(len(filters.weights), -1).T, centred=False)
    group = np.arange(len(filters.weights)) * filters.groups // len(filters.weights)
    return np.where(group[:, None] == group, directions.T @ directions, 0.0)


def comparable_cosines(filters: Filters | None, live: NDArray[np.intp], limit: float) -> Floats:
    """Return the cosines between live filters, where a cosine of `limit` means something.

    Two directions drawn at random in few dimensions are easily alike. Where chance alone is expected to bring half a
    pair of these filters to the limit, all cosines are 0.

    Args:
        filters: of the layer; None where it has none of its own.
        live: the channels to compare, int [m].
        limit: the cosine from which two filters will be called alike.

    Returns:
        float64 [m, m], zeros on the diagonal.

    Source: derived; the share of directions within an angle of a given one is an incomplete beta function.
    """
    zeros = np.zeros((len(live), len(live)))
    if filters is None:
        return zeros
    dimensions = filters.weights[0].size
    chance = 0.5 * betainc((dimensions - 1) / 2, 0.5, 1 - limit**2) if dimensions > 1 else 1.0
    if chance * len(live) * (len(live) - 1) / 2 >= 0.5:
        return zeros
    cosines = filter_cosines(filters)[np.ix_(live, live)]
    np.fill_diagonal(cosines, 0)
    return cosines

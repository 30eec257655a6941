"""The criterion of redundancy: filters that resemble others go, and one of each kind stays."""

from __future__ import annotations

import numpy as np

from deconvviz.metrics.intervals import unit_columns
from deconvviz.studies.pruning.registry import Scores, criterion
from deconvviz.studies.pruning.subject import PruningSubject
from deconvviz.types import Floats


@criterion("similarity")
def similarity(subject: PruningSubject) -> Scores:
    """The pair of filters with the largest cosine of their weights is found, the smaller of both goes, and so on.

    s_f is the place in this order: of filters that resemble one another one stays, the largest. A filter without
    weights goes first. Of filters that go together the weights of all are one vector. RoyChowdhury et al. 2017 drop
    duplicates by cosine; the order is ours.
    """
    scores = {}
    for name in subject.chosen:
        group = subject.groups.groups[name]
        rows = np.concatenate(
            [_of_units(subject, layer, units, group.units) for layer, units in group.layers.items()], 1
        )
        scores[name] = _order(rows)
    return scores


def _of_units(subject: PruningSubject, layer: str, units: np.ndarray, count: int) -> Floats:
    """Return the weights of a layer's filters, float64 [units, ...]; of several filters of a unit one after another."""
    weights = subject.weights(layer)
    filters = weights.reshape(len(weights), -1)
    each = max(np.bincount(units, minlength=count))
    rows = np.zeros((count, each, filters.shape[1]))
    seen = np.zeros(count, int)
    for channel, unit in enumerate(units.tolist()):
        rows[unit, seen[unit]] = filters[channel]
        seen[unit] += 1
    return rows.reshape(count, -1)


def _order(rows: Floats) -> Floats:
    """Return float64 [units], when each unit goes, from 0: the smaller one of the most similar pair that is left."""
    sizes = np.linalg.norm(rows, axis=1)
    directions = unit_columns(rows.T, centred=False)
    cosines = directions.T @ directions
    np.fill_diagonal(cosines, -np.inf)
    order = np.full(len(rows), float(len(rows)))
    empty = np.flatnonzero(sizes == 0)
    order[empty] = np.arange(len(empty))
    cosines[empty], cosines[:, empty] = -np.inf, -np.inf
    for place in range(len(empty), len(rows) - 1):
        first, second = np.unravel_index(np.argmax(cosines), cosines.shape)
        goes = int(first if sizes[first] < sizes[second] else second)
        order[goes] = place
        cosines[goes], cosines[:, goes] = -np.inf, -np.inf
    return order

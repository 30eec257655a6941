"""The expected response of each unit to each token, and groups of tokens and units that belong together."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError, missing_library
from deconvviz.types import Floats, Ints

QUANTILES = (0.09, 0.25, 0.75, 0.91)
"""Of the responses to a token, beside their mean."""
PARTS = ("absolute", "positive", "negative")  # of the mean response, by which tokens and units are put into groups


def changes(hidden: NDArray[np.floating[Any]], first: NDArray[np.bool_]) -> Floats:
    """Return the response of each step, h_t - h_(t-1), float64 [N, H].

    Args:
        hidden: [N, H], the hidden states of a layer in the order in which it reads.
        first: bool [N], true for steps before which the state is zero.

    >>> changes(np.array([[0.5], [0.2], [0.7]]), np.array([True, False, True])).ravel().round(1).tolist()
    [0.5, -0.3, 0.7]
    """
    states = np.asarray(hidden, np.float64)
    before = np.concatenate([np.zeros((1, states.shape[1])), states[:-1]])
    before[first] = 0
    return np.asarray(states - before)


def expected_responses(responses: Floats, ids: Ints, tokens: int) -> tuple[Ints, Floats, Floats]:
    """Return how often each token occurs, and the mean and the quantiles of each unit's responses to it.

    Args:
        responses: float64 [N, H], as `changes` returns them.
        ids: int64 [N], the number of each token.
        tokens: V, how many there are.

    Returns:
        int64 [V]; float64 [V, H]; and float64 [4, V, H] for QUANTILES, by linear interpolation. Tokens that do not
        occur have NaN.

    Source: the expected response and its intervals are those of RNNVis, Ming et al. 2017 (from memory of the paper).

    >>> counts, mean, _ = expected_responses(np.array([[1.0], [3.0], [0.5]]), np.array([0, 0, 2]), 3)
    >>> counts.tolist(), mean.ravel().tolist()
    ([2, 0, 1], [2.0, nan, 0.5])
    """
    counts, order = np.bincount(ids, minlength=tokens), np.argsort(ids, kind="stable")
    ends = np.cumsum(counts)
    mean = np.full((tokens, responses.shape[1]), np.nan)
    quantiles = np.full((len(QUANTILES), *mean.shape), np.nan)
    for token in np.flatnonzero(counts):
        own = responses[order[ends[token] - counts[token] : ends[token]]]
        mean[token], quantiles[:, token] = own.mean(0), np.quantile(own, QUANTILES, axis=0)
    return counts.astype(np.int64), mean, quantiles


def co_clusters(
    mean: Floats, counts: Ints, groups: int, *, part: str = "absolute", least: int = 5, seed: int = 0
) -> tuple[Ints, Ints]:
    """Put tokens and units into groups, so that the tokens of a group move the units of the same group.

    Args:
        mean: float64 [V, H], the expected responses.
        counts: int64 [V], how often each token occurs.
        groups: how many; 0 for none. There are fewer where tokens or units are fewer.
        part: which part of the responses is looked at: "absolute", "positive" or "negative".
        least: tokens that occur less often take no part, for their mean says little.
        seed: of the k-means in it.

    Returns:
        int64 [V] and int64 [H], the group of each; -1 where one takes no part.

    Raises:
        DataError: scikit-learn is not installed.

    Source: spectral co-clustering, Dhillon 2001, as scikit-learn has it; its use on expected responses is RNNVis's.

    >>> blocks = np.array([[0.9, 0.0, 0.8], [0.0, -0.7, 0.0], [0.8, 0.0, 0.9]])
    >>> tokens, units = co_clusters(blocks, np.array([9, 9, 9]), 2)
    >>> bool(tokens[0] == tokens[2] == units[0] == units[2] != tokens[1] == units[1])
    True
    """
    strength = {"absolute": np.abs(mean), "positive": np.maximum(mean, 0), "negative": np.maximum(-mean, 0)}[part]
    rows = np.flatnonzero((counts >= least) & (np.nan_to_num(strength).sum(1) > 0))
    columns = np.flatnonzero(strength[rows].sum(0) > 0) if len(rows) else rows
    of_tokens, of_units = np.full(len(mean), -1), np.full(mean.shape[1], -1)
    groups = min(groups, len(rows), len(columns))
    if groups < 1:
        return of_tokens, of_units
    if groups == 1:
        of_tokens[rows], of_units[columns] = 0, 0
        return of_tokens, of_units
    try:
        cluster = importlib.import_module("sklearn.cluster")
    except ImportError:
        raise DataError(f"no groups can be made: {missing_library('scikit-learn')}, or ask for 0 groups") from None
    found = cluster.SpectralCoclustering(groups, random_state=seed).fit(strength[np.ix_(rows, columns)])
    of_tokens[rows], of_units[columns] = found.row_labels_, found.column_labels_
    return of_tokens, of_units


def gate_shares(values: NDArray[np.floating[Any]], shut: float = 0.1, opened: float = 0.9) -> Floats:
    """Return the share of steps at which a gate is shut and at which it is open, float64 [H, 2].

    Args:
        values: [N, H], in 0..1.
        shut: below it a gate counts as shut, or left-saturated.
        opened: above it, as open, or right-saturated.

    Source: Karpathy, Johnson and Fei-Fei 2015, section 4.2, with these limits (from memory of the paper).

    >>> gate_shares(np.array([[0.05], [0.5], [0.95], [0.99]])).tolist()
    [[0.25, 0.5]]
    """
    return np.stack([(values < shut).mean(0), (values > opened).mean(0)], 1).astype(np.float64)

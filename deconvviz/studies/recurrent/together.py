"""Units that are on over a chosen range of steps, and other ranges where most of them are on together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Ints

Values = NDArray[np.floating[Any]]
On = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Together:
    """A chosen range, the units that are on in it, and where else they are.

    Attributes:
        start: first step of the chosen range, counted over all sequences.
        stop: the step behind its last one.
        units: int64 [n], the units that are on at every step of it.
        ranges: int64 [m, 2], (first step, step behind the last) of other ranges, the best first.
        counts: int64 [m], how many of the units are on at every step of each.
        others: int64 [m], how many further units are.
    """

    start: int
    stop: int
    units: Ints
    ranges: Ints
    counts: Ints
    others: Ints


def on_units(on: On, start: int, stop: int, starts: Ints, edges: bool = False) -> Ints:
    """Return the units that are on at every step of a range, int64.

    Args:
        on: bool [N, H].
        start: first step of the range.
        stop: the step behind its last one.
        starts: int64, the first step of each sequence, and N.
        edges: whether a unit must be off just before and just after the range, where the sequence has such steps.
    """
    is_on = on[start:stop].all(0)
    if edges and start not in starts:
        is_on &= ~on[start - 1]
    if edges and stop not in starts:
        is_on &= ~on[stop]
    return np.flatnonzero(is_on)


def together(on: On, start: int, stop: int, starts: Ints, *, edges: bool = False, count: int = 10) -> Together:
    """Find the units that are on over a range, and other ranges where the most of them are on together.

    Every step offers the longest range around it over which all of the units that are on there stay on. These ranges
    are ordered: more of the units first, then fewer other units, then the longer ones, then the earlier ones. A range
    that overlaps the chosen one or a better one is left out.

    Args:
        on: bool [N, H], whether a unit counts as on.
        start: first step of the range.
        stop: the step behind its last one, within the same sequence.
        starts: int64, the first step of each sequence, and N; no range goes on into the next sequence.
        edges: as of `on_units`.
        count: ranges that are returned at most.

    Source: the selection and this order are those of LSTMVis, Strobelt et al. 2018 (from memory of the paper); which
    ranges are candidates is our choice.

    >>> on = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
    >>> found = together(on, 0, 2, np.array([0, 5]))
    >>> found.units.tolist(), found.ranges.tolist(), found.counts.tolist(), found.others.tolist()
    ([0, 1], [[3, 4]], [2], [1])
    """
    units = on_units(on, start, stop, starts, edges)
    on_chosen = on[:, units]
    begins, ends = run_edges(on_chosen, starts)
    low = np.where(on_chosen, begins, -1).max(1, initial=-1)
    high = np.where(on_chosen, ends, len(on) + 1).min(1, initial=len(on) + 1)
    counts = on_chosen.sum(1)
    steps = np.flatnonzero(counts)
    _, first = np.unique(np.stack([low[steps], high[steps], counts[steps]], 1), axis=0, return_index=True)
    steps = steps[np.sort(first)]
    totals = np.concatenate([np.zeros((1, on.shape[1]), np.int64), np.cumsum(on, 0)])  # sums of any range at once
    throughout = (totals[high[steps]] - totals[low[steps]]) == (high[steps] - low[steps])[:, None]
    others = throughout.sum(1) - counts[steps]
    order = np.lexsort((low[steps], low[steps] - high[steps], others, -counts[steps]))
    picked, taken = list[int](), np.zeros(len(on), bool)
    taken[start:stop] = True
    for place in order:
        lowest, highest = low[steps[place]], high[steps[place]]
        if len(picked) < count and not taken[lowest:highest].any():
            picked.append(int(place))
            taken[lowest:highest] = True
    rows = steps[picked]
    ranges = np.stack([low[rows], high[rows]], 1).astype(np.int64)
    return Together(
        start=start,
        stop=stop,
        units=units,
        ranges=ranges,
        counts=counts[rows].astype(np.int64),
        others=others[picked].astype(np.int64),
    )


def run_edges(on: On, starts: Ints) -> tuple[Ints, Ints]:
    """Return where the run that each step belongs to begins, and the step behind its end, int64 [N, H] both.

    A run is a range of steps of one sequence over which a unit does not change between on and off.
    """
    steps = np.arange(len(on))[:, None]
    new = np.ones(on.shape, bool)
    new[1:] = on[1:] != on[:-1]
    new[starts[:-1]] = True
    begins = np.maximum.accumulate(np.where(new, steps, 0), 0)
    last = np.ones(on.shape, bool)
    last[:-1] = new[1:]
    ends = np.minimum.accumulate(np.where(last, steps + 1, len(on))[::-1], 0)[::-1]
    return begins.astype(np.int64), ends.astype(np.int64)


def longest_run(on: NDArray[np.bool_], starts: Ints, most: int = 40) -> tuple[int, int] | None:
    """Return the longest run over which one unit is on, bool [N], (start, stop); runs of more than `most` are left out.

    None where it is never on, or only over more steps than that.
    """
    begins, ends = (edges[:, 0] for edges in run_edges(on[:, None], starts))
    length = np.where(on, ends - begins, 0)
    length[length > most] = 0
    place = int(length.argmax())
    return (int(begins[place]), int(ends[place])) if length[place] else None

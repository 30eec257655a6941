"""TopK and Activity as monoids: however the images are split, the table is that of one full sort."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK

NOTHING = (-np.inf, -1, -1, -1)
VALUES = (0.0, 0.5, 1.0, -0.0, -2.0, np.inf, -np.inf, np.nan)  # few, so that ties abound

Entry = tuple[float, int, int, int]  # value, image, y, x
Channels = list[list[Entry]]

entry = st.tuples(st.sampled_from(VALUES), st.integers(0, 5), st.integers(0, 2), st.integers(0, 2))


@st.composite
def parts(draw: st.DrawFn, count: int) -> tuple[int, list[Channels]]:
    """k, and `count` batches of entries for the same channels; an image may stand in several, at any value."""
    k, channels = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    batches = []
    for _ in range(count):
        images = draw(st.lists(st.tuples(*[entry] * channels), max_size=6))
        batches.append([[image[channel] for image in images] for channel in range(channels)])
    return k, batches


def table(entries: Channels, k: int) -> TopK:
    given = np.array(entries, np.float64).reshape(len(entries), -1, 4)
    places = np.nan_to_num(given[..., 1:]).astype(np.int64)
    return TopK.of(given[..., 0].astype(np.float32), places[..., 0], places[..., 1:], k)


def full_sort(entries: Channels, k: int) -> list[list[Entry]]:
    """The table in plain Python: the order is (value descending, image, y, x), an image counts once."""
    rows = []
    for channel in entries:
        row: list[Entry] = []
        for e in sorted((e for e in channel if e[0] > -np.inf), key=lambda e: (-e[0], *e[1:])):
            if e[1] not in [kept[1] for kept in row]:
                row.append(e)
        rows.append((row + [NOTHING] * k)[:k])
    return rows


def joined(batches: list[Channels]) -> Channels:
    return [[e for batch in batches for e in batch[channel]] for channel in range(len(batches[0]))]


def rows(top: TopK) -> list[list[Entry]]:
    columns = zip(top.values.tolist(), top.images.tolist(), top.positions.tolist(), strict=True)
    return [[(v, i, *p) for v, i, p in zip(*channel, strict=True)] for channel in columns]


def assert_same(a: TopK, b: TopK) -> None:
    for one, other in zip(astuple(a), astuple(b), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@settings(max_examples=120, deadline=None)
@given(parts(1))
def test_equals_a_full_sort(given: tuple[int, list[Channels]]) -> None:
    k, [entries] = given
    top = table(entries, k)
    assert rows(top) == full_sort(entries, k)
    assert top.k == k and top.positions.shape == (len(entries), k, 2)
    assert [column.dtype.name for column in astuple(top)] == ["float32", "int64", "int64"]


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(parts(3))
def test_is_a_commutative_idempotent_monoid(given: tuple[int, list[Channels]]) -> None:
    k, batches = given
    a, b, c = (table(batch, k) for batch in batches)
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    nothing = TopK.empty(len(batches[0]), k)
    assert_same(a.merge(nothing), a)
    assert_same(nothing.merge(a), a)
    assert_same(nothing.merge(nothing), nothing)
    assert_same(a.merge(a), a)
    assert_same(a.merge(b).merge(a), a.merge(b))  # images that both have seen
    assert rows(a.merge(b).merge(c)) == full_sort(joined(batches), k)


@settings(max_examples=120, deadline=None)
@given(given=parts(1), data=st.data())
def test_any_split_in_any_order_gives_the_same_table(given: tuple[int, list[Channels]], data: st.DataObject) -> None:
    k, [entries] = given
    size = len(entries[0])
    owner = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    shards = [[[e for e, o in zip(c, owner, strict=True) if o == shard] for c in entries] for shard in range(5)]
    tables = [table(shard, k) for shard in data.draw(st.permutations(shards))]
    while len(tables) > 1:  # neighbours are joined in any order: a random tree of merges
        at = data.draw(st.integers(0, len(tables) - 2))
        tables[at : at + 2] = [tables[at].merge(tables[at + 1])]
    assert_same(tables[0], table(entries, k))


def test_merging_changes_neither_table() -> None:
    a, b = table([[(1.0, 0, 0, 0), (0.5, 1, 0, 0)]], 2), table([[(1.0, 0, 0, 0), (0.75, 2, 1, 1)]], 2)
    before = rows(a), rows(b)
    a.merge(b)
    assert (rows(a), rows(b)) == before


def test_what_given_arrays_hold_is_not_changed() -> None:
    values, images = np.array([[1, 1, np.nan]], np.float32), np.array([[4, 4, 4]])
    TopK.of(values, images, np.zeros((1, 3, 2), np.int64), 2)
    np.testing.assert_array_equal(values, [[1, 1, np.nan]])
    np.testing.assert_array_equal(images, [[4, 4, 4]])


def test_ties_repeats_and_padding() -> None:
    entries: Channels = [
        [(1.0, 7, 2, 1), (1.0, 3, 0, 2), (1.0, 7, 1, 2), (1.0, 7, 1, 1), (np.nan, 0, 0, 0), (2.0, 9, 0, 0)],
        [(-np.inf, 1, 0, 0), (-5.0, 8, 2, 2), (np.nan, 2, 0, 0), (np.nan, 3, 0, 0), (-np.inf, 4, 0, 0), NOTHING],
    ]
    top = table(entries, 4)
    assert rows(top) == [
        [(2.0, 9, 0, 0), (1.0, 3, 0, 2), (1.0, 7, 1, 1), NOTHING],
        [(-5.0, 8, 2, 2), NOTHING, NOTHING, NOTHING],
    ]


def test_other_shapes_do_not_merge() -> None:
    for other in (TopK.empty(3, 4), TopK.empty(2, 5)):
        with pytest.raises(ValueError, match="do not merge"):
            TopK.empty(2, 4).merge(other)


# --- activity

Numbers = NDArray[np.float64]


@st.composite
def records(draw: st.DrawFn) -> Activity:
    def numbers(*of: float) -> Numbers:
        return np.array(draw(st.tuples(*[st.sampled_from(of)] * 2)), np.float64)

    images = draw(st.integers(0, 9))
    return Activity(
        images,
        np.minimum(numbers(0, 1, 5), images).astype(np.int64),
        numbers(0, 0.25, -1.5, 2.0),  # sums of these are exact in any order
        numbers(-np.inf, 0, -1, 3).astype(np.float32),
        numbers(0, 2).astype(np.int64),
    )


def assert_same_activity(a: Activity, b: Activity) -> None:
    assert a.images == b.images
    for one, other in zip(astuple(a)[1:], astuple(b)[1:], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), min_size=3, max_size=6))
def test_activity_is_a_commutative_monoid(records: list[Activity]) -> None:
    a, b, c = records[:3]
    assert_same_activity(a.merge(b), b.merge(a))
    assert_same_activity(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same_activity(Activity.empty(2).merge(a), a)
    assert_same_activity(a.merge(Activity.empty(2)), a)
    merged = reduce(Activity.merge, records)
    assert merged.images == sum(r.images for r in records)
    for name in ("fired", "total", "broken"):
        np.testing.assert_array_equal(getattr(merged, name), np.sum([getattr(r, name) for r in records], 0))
    np.testing.assert_array_equal(merged.maximum, np.max([r.maximum for r in records], 0))


def test_activity_reads_as_dead_frequency_and_mean() -> None:
    whole = Activity.empty(3).merge(
        Activity(4, np.array([0, 1, 4]), np.array([-2.0, 1.0, 6.0]), np.array([-1, 1, 2], np.float32), np.zeros(3, int))
    )
    assert whole.dead.tolist() == [True, False, False]
    assert whole.frequency.tolist() == [0, 0.25, 1] and whole.mean.tolist() == [-0.5, 0.25, 1.5]
    nothing = Activity.empty(3)
    assert not nothing.dead.any() and nothing.frequency.tolist() == nothing.mean.tolist() == [0, 0, 0]
    assert replace(whole, images=8).mean.tolist() == [-0.25, 0.125, 0.75]


def test_channels_are_chosen_by_their_mean_or_by_lot_among_those_alive() -> None:
    """ "active" takes the largest means, "random" no dead filter, "first" the first."""
    fired, total = np.array([3, 9, 0, 5, 7, 0]), np.array([1.0, 9.0, 0.0, 5.0, 7.0, 0.0])
    activity = replace(Activity.empty(6), images=10, fired=fired, total=total)
    layer = MinedLayer(name="conv1", top=TopK.empty(6, k=2), activity=activity)
    assert layer.choose_channels("active", 3) == [1, 3, 4]
    assert layer.choose_channels("first", 3) == [0, 1, 2]
    assert layer.choose_channels("random", 9) == [0, 1, 3, 4]

"""What a training draws of its images: the part held out, crops and mirroring, the mean colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import MEMORY, mean_colour, random_crops, room_for, split
from deconvviz.errors import DataError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(0, 5), st.floats(0.05, 0.9), st.integers(0, 9))
def test_a_split_holds_out_the_same_share_of_every_class(
    sizes: list[int], unknown: int, share: float, seed: int
) -> None:
    labels = np.concatenate([np.full(unknown, -1), *(np.full(size, label) for label, size in enumerate(sizes))])
    labels = np.random.default_rng(seed).permutation(labels).astype(np.int64)
    held = [round(share * size) for size in sizes]
    if not sum(held) or sum(held) == sum(sizes):
        with pytest.raises(DataError, match=f"{sum(sizes)} of {len(labels)} images have a class"):
            split(labels, share, seed)
        return
    training, validation = split(labels, share, seed)
    assert [int((labels[validation] == label).sum()) for label in range(len(sizes))] == held
    assert sorted([*training, *validation]) == np.flatnonzero(labels >= 0).tolist()
    assert (np.diff(training) > 0).all() and (np.diff(validation) > 0).all()
    again = split(labels, share, seed)
    assert np.array_equal(again[0], training) and np.array_equal(again[1], validation)


def test_a_split_depends_on_its_seed_and_may_hold_out_nothing() -> None:
    labels = np.repeat(np.arange(3), 20)
    assert not np.array_equal(split(labels, 0.5, 0)[1], split(labels, 0.5, 1)[1])
    training, validation = split(labels, 0.0, 0)
    assert training.tolist() == list(range(60)) and validation.tolist() == []


def test_crops_are_windows_of_their_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (200, 5, 7, 3), np.uint8)
    crops = random_crops(pictures, 4, np.random.default_rng(1))
    assert crops.shape == (200, 4, 4, 3)
    places = []
    for picture, crop in zip(pictures, crops, strict=True):
        windows = {(y, x): picture[y : y + 4, x : x + 4] for y in range(2) for x in range(4)}
        places += [
            (y, x, mirrored)
            for (y, x), window in windows.items()
            for mirrored in (False, True)
            if np.array_equal(crop, window[:, ::-1] if mirrored else window)
        ]
    assert len(places) == 200
    counts = {place: places.count(place) for place in places}
    assert len(counts) == 16 and min(counts.values()) >= 3  # each place, either way; 12.5 are expected
    assert 70 <= sum(mirrored for _, _, mirrored in places) <= 130  # of 200, a deviation of 7: 100 +- 4 of them
    assert np.array_equal(random_crops(pictures, 4, np.random.default_rng(1)), crops)
    whole = random_crops(pictures[:, :, :5], 5, np.random.default_rng(2))
    assert all((a == b).all() or (a == b[:, ::-1]).all() for a, b in zip(whole, pictures[:, :, :5], strict=True))


def test_the_mean_colour_by_hand() -> None:
    colours = np.array([(0, 51, 102), (255, 51, 0), (0, 102, 51)], np.uint8)
    images = InMemoryImages(np.broadcast_to(colours[:, None, None], (3, 4, 4, 3)))
    pre = Preprocess(resize=None, crop=4)
    assert mean_colour(Feed(images, pre), seed=0) == pytest.approx((1 / 3, 0.8 / 3, 0.6 / 3), abs=1e-4)
    assert mean_colour(Feed(images, pre, [1, 1]), seed=0) == pytest.approx((1.0, 0.2, 0.0))
    singles = {mean_colour(Feed(images, pre), seed, count=1) for seed in range(20)}
    assert singles == {(0.0, 0.2, 0.4), (1.0, 0.2, 0.0), (0.0, 0.4, 0.2)}


def test_all_pictures_are_kept_or_none() -> None:
    largest = MEMORY // (3 * 64 * 64)
    assert room_for(largest, 64, 64) == MEMORY and room_for(largest + 1, 64, 64) == 0

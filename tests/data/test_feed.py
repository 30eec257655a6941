"""A feed gives the right pictures in the right order, in threads, resumed, and keeps no more of them than it may."""

from __future__ import annotations

import contextlib
import pathlib
import re
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import ReadImages
from reading_threads import all_end, reading_threads

from deconvviz.data.feed import Feed
from deconvviz.data.images import ImageStore
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.pack import pack
from deconvviz.data.picture_memory import PictureMemory
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.types import Ints, Pixels

PRE = Preprocess(resize=None, crop=2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
BYTES = 2 * 2 * 3  # of one picture


def numbered(count: int = 20) -> ReadImages:
    """Images of 4 px whose pixels are all their number, in three classes."""
    pictures = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    return ReadImages(pictures, np.arange(count) % 3, ("a", "b", "c"), [f"image {n}" for n in range(count)])


def numbers(pictures: Pixels) -> list[int]:
    """The numbers of the images that pictures show."""
    assert pictures.dtype == np.uint8 and pictures.shape[1:] == (2, 2, 3)
    assert (pictures == pictures[:, :1, :1, :1]).all()
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_a_place_is_an_index_into_the_feed() -> None:
    feed = Feed(numbered(), PRE, [7, 3, 12])
    assert len(feed) == 3 and feed.labels.tolist() == [1, 0, 0] and feed.labels.dtype == np.int64
    assert [feed.name(place) for place in range(3)] == ["image 7", "image 3", "image 12"]
    assert feed.picture(1).shape == (2, 2, 3) and (feed.picture(1) == 3).all()
    assert numbers(feed.pictures([2, 0, 0])) == [12, 7, 7]
    everything = Feed(numbered(5), PRE)
    assert everything.indices.tolist() == [0, 1, 2, 3, 4]


def test_batches_by_hand() -> None:
    feed = Feed(numbered(), PRE, [7, 3, 12, 5, 9])
    batches = [(batch.places.tolist(), numbers(batch.pictures)) for batch in feed.batches(2)]
    assert batches == [([0, 1], [7, 3]), ([2, 3], [12, 5]), ([4], [9])]
    reordered = [(places.tolist(), numbers(pictures)) for places, pictures, _ in feed.batches(3, [4, 0, 2, 4], start=1)]
    assert reordered == [([0, 2, 4], [7, 12, 9])]
    assert list(feed.batches(2, start=5)) == [] and list(feed.batches(2, [])) == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 19), min_size=1, max_size=30),
    st.integers(1, 9),
    st.integers(0, 30),
    st.integers(1, 4),
    st.sampled_from([0, 3 * BYTES, 10**6]),
)
def test_a_feed_that_resumes_gives_the_rest(
    indices: list[int], size: int, start: int, workers: int, memory: int
) -> None:
    feed = Feed(numbered(), PRE, indices, workers=workers, memory=memory)
    batches = list(feed.batches(size, start=start))
    assert [number for batch in batches for number in numbers(batch.pictures)] == indices[start:]
    assert [place for batch in batches for place in batch.places] == list(range(len(indices)))[start:]
    assert all(len(batch.places) == size for batch in batches[:-1])


def test_tensors_are_the_normalised_pictures() -> None:
    feed = Feed(numbered(), PRE, [17, 4])
    ((places, inputs),) = feed.tensors(8, "cpu", torch.float64)
    assert places.tolist() == [0, 1] and inputs.shape == (2, 3, 2, 2) and inputs.dtype == torch.float64
    for number, values in zip((17, 4), inputs, strict=True):
        by_hand = [(number / 255 - 0.5) / 0.5, (number / 255 - 0.25) / 0.25, number / 255]
        assert values[:, 1, 0].tolist() == pytest.approx(by_hand)
    assert torch.equal(feed.tensor(feed.pictures([0, 1]), "cpu", torch.float64), inputs)
    assert [places.tolist() for places, _ in feed.tensors(1, "cpu", order=[1, 0], start=1)] == [[0]]


class Barrier(ReadImages):
    """Images whose reading waits until another thread reads too."""

    barrier = threading.Barrier(2)

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        self.barrier.wait(timeout=10)
        return super().__getitem__(index)


class Slow(ReadImages):
    """Images of which the first takes longest."""

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        time.sleep(0.05 if index == 0 else 0)
        return super().__getitem__(index)


def test_two_threads_decode_at_once_and_the_order_stays() -> None:
    source = numbered(8)
    together = Feed(Barrier(source.pictures, source.labels), PRE, workers=2)
    assert [numbers(batch.pictures) for batch in together.batches(4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    slow = Slow(source.pictures, source.labels)
    assert [numbers(batch.pictures) for batch in Feed(slow, PRE, workers=4).batches(8)] == [[*range(8)]]
    assert slow.read[-1] == 0 or slow.read.index(0) > 0  # it came first although others were read before it


def test_only_a_few_images_are_read_ahead() -> None:
    images = numbered(200)
    batches = Feed(images, PRE, workers=2).batches(3)
    next(batches)
    time.sleep(0.2)  # for the threads to do all that they were given
    assert 3 <= len(images.read) <= 3 + 2 * 8


def test_an_image_that_cannot_be_read_raises_at_its_place() -> None:
    class Broken(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[Pixels, int]:
            if index == 5:
                raise ValueError("image 5 is broken")
            return super().__getitem__(index)

    batches = Feed(Broken(numbered().pictures), PRE).batches(2)
    assert [numbers(next(batches).pictures) for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="image 5 is broken"):
        next(batches)


def test_pictures_are_kept_up_to_the_memory() -> None:
    images = numbered(6)
    feed = Feed(images, PRE, workers=1, memory=2 * BYTES + 1)
    for place in (0, 1, 0, 2, 0, 1):  # 2 pushes out 1, which was used longest ago; then 1 pushes out 2
        assert (feed.picture(place) == place).all()
    assert images.read == [0, 1, 2, 1]
    assert feed.picture(0) is feed.picture(0) and images.read == [0, 1, 2, 1]
    forgetful = Feed(images, PRE)
    images.read.clear()
    assert numbers(forgetful.pictures([3, 3])) == [3, 3] and images.read == [3, 3]
    repeated = Feed(images, PRE, [2, 2, 2], workers=1, memory=BYTES)
    images.read.clear()
    assert numbers(repeated.pictures([0, 1, 2])) == [2, 2, 2] and images.read == [2]  # an image, not a place, is kept


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 60))
def test_the_memory_is_the_last_used_pictures_that_fit(uses: list[int], limit: int) -> None:
    """Against a list: pictures of index i have 3 * (i + 1) bytes."""
    memory, kept = PictureMemory(limit), list[int]()
    for index in uses:
        size = 3 * (index + 1)
        picture = memory.get(index, lambda index=index: np.full((1, index + 1, 3), index, np.uint8))  # type: ignore[misc]
        assert (picture == index).all() and picture.nbytes == size
        if index in kept:
            kept.append(kept.pop(kept.index(index)))
        elif size <= limit:
            kept.append(index)
            while sum(3 * (i + 1) for i in kept) > limit:
                kept.pop(0)
        assert memory.indices == kept and memory.held == sum(3 * (i + 1) for i in kept) <= limit


def test_a_picture_that_two_threads_decode_at_once_is_counted_once() -> None:
    memory = PictureMemory(100)

    def decode() -> Pixels:
        return np.zeros((1, 2, 3), np.uint8)

    memory.get(7, lambda: memory.get(7, decode))  # the inner one ends while the outer one is still decoding
    assert memory.indices == [7] and memory.held == 6


def test_threads_share_a_memory() -> None:
    memory, wrong = PictureMemory(30 * BYTES), list[int]()

    def use(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 60, 400).tolist():
            picture = memory.get(index, lambda index=index: np.full((2, 2, 3), index, np.uint8))  # type: ignore[misc]
            if not (picture == index).all():
                wrong.append(index)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and memory.held == BYTES * len(memory.indices) <= 30 * BYTES


# --- on a device, ahead of the one who computes


def test_batches_on_a_device_are_those_on_the_host() -> None:
    feed = Feed(numbered(), PRE, [7, 3, 12, 5, 9])
    for start, order in ((0, None), (1, [4, 0, 2, 4])):
        host, device = feed.batches(2, order, start), feed.on_device(2, "cpu", order, start)
        for one, other in zip(host, device, strict=True):
            assert one.places.tolist() == other.places.tolist()
            assert numbers(other.pictures.numpy()) == numbers(one.pictures)
            assert other.images.tolist() == [feed.indices[place] for place in one.places] == numbers(one.pictures)


def test_the_next_batch_is_made_while_one_is_used_and_no_more() -> None:
    earlier = reading_threads()
    images = numbered(200)
    batches = Feed(images, PRE, workers=1).on_device(5, "cpu")
    assert not images.read  # nothing begins before the first batch is asked for
    next(batches)
    time.sleep(0.2)
    assert 10 <= len(images.read) <= 2 * 5 + 8 + 1
    batches.close()
    assert all_end(earlier)
    before = len(images.read)
    time.sleep(0.1)
    assert len(images.read) == before


@pytest.mark.parametrize("error", [ValueError("image 5 is broken"), KeyboardInterrupt()])
def test_what_a_thread_raises_comes_after_the_batches_before_it_and_ends_the_threads(error: BaseException) -> None:
    class Broken(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[Pixels, int]:
            if index == 5:
                raise error
            return super().__getitem__(index)

    seen, earlier = list[int](), reading_threads()
    with pytest.raises(type(error)):
        for batch in Feed(Broken(numbered().pictures), PRE, workers=2).on_device(2, "cpu"):
            seen += numbers(batch.pictures.numpy())
    assert seen == [0, 1, 2, 3] and all_end(earlier)


def test_an_interrupt_of_the_one_who_computes_ends_the_threads() -> None:
    earlier = reading_threads()
    batches = Feed(numbered(200), PRE, workers=2).on_device(2, "cpu")
    with pytest.raises(KeyboardInterrupt), contextlib.closing(batches):
        for _ in batches:
            raise KeyboardInterrupt
    assert all_end(earlier)


def test_a_store_of_pixels_is_read_in_blocks_and_a_damaged_image_is_named(tmp_path: pathlib.Path) -> None:
    pack(numbered(50), tmp_path / "raw.h5", raw=True, size=4, progress=False)
    calls, store = list[list[int]](), ImageStore.open(tmp_path / "raw.h5")
    assert store.several is not None
    several = store._several

    def noted(rows: Ints, out: Pixels | None = None) -> Pixels:
        calls.append(rows.tolist())
        return several(rows, out)

    store._several = noted  # type: ignore[method-assign, assignment]
    order = [*range(50)][::-1]
    for indices in (list(range(50)), order):
        for size in (50, 7):
            batches = Feed(store, PRE, indices, workers=2).batches(size)
            assert [n for batch in batches for n in numbers(batch.pictures)] == indices
    assert [len(rows) for rows in calls[:2]] == [50, 7]
    assert store._files[0].digests is not None
    store._files[0].digests = store._files[0].digests.copy()
    store._files[0].digests[20] = 0
    (first, second, third, *_) = Feed(store, PRE, workers=2).batches(10, tolerant=True)
    assert numbers(first.pictures) == [*range(10)] and numbers(third.pictures) == [*range(21, 30)]
    assert list(third.left_out) == [store.names[20]] and not second.left_out
    with pytest.raises(DataError, match=re.escape(store.names[20])):
        list(Feed(store, PRE, workers=2).batches(10))


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    class Drawn(ReadImages):
        def __getitem__(self, index: int) -> tuple[Pixels, int]:
            return np.full((64, 64, 3), index % 256, np.uint8), 0

    def peak(count: int) -> int:
        images = Drawn([np.zeros((1, 1, 3), np.uint8)] * count)
        tracemalloc.start()
        for batch in Feed(images, Preprocess(resize=None, crop=64), workers=2).on_device(4, "cpu"):
            del batch
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(60), peak(600)
    assert few > 8 * 64 * 64 * 3 and many < 3 * few  # all 600 would be ten times as many


SIZED = [PRE, Preprocess(None, (3, 2)), Preprocess(4, 3), Preprocess(8, 5), Preprocess(None, 6)]


@pytest.mark.parametrize("preprocess", SIZED)
def test_pictures_of_one_size_are_those_of_each(preprocess: Preprocess) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    for picture, image in zip(preprocess.pictures(images), images, strict=True):
        np.testing.assert_array_equal(picture, preprocess.picture(image))

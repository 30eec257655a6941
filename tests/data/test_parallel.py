"""Threads for iterators: one that is left before its end waits for no thread, whoever ends it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest
from reading_threads import all_end, reading_threads

from deconvviz.data.parallel import in_order, worked_ahead

Waiting = Callable[[threading.Event], Generator[int]]


def read(event: threading.Event) -> Generator[int]:
    return in_order(lambda number: number if number == 0 else int(event.wait(5)), range(9), 2)


def ahead(event: threading.Event) -> Generator[int]:
    def items() -> Iterator[int]:
        yield 0
        yield int(event.wait(5))

    return worked_ahead(items())


def read_ahead(event: threading.Event) -> Generator[int]:
    return worked_ahead(read(event))


@pytest.mark.parametrize("iterator", [read, ahead, read_ahead])
def test_the_collector_of_cycles_waits_for_no_thread(iterator: Waiting) -> None:
    """It may run in a thread that holds what the others wait for, as the event here."""
    earlier, event = reading_threads(), threading.Event()
    numbers = iterator(event)
    assert next(numbers) == 0
    cycle: list[object] = [numbers]
    cycle.append(cycle)
    began = time.monotonic()
    del numbers, cycle
    gc.collect()
    assert time.monotonic() - began < 2.5
    event.set()
    assert all_end(earlier)


@pytest.mark.parametrize("iterator", [read, ahead, read_ahead])
def test_closed_it_waits_for_no_thread_and_begins_nothing(iterator: Waiting) -> None:
    earlier, event = reading_threads(), threading.Event()
    numbers = iterator(event)
    assert next(numbers) == 0
    began = time.monotonic()
    numbers.close()
    assert time.monotonic() - began < 2.5
    event.set()
    assert all_end(earlier) and next(numbers, None) is None


def test_an_error_within_comes_after_all_threads_have_ended() -> None:
    earlier, both, done = reading_threads(), threading.Barrier(2), threading.Event()

    def item(number: int) -> int:
        both.wait(5)
        if number == 0:
            raise ValueError("the first one is broken")
        time.sleep(0.2)
        done.set()
        return number

    with pytest.raises(ValueError, match="broken"):
        list(in_order(item, range(2), 2))
    assert done.is_set() and not reading_threads() - earlier


def test_an_iterator_that_is_left_is_closed() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.set()

    numbers = worked_ahead(items())
    assert next(numbers) == 0
    numbers.close()
    assert closed.wait(5)

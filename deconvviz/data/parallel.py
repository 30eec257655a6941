"""Mapping a function over items in threads, and working ahead: results come in order, and memory is bounded."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
AHEAD = 8  # items for each thread that are begun before their results are asked for
_END = object()


def cores() -> int:
    """Return how many processors this process may use: the default number of threads that decode images."""
    if hasattr(os, "sched_getaffinity"):  # which knows what a scheduler or `taskset` has left to the process
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for a generator: after Ctrl-C or an error, what has not begun is not begun.

    A generator that is left before its end does not wait for its threads. Python's collector of cycles may be what ends
    it, in any thread and at any moment, with a lock in its hand that they need.
    """
    pool, waits = ThreadPoolExecutor(count), True
    try:
        yield pool
    except GeneratorExit:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def in_order(
    function: Callable[[Item], Outcome], items: Iterable[Item], workers: int, ahead: int = AHEAD
) -> Generator[Outcome]:
    """Apply a function to items in threads and yield the results in the order of the items.

    At most `ahead` items for each thread are under way, so that a long sequence of large results fits in memory. What
    the function raises for an item is raised where its result would be yielded; items that were not begun then are not.

    A user who may leave before the end closes the iterator (`contextlib.closing`), so that no item is begun for
    nothing; those that are under way are not waited for.

    Args:
        function: what is applied; several threads call it at once.
        items: taken one after the other, as results are taken.
        workers: number of threads.
        ahead: items for each thread that are begun before their results are asked for.

    >>> list(in_order(lambda number: number * number, range(5), workers=2))
    [0, 1, 4, 9, 16]
    """
    waiting: deque[Future[Outcome]] = deque()
    with _threads(max(workers, 1)) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def worked_ahead(items: Iterator[Item], count: int = 1) -> Generator[Item]:
    """Yield the items of an iterator, the next ones of which are made in a thread while one is used.

    What the iterator raises is raised where its item would be yielded. Where this iterator is left before its end, or
    its user is interrupted, the thread ends with the item that it is at, and the iterator is closed.

    Args:
        items: an iterator, run in one thread.
        count: items that are made before they are asked for.

    >>> list(worked_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    try:
        with _threads(1) as pool:
            waiting = deque(pool.submit(next, items, _END) for _ in range(count))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, items, _END))
                yield item  # type: ignore[misc]
    finally:
        with contextlib.suppress(ValueError):  # raised where the thread is at it still; it ends it then
            getattr(items, "close", lambda: None)()

"""Mapping a function over items in threads, and working ahead: results come in order, and memory is bounded."""

from __future__ import annotations

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


def in_order(
    function: Callable[[Item], Outcome], items: Iterable[Item], workers: int, ahead: int = AHEAD
) -> Generator[Outcome]:
    """Apply a function to items in threads and yield the results in the order of the items.

    At most `ahead` items for each thread are under way, so that a long sequence of large results fits in memory. What
    the function raises for an item is raised where its result would be yielded; items that were not begun then are not.

    A user who may leave before the end closes the iterator (`contextlib.closing`). Where Python's collector of cycles
    does, it may be a thread that is just beginning, which then waits for the other threads with a lock that they need.

    Args:
        function: what is applied; several threads call it at once.
        items: taken one after the other, as results are taken.
        workers: number of threads.
        ahead: items for each thread that are begun before their results are asked for.

    >>> list(in_order(lambda number: number * number, range(5), workers=2))
    [0, 1, 4, 9, 16]
    """
    waiting: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, what has not begun is not begun


def worked_ahead(items: Iterator[Item], count: int = 1) -> Generator[Item]:
    """Yield the items of an iterator, the next ones of which are made in a thread while one is used.

    What the iterator raises is raised where its item would be yielded. Where this iterator is closed, or its user is
    interrupted, the thread ends with the item that it is at, and the iterator is closed.

    Args:
        items: an iterator, run in one thread.
        count: items that are made before they are asked for.

    >>> list(worked_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting = deque(pool.submit(next, items, _END) for _ in range(count))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, items, _END))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)
            if hasattr(items, "close"):
                items.close()

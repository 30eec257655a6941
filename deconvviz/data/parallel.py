"""Mapping a function over items in threads: results come in order, and memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
AHEAD = 8  # items for each thread that are begun before their results are asked for


def in_order(function: Callable[[Item], Outcome], items: Iterable[Item], workers: int) -> Iterator[Outcome]:
    """Apply a function to items in threads and yield the results in the order of the items.

    At most AHEAD items for each thread are under way, so that a long sequence of large results fits in memory. What
    the function raises for an item is raised where its result would be yielded.

    Args:
        function: what is applied; several threads call it at once.
        items: taken one after the other, as results are taken.
        workers: number of threads.

    >>> list(in_order(lambda number: number * number, range(5), workers=2))
    [0, 1, 4, 9, 16]
    """
    waiting: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, what has not begun is not begun

"""Mapping in threads, in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_order(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Map in threads, results in the order of the items, at most a few items for each worker under way."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""Pace: when a measurement under way writes its file again, which is written whole each time."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 5.0  # seconds between two commits
SHARE_OF_COMMITS = 20  # the pause is also this many times what the last commit took: commits cost at most 5 %


class Pace:
    """Tells when the next commit is due: 5 seconds after the last one, later where commits take long.

    >>> pace = Pace()
    >>> pace.due
    False
    """

    def __init__(self) -> None:
        self._committed, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last commit."""
        return time.monotonic() - self._committed > max(PAUSE, SHARE_OF_COMMITS * self._took)

    def commit(self, write: Callable[[], None]) -> None:
        """Write, and count from then on."""
        began = time.monotonic()
        write()
        self._committed = time.monotonic()
        self._took = self._committed - began

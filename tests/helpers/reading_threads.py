"""The threads that read images, which end by themselves where nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Set

PATIENCE = 5.0  # seconds


def reading_threads() -> set[threading.Thread]:
    """Return the threads that read images now; those of an earlier test's batches may wait to be collected."""
    return {thread for thread in threading.enumerate() if "ThreadPool" in thread.name}


def all_end(earlier: Set[threading.Thread]) -> bool:
    """Tell whether the threads that were not there earlier end soon."""
    until = time.monotonic() + PATIENCE
    while reading_threads() - earlier and time.monotonic() < until:
        time.sleep(0.01)
    return not reading_threads() - earlier

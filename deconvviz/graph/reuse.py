"""Memory that a CPU has freed serves again: the maps of one batch lie where those of the batch before lay.

The C library of Linux returns each map of more than 32 MB to the system as soon as it is freed, and the system fills
the pages of the next one with zeros, 4 kB at a time. For a batch of maps that takes as long as some convolutions. GPUs
have PyTorch's own cache for it; here the C library is asked, while networks compute, to keep what they free.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from typing import Any

# glibc's malloc.h: what `mallopt` sets
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
KEPT = (1 << 31) - 1  # bytes at the end of the heap that stay with the process: the most that mallopt can be told
LARGE = 32 << 20  # bytes from which other code's blocks come from the system: glibc's own choice where it may choose
OFTEN = 65_536  # such blocks at most: glibc's default
# and the fields of what its `mallinfo2` returns
_COUNTS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")

_lock = threading.Lock()
_inside = 0  # blocks that compute now, over all threads


@functools.cache
def _allocator() -> ctypes.CDLL | None:
    """Return the C library if its allocator can be told what to do, as glibc's can; None elsewhere."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt.argtypes, library.gnu_get_libc_version.argtypes = [ctypes.c_int, ctypes.c_int], []
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
    # What glibc would adapt by itself is fixed by the first call, hence all of it is set
    library.mallopt(_MMAP_THRESHOLD, LARGE)
    library.mallopt(_TRIM_THRESHOLD, KEPT)
    return library


class _Usage(ctypes.Structure):
    """What glibc's `mallinfo2` returns: bytes and numbers of blocks; `fordblks` are the bytes that are free."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _COUNTS)


def kept_bytes() -> int:
    """Return how many bytes that were freed the process has kept; 0 where that is not known.

    >>> kept_bytes() >= 0
    True
    """
    usage: Any = getattr(_allocator(), "mallinfo2", None)  # since glibc 2.33
    if usage is None:
        return 0
    usage.restype = _Usage
    return int(usage().fordblks)


@contextlib.contextmanager
def reusing_memory() -> Iterator[None]:
    """Take large blocks from what the process has freed before, within a `with` block, also in several threads at once.

    Up to 2 GiB of freed memory stay with the process afterwards. Other code gets large blocks that do not fit into them
    from the system, as before. Where the C library is not glibc, nothing changes.

    >>> import torch
    >>> with reusing_memory():
    ...     maps = [torch.ones(16, 256, 56, 56) for _ in range(3)]
    """
    global _inside
    library = _allocator()
    if library is None:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            library.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                library.mallopt(_MMAP_MAX, OFTEN)

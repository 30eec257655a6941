"""What a machine lacks, in one line."""

from __future__ import annotations

import errno


def what_the_machine_lacks(error: Exception) -> str | None:
    """Return one line for what the machine lacks: memory, or room for what is printed; None for any other error.

    >>> what_the_machine_lacks(MemoryError("Unable to allocate 36.7 GiB"))
    'there is not enough memory: Unable to allocate 36.7 GiB; ask for less at once, or for smaller pictures'
    """
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return f"there is not enough memory: {text}; ask for less at once, or for smaller pictures"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"what is printed cannot be written: {error.strerror}; write it to another place"
    return None

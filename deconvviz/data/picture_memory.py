"""Decoded pictures that are kept in memory, so that a job that reads them again need not decode them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from deconvviz.types import Picture


class PictureMemory:
    """Keeps the decoded pictures that were used last, up to a number of bytes. Threads may share it.

    Attributes:
        limit: bytes that are kept at most.
        held: bytes that are kept now.

    >>> import numpy as np
    >>> memory = PictureMemory(limit=12)
    >>> for index in (0, 1, 0, 2):
    ...     picture = memory.get(index, lambda: np.zeros((1, 2, 3), np.uint8))
    >>> memory.indices, memory.held
    ([0, 2], 12)
    """

    def __init__(self, limit: int) -> None:
        """Make an empty memory of `limit` bytes."""
        self.limit, self.held = limit, 0
        self._pictures: OrderedDict[int, Picture] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def indices(self) -> list[int]:
        """The images whose pictures are kept, those that were used last at the end."""
        return list(self._pictures)

    def get(self, index: int, decode: Callable[[], Picture]) -> Picture:
        """Return the picture of image `index`; `decode` makes it where it is not kept."""
        with self._lock:
            if index in self._pictures:
                self._pictures.move_to_end(index)
                return self._pictures[index]
        picture = decode()
        if picture.nbytes <= self.limit:
            with self._lock:
                self.held += picture.nbytes if index not in self._pictures else 0
                self._pictures[index] = picture
                while self.held > self.limit:
                    _, oldest = self._pictures.popitem(last=False)
                    self.held -= oldest.nbytes
        return picture

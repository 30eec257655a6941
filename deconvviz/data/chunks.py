"""The images of a raw store, read past HDF5: its library lets one thread read at a time."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from deconvviz.types import Ints, Pixels


class ImageChunks:
    """Where each image of a raw store stands in the file. Threads may read at once.

    A store keeps each image as one chunk, which is not compressed, so that its bytes in the file are its pixels.

    Attributes:
        offsets: int64 [N], the place in the file at which each image begins.
        shape: (S, S, 3), of an image.
    """

    def __init__(self, path: os.PathLike[str], offsets: Ints, shape: tuple[int, ...]) -> None:
        self.offsets, self.shape = offsets, shape
        self._bytes = int(np.prod(shape))
        self._file = pathlib.Path(path).open("rb", buffering=0)  # noqa: SIM115 it is closed with the store

    @classmethod
    def of(cls, path: os.PathLike[str], images: h5py.Dataset) -> ImageChunks | None:
        """Return the chunks of an open dataset; None where its bytes are not the pixels, or the system cannot do it."""
        one_image = (1, *images.shape[1:])
        plain = images.chunks == one_image and images.id.get_create_plist().get_nfilters() == 0
        if not plain or images.dtype != np.uint8 or not hasattr(os, "preadv"):
            return None
        offsets: Ints = np.full(len(images), -1, np.int64)

        def note(chunk: Any) -> None:
            offsets[chunk.chunk_offset[0]] = chunk.byte_offset

        images.id.chunk_iter(note)
        return cls(path, offsets, images.shape[1:]) if (offsets >= 0).all() else None

    def read(self, rows: Sequence[int], out: Pixels) -> None:
        """Read some images into `out`, uint8 [n, S, S, 3]; raises OSError where the file ends before them."""
        offsets = self.offsets[rows]
        starts = np.flatnonzero(np.diff(offsets, prepend=-1) != self._bytes)  # where the next one stands elsewhere
        for start, stop in zip(starts, [*starts[1:], len(offsets)], strict=True):
            pixels = out[start:stop].reshape(-1)
            if os.preadv(self._file.fileno(), [pixels.data], int(offsets[start])) != len(pixels):
                raise OSError("the file ends before its images do")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

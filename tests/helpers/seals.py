"""Changing a result file as one of an older version, which has no seal."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import h5py

from deconvviz.results.sealed import BLOCK


@contextlib.contextmanager
def unsealed(path: pathlib.Path) -> Iterator[h5py.File]:
    """Yield a file to change; afterwards it is like one that was written without a seal."""
    with path.open("r+b") as raw:
        raw.write(b"\0" * BLOCK)
    with h5py.File(path, "r+") as file:
        yield file

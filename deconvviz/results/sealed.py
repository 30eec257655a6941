"""HDF5 files that nobody has changed: sealed by a digest of all their bytes, and refused where they could do harm.

The first 512 bytes of a file, which HDF5 leaves to its users, hold the seal: a line of text and a BLAKE2 digest of the
rest. It is checked before HDF5 reads anything, so that other data is never read without a word, and damaged structures
never reach HDF5, which may hang or crash on them. Files of versions before 0.2 have no seal; they, and files whose
parts are written in place, are looked through for what this package does not write.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.files import Sink, atomic, uninterrupted
from deconvviz.types import Pathlike

BLOCK = 512  # bytes before HDF5's own: the least that HDF5 takes
MAGIC = b"deconvviz seal 1: BLAKE2b of all bytes after the first 512\n"
DIGEST = 16  # bytes of the digest of a part
READ = 1 << 22  # bytes that are hashed at once
# What compression can make of a byte at most, and a size that is harmless whatever is stored
EXPANSION, HARMLESS = 1100, 1 << 20
FILTERS = {1, 2, 3}  # gzip, shuffle, fletcher32: their numbers in HDF5
DEEPEST = 200  # groups within groups

_checked: dict[str, tuple[int, int, int]] = {}  # files whose seal this process has checked -> when, how long, which


@contextlib.contextmanager
def sealed(path: Pathlike) -> Iterator[h5py.File]:
    """Yield an HDF5 file to write; on success it is sealed and moved to its place, on any failure it is removed.

    Args:
        path: of the file.

    Raises:
        DataError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with sealed(f"{folder}/a.h5") as file:
    ...         file["values"] = [0, 1, 2]
    ...     is_sealed(f"{folder}/a.h5")
    True
    """
    with uninterrupted(), atomic(path) as temporary:
        with Sink(temporary) as sink, h5py.File(sink, "w", userblock_size=BLOCK) as file:
            yield file
        with temporary.open("r+b") as raw:
            digest = _digest(raw)
            raw.seek(0)
            raw.write(MAGIC + digest)


def is_sealed(path: Pathlike) -> bool:
    """Return whether a file has a seal; raises OSError where it cannot be read."""
    with pathlib.Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def check_seal(path: Pathlike) -> bool:
    """Check the seal of a file, once for each state of it in a process.

    Returns:
        Whether the file has a seal.

    Raises:
        DataError: its bytes are not those that were sealed.
        OSError: it cannot be read, or is open for writing in another program.
    """
    key = os.path.realpath(path)
    # Opened once: meanwhile a job may put its next commit in the place of this file
    with pathlib.Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        state = status.st_mtime_ns, status.st_size, status.st_ino
        if _checked.get(key) == state:
            return True
        head = file.read(BLOCK)
        if not head.startswith(MAGIC):
            return False
        if head[len(MAGIC) :][:32] != _digest(file):
            if _is_locked(file):  # HDF5 marks a file that is open for writing
                raise BlockingIOError(errno.EAGAIN, "unable to lock the file")
            raise DataError(
                f"{path} is damaged or was changed: its content is not what was written; restore it, or remove it and "
                "make it again"
            )
    _checked[key] = state
    return True


def _is_locked(file: BinaryIO) -> bool:
    """Return whether another process has locked a file for writing, as HDF5 does."""
    try:
        import fcntl
    except ImportError:  # where HDF5 does not lock like this either
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _digest(file: BinaryIO) -> bytes:
    """Return the digest of all bytes of an open file that the seal does not hold."""
    digest = hashlib.blake2b(digest_size=32)
    file.seek(BLOCK)
    while chunk := file.read(READ):
        digest.update(chunk)
    return digest.digest()


def refuse_foreign(file: h5py.File, path: Pathlike) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Look through a file for what this package does not write, before any value of it is read.

    Returns:
        Name of each array -> (its dtype, its shape).

    Raises:
        DataError: a link to another place or file; values that are stored elsewhere or computed; filters other than
            gzip, shuffle and fletcher32; values that are not plain numbers or text; more values than the stored bytes
            can hold; or groups within themselves.
    """
    layout: dict[str, tuple[Any, tuple[int, ...]]] = {}
    waiting: list[tuple[h5py.Group, str, int]] = [(file, "", 0)]
    while waiting:
        group, prefix, depth = waiting.pop()
        if depth > DEEPEST:
            raise DataError(f"{path} is no file of deconvviz: its groups go deeper than {DEEPEST}; choose another")
        for name in group:
            where = f"{prefix}/{name}"
            if group.get(name, getlink=True, getclass=True) is not h5py.HardLink:
                raise DataError(f"{path} is no file of deconvviz: {where} is a link to another place; choose another")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((item, where, depth + 1))
            elif isinstance(item, h5py.Dataset):
                _refuse_dataset(item, where, path)
                layout[where.removeprefix("/")] = (item.dtype, item.shape or ())
            else:
                raise DataError(f"{path} is no file of deconvviz: {where} is no array; choose another")
    return layout


def _refuse_dataset(dataset: h5py.Dataset, where: str, path: Pathlike) -> None:
    plist = dataset.id.get_create_plist()
    strange = ""
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        strange = "is stored in another place"
    elif not {plist.get_filter(number)[0] for number in range(plist.get_nfilters())} <= FILTERS:
        strange = "is compressed in another way"
    elif dataset.dtype.kind not in "iufb" and h5py.check_string_dtype(dataset.dtype) is None:
        strange = f"holds values of type {dataset.dtype}"
    else:
        declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
        if declared > HARMLESS + EXPANSION * dataset.id.get_storage_size():
            strange = f"declares {declared:.3g} bytes and stores {dataset.id.get_storage_size()}"
    if strange:
        raise DataError(f"{path} is no file of deconvviz: {where} {strange}; choose another, or make it again")


def digest_of_lists(lists: Sequence[Any], arrays: Sequence[NDArray[Any] | None]) -> str:
    """Return a digest in hex of the short parts of a file: JSON values, and arrays, None where one is absent."""
    digest = hashlib.blake2b(json.dumps(lists, sort_keys=True).encode(), digest_size=DIGEST)
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digest_of_bytes(data: bytes | memoryview | NDArray[Any]) -> bytes:
    """Return 16 bytes that tell whether some bytes are still the same; of a file whose parts are read one by one."""
    content: Any = data  # NumPy's stubs do not say that an array is a buffer
    return hashlib.blake2b(memoryview(content).cast("B"), digest_size=DIGEST).digest()

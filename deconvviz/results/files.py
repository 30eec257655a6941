"""Files that are written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import pathlib
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType

from deconvviz.errors import DataError
from deconvviz.types import Pathlike

COMMITTED: list[pathlib.Path] = []
"""The files that this process has written, the first one first: what an interrupted command has kept."""


READ: set[pathlib.Path] = set()
"""The files that the command reads that runs now: what it writes must not take their place."""


@contextlib.contextmanager
def reading(paths: Iterable[Pathlike]) -> Iterator[None]:
    """Note what a command reads, within a `with` block, so that it is not written over.

    >>> with reading(["photo.png"]), atomic("photo.png"):
    ...     pass
    Traceback (most recent call last):
    deconvviz.errors.DataError: photo.png is read, and would be replaced; give the result another name
    """
    before = set(READ)
    READ.update(pathlib.Path(os.path.realpath(path)) for path in paths)
    try:
        yield
    finally:
        READ.clear()
        READ.update(before)


def refuse_what_is_read(path: Pathlike) -> None:
    """Raise DataError where a file that is to be written is one that the command reads."""
    if pathlib.Path(os.path.realpath(path)) in READ:
        raise DataError(f"{path} is read, and would be replaced; give the result another name")


def note_committed(path: Pathlike) -> None:
    """Note that a file holds something that an interrupt does not undo."""
    target = pathlib.Path(path)
    if target not in COMMITTED:
        COMMITTED.append(target)


@contextlib.contextmanager
def atomic(path: Pathlike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside a file; on success it becomes the file, on any failure it is removed.

    The temporary file exists from the beginning, so that a place that cannot be written to is noticed before the work.
    An existing file stays as it was until the new one is safely on the disk, and a link is written through. HDF5 should
    write through a `Sink` on the temporary path.

    Args:
        path: of the file.

    Raises:
        DataError: the file cannot be written (no such folder, no permission, disk full).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "note.txt")
    ...     with atomic(path) as temporary:
    ...         _ = temporary.write_text("complete")
    ...         written_before = path.exists()
    ...     written_before, path.read_text()
    (False, 'complete')
    """
    target = pathlib.Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}-{secrets.token_hex(6)}.part")
    try:
        _refuse_unusable(target, path)
        _sweep(target)
        # 0o666 less the umask, as open() would: mkstemp's 0o600 would hide a finished result from its readers.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        note_committed(target)
    except OSError as error:
        raise DataError(f"cannot write {path}: {one_line(error)}; {_advice(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # also after success, when there is nothing left to remove
            temporary.unlink()
    with contextlib.suppress(OSError):  # not every file system can sync a folder, and the file itself is safe
        _sync(target.parent)


class _Tried(Exception):
    """Raised within this module to leave a temporary file that was made to see whether it can be made."""


def require_place(path: Pathlike) -> None:
    """Raise DataError where a file cannot be written, before the work; nothing is left there.

    >>> require_place("no-such-folder/slim.pth")
    Traceback (most recent call last):
    deconvviz.errors.DataError: cannot write no-such-folder/slim.pth: there is no folder ...; create it first
    """
    try:
        with atomic(path):
            raise _Tried
    except _Tried:
        pass


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a `with` block: HDF5 cannot be left in the middle of a write."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _frame: waiting.append(number)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _sweep(target: pathlib.Path) -> None:
    """Remove what processes that were killed left half written of a file; those of running processes stay."""
    for path in target.parent.glob(f".{glob.escape(target.name[:100])}.*-*.part"):
        process = path.name.removesuffix(".part").rpartition(".")[2].partition("-")[0]
        if process.isdecimal() and int(process) != os.getpid() and not _runs(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    """Whether a process runs on this machine; one that has ended does not, even if its parent has not asked for it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # the state stands behind the name, which is in brackets and may hold any letter
        state = pathlib.Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):  # there is no such folder but on Linux
        return True
    return state not in (b"Z", b"X")


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line of at most 200 characters.

    >>> one_line(ValueError("two\\nlines"))
    'two lines'
    """
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


class Sink:
    """A file object that HDF5 writes to, and that remembers the first write that failed.

    HDF5 cannot close a file whose writes fail: the handle stays open, and the process may crash when it ends. A sink
    accepts all writes after the first failed one without doing them, so that HDF5 can close the file, and raises the
    OSError then:

        with atomic(path) as temporary, Sink(temporary) as sink, h5py.File(sink, "w") as file: ...

    `check()` raises it earlier, so that a long job does not run to its end in vain.
    """

    def __init__(self, path: Pathlike) -> None:
        self._file = pathlib.Path(path).open("w+b", buffering=0)  # noqa: SIM115, __exit__ closes it
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: bytes) -> int:
        """Write all of `data`, or remember the error; return the length of `data`."""
        left = memoryview(data)
        try:
            while self._failure is None and len(left):  # an unbuffered file may write only a part
                left = left[self._file.write(left) :]
        except OSError as error:
            self._failure = error
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the length of the file, or remember the error; return `size`."""
        try:
            if self._failure is None:
                self._file.truncate(size)
        except OSError as error:
            self._failure = error
        return size

    def read(self, size: int = -1) -> bytes:
        """Read back at most `size` bytes."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset; return the position in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: nothing is buffered here, and `atomic` syncs the finished file."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if error is None:
            self.check()


def _refuse_unusable(target: pathlib.Path, path: Pathlike) -> None:
    """Raise DataError where no file can be at `target`, which is where `path` leads."""
    refuse_what_is_read(path)
    if not target.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    if target.is_dir():
        raise DataError(f"cannot write {path}: it is a folder; give the name of a file in it")
    if target.exists() and not target.is_file():  # such as /dev/null, which must not be replaced
        raise DataError(f"cannot write {path}: it is neither a file nor free; choose another name")


def _sync(path: pathlib.Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


READ_ERRORS = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, MemoryError)
"""What h5py, and reading what it gives, raise for a damaged file."""


def in_use(error: BaseException) -> bool:
    """Return whether an error says that another program has the file open for writing, or that it cannot be locked."""
    return isinstance(error, BlockingIOError) or "unable to lock" in str(error) or "already open" in str(error)


def unreadable(path: Pathlike, error: BaseException, otherwise: str) -> str:
    """Return why an HDF5 file cannot be read: it is in use, which is said as such, or what `otherwise` says.

    Args:
        path: of the file.
        error: that h5py raised.
        otherwise: the message for a damaged file, from its path on.
    """
    if in_use(error):
        return (
            f"{path} is open for writing in another program; close it there and try again. On a file system without "
            "locks, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    return otherwise


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or choose another place"
    return "choose another place or change its permissions"

"""Applying a function to tasks in processes, which end when they are asked to and when the one that began them does.

A process is begun anew ("spawn"), whatever runs in this one: threads, a GPU, open HDF5 files. What is sent and returned
is pickled.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from deconvviz.errors import DataError, DeconvvizError
from deconvviz.results.files import uninterrupted

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
Tell = Callable[[int], Any]
PATIENCE = 10.0  # seconds in which a process that is asked to end may finish the image that it is at
_OFTEN = 0.1  # seconds between two messages about progress
_PROGRESS, _DONE, _FAILED = range(3)


class Stopped(BaseException):
    """A worker was asked to end. It is no Exception, so that nothing on the way takes it for a failure."""


def in_processes(
    function: Callable[[Task, Tell], Outcome], tasks: Sequence[Task], count: int, progress: Tell
) -> Generator[tuple[Task, Outcome]]:
    """Apply a function to tasks in processes; yield (task, what the function returned) in the order in which they end.

    Where the generator is closed, or raises, the processes have ended: each is asked to (SIGTERM), and ends at the next
    `tell`; one that does not is killed after ten seconds. They also end where this process is killed. Ctrl-C reaches
    this process alone.

    Args:
        function: what is applied, a function of a module; it is given a task and `tell`, which it calls with the number
            of things (images) that it has done since the last call.
        tasks: what it is applied to, in this order.
        count: number of processes.
        progress: called in this process with the numbers that functions tell.

    Raises:
        DeconvvizError: what the function raised.
        RuntimeError: the function raised anything else; the text is its traceback.
        DataError: a process was killed.
    """
    waiting, busy, processes = deque(tasks), dict[Connection, tuple[Any, Task]](), list[Any]()
    try:
        for _ in range(min(count, len(waiting))):
            process, connection = _started(function)
            processes.append(process)
            busy[connection] = process, waiting.popleft()
        for connection, (_, task) in busy.items():  # sent when all of them start up, side by side
            _send(connection, task)
        while busy:
            for ready in wait(list(busy)):
                connection = cast(Connection, ready)
                process, task = busy[connection]
                kind, value = _received(connection, process)
                if kind == _FAILED:
                    raise value
                if kind == _PROGRESS:
                    progress(value)
                    continue
                busy.pop(connection)
                if waiting:
                    busy[connection] = process, waiting.popleft()
                    _send(connection, busy[connection][1])
                else:
                    connection.close()  # which ends the process
                yield task, value
    finally:
        with uninterrupted():
            _end(processes, busy)


def _started(function: Callable[..., Any]) -> tuple[Any, Connection]:
    """Start a process that serves a function; return it and the connection to it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(function, there), daemon=True)
    with _without_interrupts(), _without_main():
        process.start()
    there.close()
    return process, here


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes within a `with` block to which Ctrl-C is blocked: this process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start processes within a `with` block that do not run the user's script again: functions are those of modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _send(connection: Connection, task: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionError):  # it was killed, which reading from it will tell
        connection.send(task)


def _received(connection: Connection, process: Any) -> tuple[int, Any]:
    """Return a worker's next message; raises DataError where it has ended without one."""
    try:
        message: tuple[int, Any] = connection.recv()
        return message
    except (EOFError, ConnectionError):
        process.join(1)
        code = process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise DataError(
            f"a worker process ended {how}, as happens where memory runs out; give the command again, perhaps with "
            "fewer workers"
        ) from None


def _end(processes: Sequence[Any], busy: dict[Connection, tuple[Any, Any]]) -> None:
    """End all processes; those at work are asked to first."""
    for connection, (process, _) in busy.items():
        process.terminate()
        connection.close()
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()


def _serve(function: Callable[[Any, Tell], Any], connection: Connection) -> None:
    """Apply a function to the tasks that come, in a process of its own, until the connection is closed."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError, Stopped):
        while True:
            task = connection.recv()
            telling = _Telling(connection, stop)
            try:
                message = _DONE, function(task, telling)
            except DeconvvizError as error:
                message = _FAILED, error
            except Exception:
                message = _FAILED, RuntimeError(traceback.format_exc())
            telling.flush()
            connection.send(message)


def _end_with_parent() -> None:
    """End this process when the one that began it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Telling:
    """Tells the first process how much is done, not too often, and raises Stopped where this one is to end."""

    def __init__(self, connection: Connection, stop: threading.Event) -> None:
        self._connection, self._stop = connection, stop
        self._count, self._told = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._count += count
        if time.monotonic() - self._told > _OFTEN:
            self.flush()

    def flush(self) -> None:
        if self._count:
            self._connection.send((_PROGRESS, self._count))
        self._count, self._told = 0, time.monotonic()

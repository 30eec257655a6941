"""What the tests of processes let them do; processes import it by its name."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import Any

from deconvviz.errors import DataError


def squared(task: int, tell: Any) -> tuple[int, int]:
    """Return the square and the process, after three things were told."""
    for _ in range(3):
        tell(1)
    return task * task, os.getpid()


def failing(task: str, tell: Any) -> None:
    """Fail in a way of one's own."""
    tell(1)
    if task == "data":
        raise DataError("told in one line")
    if task == "bug":
        raise KeyError("a bug")
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def waiting(folder: pathlib.Path, tell: Any) -> None:
    """Leave a file with the number of the process, and work on until one is stopped; then remove the file."""
    path = folder / str(os.getpid())
    path.touch()
    try:
        time.sleep(0.2)  # sooner, nothing is sent
        tell(1)
        while True:
            time.sleep(0.01)
            tell(0)  # sends nothing, so that it does not notice that nobody listens any more
    finally:
        path.unlink()


def deaf(folder: pathlib.Path, tell: Any) -> None:
    """Leave a file with the number of the process, and never ask whether one is stopped."""
    (folder / str(os.getpid())).touch()
    time.sleep(0.2)  # sooner, nothing is sent
    tell(1)
    time.sleep(60)

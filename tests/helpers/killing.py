"""Killing a command at chosen moments.

To import torch takes seconds, so the processes that are killed are forks of one that has done so: a test file that is
run as a program.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from typing import Any

from torch import nn

from deconvviz.cli.main import main
from deconvviz.graph.capture import capture

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def answer_of(program: str, root: pathlib.Path) -> Any:
    """Run a test file as a program in a process with one thread; return the JSON that it prints."""
    command = [sys.executable, program, str(root)]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_to_the_end(arguments: list[str], folder: pathlib.Path) -> None:
    """Run a command of deconvviz in a folder, in a process of its own, until it ends without an error."""
    command = [sys.executable, "-m", "deconvviz", *arguments]
    done = subprocess.run(command, cwd=folder, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def be_ready_to_fork() -> None:
    """Import what torch imports when it is first used; raises where other threads run, which would not survive."""
    capture(nn.Conv2d(3, 1, 1), (3, 8, 8))
    assert len(list(pathlib.Path("/proc/self/task").iterdir())) == 1


class Job:
    """A process that runs a command in a folder, and writes `out` there."""

    def __init__(self, folder: pathlib.Path, arguments: list[str], out: str) -> None:
        self.out, self.folder, self.arguments, self.alive = folder / out, folder, arguments, True
        self.process = os.fork()
        if not self.process:
            os._exit(self._work())

    def _work(self) -> int:
        try:
            os.chdir(self.folder)
            log = os.open("../log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = ["deconvviz", *self.arguments]
            main()
        except SystemExit as error:
            return int(error.code or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            return 70
        return 0

    def runs(self) -> bool:
        """Whether it has not ended yet; raises where it ended with an error."""
        if self.alive:
            found, status = os.waitpid(self.process, os.WNOHANG)
            self.alive = not found
            if status:
                raise RuntimeError(f"the job ended with status {status}:\n{(self.folder / '../log.txt').read_text()}")
        return self.alive

    def commits(self) -> None:
        """Wait for a commit, or its end."""
        last = self._version()
        while self.runs() and self._version() == last:
            time.sleep(0.0005)

    def writes(self, name: str = "") -> None:
        """Wait until it is writing a file, or the file of that name, or its end."""
        known = self._parts()
        while self.runs() and not any(part.startswith(f".{name}") for part in self._parts() - known):
            pass

    def kill(self) -> bool:
        """Kill it; false where it had ended by itself."""
        if not self.runs():
            return False
        os.kill(self.process, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(self.process, 0)[1])

    def _version(self) -> tuple[int, int]:
        if not self.out.exists():
            return 0, 0
        status = self.out.stat()
        return status.st_ino, status.st_mtime_ns

    def _parts(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.name.endswith(".part")}

"""Killing a command at chosen moments.

To import torch takes seconds, so the processes that are killed are forks of one that has done so: a test file that is
run as a program.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time
import traceback

from deconvviz.cli.main import main


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

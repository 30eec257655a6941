"""Jobs that the tests give to Ray; a module of their own, because the nodes import it."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from typing import Any

from deconvviz.studies.mining.on_ray import MiningJob


class DyingJob:
    """Kills its own process once in each shard, in the middle of the work; a second run goes on."""

    def __init__(self, inner: MiningJob) -> None:
        self.inner = inner

    def shipped(self, put: Any) -> DyingJob:
        return DyingJob(self.inner.shipped(put))

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        mark = path.with_suffix(".died")
        if not mark.exists():
            mark.touch()

            def die() -> None:
                while not path.exists() or self.inner.done(path) == 0:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=die, daemon=True).start()
        else:
            path.with_suffix(f".began-at-{self.inner.done(path)}").touch()
        self.inner.run(shard, path, cpus)

    def done(self, path: pathlib.Path) -> int:
        return self.inner.done(path)

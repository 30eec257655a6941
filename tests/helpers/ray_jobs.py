"""Jobs that the tests give to Ray; a module of their own, because the nodes import it."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time

from deconvviz.studies.mining.on_ray import MiningJob


class DyingJob(MiningJob):
    """Kills its own process once in each shard, in the middle of the work; a second run goes on."""

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        mark = path.with_suffix(".died")
        if not mark.exists():
            mark.touch()

            def die() -> None:
                while not path.exists() or self.done(path) == 0:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=die, daemon=True).start()
        else:
            path.with_suffix(f".began-at-{self.done(path)}").touch()
        super().run(shard, path, cpus)

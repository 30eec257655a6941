"""A stream of features that is killed at chosen moments goes on as one that never was.

Run as a program, this file streams in forks of itself and kills them.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from streamed_features import COUNT, LAYERS, model, noise_images, streamed

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.results.features import Features, FeatureWriter


def program(folder: pathlib.Path) -> None:
    """Run as a program: kill forks of it at chosen moments, and print how many rows each left."""
    torch.set_num_threads(1)
    network = dv.capture(model(), (3, 20, 28))
    straight, dones = streamed(folder / "straight.h5", network=network), list[int]()
    for moment in (("begin", 0), ("image", 5), ("write", 9), ("image", 25), ("write", 20), ("sync", 3), ("image", 59)):
        child = os.fork()
        if not child:
            signal.alarm(60)
            _die(folder / "killed.h5", network, *moment)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, moment
        if not (folder / "killed.h5").exists():
            dones.append(-1)
            continue
        left = Features(folder / "killed.h5")
        dones.append(left.done)
        for layer in LAYERS:
            rows = np.arange(left.done)
            assert np.array_equal(left.rows(layer, rows), straight.rows(layer, rows)), (moment, layer)
    print(json.dumps(dones))


def _die(out: pathlib.Path, network: dv.Network, moment: str, when: int) -> None:
    """Stream until the moment: an image is read, a write is half done, rows are written but do not count yet."""

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(InMemoryImages):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            if moment == "image" and index == when:
                kill()
            return super().__getitem__(index)

    calls, whole, sync = iter(range(10**6)), FeatureWriter._write, os.fsync

    def torn(self: FeatureWriter, offset: int, data: memoryview) -> None:
        if next(calls) == when:
            whole(self, offset, data[: len(data) // 2])
            kill()
        whole(self, offset, data)

    def synced(descriptor: Any) -> None:
        if next(calls) == when:
            kill()
        sync(descriptor)

    if moment == "write":
        FeatureWriter._write = torn  # type: ignore[method-assign]
    elif moment in ("sync", "begin"):
        os.fsync = synced  # type: ignore[assignment]
    streamed(out, noise_images(kind=Deadly), network=network, workers=1)


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    dones = json.loads(done.stdout)
    assert dones[0] == -1 and dones[1:] == sorted(dones[1:]) and len({n for n in dones if 0 < n < COUNT}) >= 3, dones
    streamed(tmp_path / "killed.h5")
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "straight.h5").read_bytes()
    # what was half written when it was begun is swept away
    assert {path.name for path in tmp_path.iterdir()} == {"killed.h5", "straight.h5"}


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

"""Packing that is killed again and again ends with the files of one that never was; SIGTERM leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from deconvviz.data.images import ImageStore

pytestmark = [pytest.mark.kill, pytest.mark.slow]

SHARDS, KILLS = 24, 4
COMMAND = [
    sys.executable,
    "-m",
    "deconvviz",
    "pack",
    "--shards",
    str(SHARDS),
    "photos",
    "out",
    "--workers",
    "2",
    "--quiet",
]


def runs(process: int) -> bool:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def below(process: int) -> list[int]:
    """The processes that a process has begun."""
    with contextlib.suppress(OSError):
        return [int(n) for n in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def ended(processes: list[int]) -> None:
    """Wait until processes have ended, for ten seconds at most."""
    end = time.monotonic() + 10
    while any(runs(process) for process in processes):
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Job:
    """A folder with photos in it, and the command that packs them there."""

    root: pathlib.Path
    command: list[str]


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "labels"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Photos that were packed without an interruption; with several labels each, or without."""
    root = tmp_path_factory.mktemp("packing")
    (root / "photos").mkdir()
    for number in range(240):
        pixels = np.random.default_rng(number).integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number:03d}.jpg")
    (root / "photos" / "007.jpg").write_bytes(b"no image")
    rows = [f"{number:03d}.jpg,{label}" for number in range(230) for label in ("all", f"of {number % 5}")]
    (root / "labels.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    job = Job(root, [*COMMAND, "--labels", "labels.csv"] if request.param else COMMAND)
    subprocess.run(job.command, cwd=root, check=True, timeout=120)
    return job


def begun(job: Job, shards: int) -> subprocess.Popen[str]:
    """Begin to pack, and return when there are so many shards, or a process has begun one, or at its end."""
    process = subprocess.Popen(job.command, cwd=job.root, stderr=subprocess.PIPE, text=True)
    out = job.root / "out"
    while process.poll() is None:
        names = [path.name for path in out.iterdir()] if out.exists() else []
        if len([name for name in names if name.endswith(".h5")]) >= shards:
            break
        time.sleep(0.002)
    return process


def test_kills(job: Job) -> None:
    root = job.root
    whole = {path.name: path.read_bytes() for path in (root / "out").iterdir()}
    for path in (root / "out").iterdir():
        path.unlink()
    rng, killed, half_written = random.Random(0), 0, 0
    while killed < KILLS:
        done = len(list((root / "out").glob("shard-*")))
        process = begun(job, min(done + 2, SHARDS - 1))
        time.sleep(rng.uniform(0, 0.02))
        workers = below(process.pid)
        process.kill()
        for worker in workers if killed % 2 else []:  # as when the machine stops; otherwise they end by themselves
            with contextlib.suppress(OSError):
                os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert not said
        if process.returncode != -signal.SIGKILL:  # it had ended: begin again
            for path in (root / "out").iterdir():
                path.unlink()
            continue
        killed += 1
        assert len(workers) >= 2
        ended(workers)
        half_written += len(list((root / "out").glob(".*.part")))
    assert half_written > 0
    left = len(list((root / "out").glob("shard-*")))
    assert 0 < left < SHARDS
    done_by = subprocess.run(job.command, cwd=root, check=True, timeout=120, capture_output=True, text=True)
    assert f"{left} of which were there" in done_by.stdout
    assert {path.name: path.read_bytes() for path in (root / "out").iterdir()} == whole
    with ImageStore.open(root / "out") as store:
        assert len(store) == 239 and [name for name, _ in store.skipped] == ["007.jpg"]
        if job.command is not COMMAND:
            assert store.targets is not None and store.targets.sum(0).tolist() == [229, 46, 46, 45, 46, 46]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupts(job: Job, number: signal.Signals, code: int) -> None:
    root = job.root
    for path in (root / "out").iterdir():
        path.unlink()
    process = begun(job, 3)
    workers = below(process.pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and len(workers) >= 2
    ended(workers)
    assert said.splitlines()[-1].startswith("deconvviz: interrupted: what was done is kept in out/shard-")
    assert said.splitlines()[-1].endswith("run the same command again, and it goes on from there")
    names = [path.name for path in (root / "out").iterdir()]
    assert 3 <= len(names) < SHARDS and all(name.startswith("shard-") for name in names)

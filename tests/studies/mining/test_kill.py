"""A mining process that is killed twenty times, at any moment, and continued, makes the file of one that never was.

To import torch takes seconds, so the processes that are killed are forks of one that has done so: this file, run as a
program. The last one, which finishes the job, is a process of its own.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from killing import Job, answer_of, be_ready_to_fork

import deconvviz.studies.mining.command  # noqa: F401, what the command would import when it runs
from deconvviz.data.decode import encode
from deconvviz.data.pack import pack
from deconvviz.models.load import load_model  # noqa: F401
from deconvviz.studies.mining.mine import mine  # noqa: F401
from deconvviz.studies.mining.result import load_mined

IMAGES, KILLS, BATCH = 400, 20, 4
OUT = "mined.h5"
JOB = "mine ../model.py:make ../store.h5 --weights none --input 32 --resize 32 -l conv1 -l relu2 --device cpu --quiet"
ARGUMENTS = [*JOB.split(), "--commit-every", "1", "--batch-size", str(BATCH), "-o", OUT]

# The contrast normalisation is a Python function in the graph: its address must not be part of the model's identity.
MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.pool = nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(8, 16, 3), nn.ReLU()

    def forward(self, x):
        return self.relu2(self.conv2(self.pool(self.norm(self.conv1(x)))))

def make():
    torch.manual_seed(7)
    return Net()
"""


@dataclass(frozen=True)
class Kill:
    """When a process was killed, and what it left: images done in the file, None without one; other files."""

    moment: str
    done: int | None
    others: list[str]


# --- the program: one that has imported everything, and its forks


def uninterrupted(folder: pathlib.Path) -> tuple[float, float]:
    """Run the whole job; return the seconds until its first commit, and between commits."""
    begin, job = time.monotonic(), Job(folder, ARGUMENTS, OUT)
    job.commits()
    first = time.monotonic()
    while job.runs():
        time.sleep(0.001)
    return first - begin, (time.monotonic() - first) / (IMAGES / BATCH)


def killed(folder: pathlib.Path, moment: str, rng: random.Random, startup: float, commit: float) -> bool:
    """Start or continue the job and kill it at some moment; false where it came to its end before that."""
    job = Job(folder, ARGUMENTS, OUT)
    if moment == "starting":
        time.sleep(rng.uniform(0, startup))
        return job.kill()
    for _ in range(rng.randint(1, 4)):  # each of these lives makes some progress
        job.commits()
    if moment == "writing":
        job.writes()
    time.sleep(rng.uniform(0, commit / 4 if moment == "writing" else commit))
    return job.kill()


def program(root: pathlib.Path) -> None:
    """Make the file in `straight`, and in `killed` one that is left unfinished; print what each kill left, as JSON."""
    (root / "straight").mkdir()
    (root / "killed").mkdir()
    be_ready_to_fork()
    startup, commit = uninterrupted(root / "straight")
    rng, kills, late = random.Random(0), list[Kill](), 0
    out = root / "killed" / OUT
    while len(kills) < KILLS:
        moment = ("starting", "mining", "writing", "writing")[len(kills) % 4]
        if killed(root / "killed", moment, rng, startup, commit):
            others = sorted(path.name for path in out.parent.iterdir() if path != out)
            kills.append(Kill(moment, load_mined(out).done if out.exists() else None, others))
        else:  # it has finished: begin again
            late += 1
            assert late < KILLS, f"most processes ended before they could be killed while {moment}"
            out.unlink()
    print(json.dumps([asdict(kill) for kill in kills]))


# --- the test


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        (tmp_path / "images" / f"{i:03d}.png").write_bytes(encode(rng.integers(0, 256, (32, 32, 3), np.uint8)))
    pack(tmp_path / "images", tmp_path / "store.h5", progress=False)
    (tmp_path / "model.py").write_text(MODEL)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    kills = [Kill(**kill) for kill in answer_of(__file__, tmp_path)]
    halves = [kill.done for kill in kills if kill.done is not None and 0 < kill.done < IMAGES]
    assert len(kills) == KILLS and len(halves) >= KILLS // 2 and len(set(halves)) >= KILLS // 4, kills
    leftovers = {name for kill in kills for name in kill.others}
    assert leftovers, "no kill came while a file was being written"
    assert all(name.startswith(".mined.h5.") and name.endswith(".part") for name in leftovers)

    command = [sys.executable, "-m", "deconvviz", *ARGUMENTS]
    out, straight = tmp_path / "killed" / OUT, tmp_path / "straight" / OUT
    last = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stderr
    assert load_mined(out).complete and out.read_bytes() == straight.read_bytes()
    assert {path.name for path in out.parent.iterdir()} <= {OUT, *leftovers}  # the last process left nothing


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

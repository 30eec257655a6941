"""A pruning that is killed at any moment and continued ends with the file and the weights of one that never was.

This file is run as a program: its processes are forks of one that has imported torch.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time

import pytest
import torch
from killing import Job, answer_of, be_ready_to_fork, run_to_the_end

import deconvviz.studies.pruning.command
import deconvviz.studies.pruning.figure
import deconvviz.studies.pruning.measure  # noqa: F401, what the command would import when it runs
from deconvviz.models.load import load_model  # noqa: F401
from deconvviz.studies.pruning.result import PruningStudy

KILLS, OUT = 4, "slim.h5"
JOB = "prune demo scenes:60 --criterion activity --keep 0.6 --sensitivity --finetune 1 --repeats 0 --filters 0"
ARGUMENTS = [*JOB.split(), *["--held-out", "0.5", "--device", "cpu", "--workers", "1", "--quiet", "-o", "slim.pth"]]


def program(root: pathlib.Path) -> None:
    """Prune in `straight`, and in `killed` with kills; print how many groups each kill left measured, as JSON."""
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    job = Job(root / "straight", ARGUMENTS, OUT)
    while job.runs():
        time.sleep(0.01)
    rng, left = random.Random(0), list[int]()
    for _ in range(KILLS):
        job = Job(root / "killed", ARGUMENTS, OUT)
        for _ in range(rng.randint(1, 3)):
            job.commits()
        time.sleep(rng.uniform(0, 0.03))
        if job.kill() and (root / "killed" / OUT).exists():
            groups = PruningStudy.load(root / "killed" / OUT).groups.values()
            left.append(sum(group.sensitivity is not None for group in groups))
    print(json.dumps(left))


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_a_killed_pruning_goes_on(tmp_path: pathlib.Path) -> None:
    left = answer_of(__file__, tmp_path)
    assert len(left) >= 2 and len(set(left)) >= 2, left
    out, straight = tmp_path / "killed", tmp_path / "straight"
    run_to_the_end(ARGUMENTS, out)
    assert (out / OUT).read_bytes() == (straight / OUT).read_bytes()
    first, second = (torch.load(each / "slim.pth", weights_only=True)["state_dict"] for each in (out, straight))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for table in ("slim.csv", "slim.filters.csv", "slim.sensitivity.csv"):
        assert (out / table).read_bytes() == (straight / table).read_bytes()


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

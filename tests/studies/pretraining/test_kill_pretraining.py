"""A training without labels killed several times, also while it writes, and continued ends with the same weights."""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time

import pytest
import torch
from killing import Job, answer_of, be_ready_to_fork, run_to_the_end

import deconvviz.studies.pretraining.command
import deconvviz.studies.pretraining.pretrain  # noqa: F401, what the command would import when it runs

KILLS, OUT = 3, "z.pth"
JOB = "pretrain zfnet scenes:48 --input 32 --width 0.06 --fc 100,100 --batch-size 16 --device cpu --quiet --workers 1"
ARGUMENTS = [*JOB.split(), *f"--with spatial-attention --epochs 5 --commit-every 1 -o {OUT}".split()]


def program(root: pathlib.Path) -> None:
    """Train in `straight`, and in `killed` with kills; print how many steps each kill left, as JSON."""
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    job = Job(root / "straight", ARGUMENTS, OUT)
    while job.runs():
        time.sleep(0.01)
    rng, steps = random.Random(1), list[int]()
    folder = root / "killed"
    for attempt in range(5 * KILLS):
        job = Job(folder, ARGUMENTS, OUT)
        for _ in range(rng.randint(1, 3)):
            job.commits()
        if attempt % 2:
            job.writes(OUT)
        time.sleep(rng.uniform(0, 0.01))
        if not job.kill():  # it has finished: begin again
            for ending in (".pth", ".csv"):
                (folder / OUT).with_suffix(ending).unlink()
            continue
        steps.append(torch.load(folder / OUT, weights_only=True)["steps"] if (folder / OUT).exists() else 0)
        if len(steps) == KILLS:
            break
    print(json.dumps(steps))


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    steps = answer_of(__file__, tmp_path)
    assert len(steps) == KILLS and any(step % 3 for step in steps), steps  # some epoch was half done
    run_to_the_end(ARGUMENTS, tmp_path / "killed")
    one, two = (torch.load(tmp_path / name / OUT, weights_only=True) for name in ("straight", "killed"))
    assert one["steps"] == two["steps"] == 15 and len(one["history"]) == len(two["history"]) == 5
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, two["state_dict"][name]), name
    for record, other in zip(one["history"], two["history"], strict=True):
        assert {**record, "seconds": 0} == {**other, "seconds": 0}


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

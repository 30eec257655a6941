"""An attack that is killed at any moment and continued makes the file of one that never was.

This file is run as a program: its processes are forks of one that has imported torch.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time

import numpy as np
import pytest
from killing import Job, answer_of, be_ready_to_fork, run_to_the_end

import deconvviz.studies.attack.command
import deconvviz.studies.attack.figure
import deconvviz.studies.attack.measure  # noqa: F401, what the command would import when it runs
from deconvviz.data.decode import encode
from deconvviz.data.pack import pack
from deconvviz.models.load import load_model  # noqa: F401
from deconvviz.studies.attack.result import AttackStudy

IMAGES, KILLS, OUT = 80, 4, "attack.h5"
JOB = "attack zfnet ../store.h5 --weights ../net.pth --method pgd --option steps=3 --epsilons 2,8 --device cpu"
ARGUMENTS = [*JOB.split(), *f"--workers 1 --quiet --batch-size 4 --commit-every 2 --keep 50 -o {OUT}".split()]


def killed(folder: pathlib.Path, writing: bool, rng: random.Random) -> bool:
    """Start or continue the attack and kill it; false where it came to its end before that."""
    job = Job(folder, ARGUMENTS, OUT)
    for _ in range(rng.randint(1, 3)):
        job.commits()
    if writing:
        job.writes(OUT)
    time.sleep(rng.uniform(0, 0.002 if writing else 0.03))
    return job.kill()


def program(root: pathlib.Path) -> None:
    """Attack in `straight`, and in `killed` with kills; print how many images each kill left, as JSON."""
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    job = Job(root / "straight", ARGUMENTS, OUT)
    while job.runs():
        time.sleep(0.01)
    rng, left, late = random.Random(0), list[int](), 0
    while len(left) < KILLS:
        if killed(root / "killed", len(left) % 2 == 1, rng):
            left.append(AttackStudy.load(root / "killed" / OUT).done)
        else:  # it has finished: begin again
            late += 1
            assert late < KILLS, "most attacks ended before they could be killed"
            (root / "killed" / OUT).unlink()
    print(json.dumps(left))


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    import deconvviz as dv

    rng = np.random.default_rng(0)
    for n in range(IMAGES):
        path = tmp_path / "images" / "ab"[n % 2] / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(rng.integers(0, 256, (37, 37, 3), np.uint8)))
    pack(tmp_path / "images", tmp_path / "store.h5", progress=False)
    model, store = dv.zfnet(2, 32, width=0.06, fc=(32, 32)), dv.ImageStore.open(tmp_path / "store.h5")
    recipe = dv.Recipe(epochs=1, batch_size=60, validation=0)
    dv.train(model, store, tmp_path / "net.pth", recipe, name="zfnet", arguments=model.arguments, progress=False)
    store.close()
    left = answer_of(__file__, tmp_path)
    assert len(left) == KILLS and len({count for count in left if 0 < count < IMAGES}) >= 2, left

    out, straight = tmp_path / "killed" / OUT, tmp_path / "straight" / OUT
    run_to_the_end(ARGUMENTS, out.parent)
    assert AttackStudy.load(out).complete and out.read_bytes() == straight.read_bytes()
    for table in ("attack.csv", "attack.images.csv"):
        assert (out.parent / table).read_bytes() == (straight.parent / table).read_bytes()


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

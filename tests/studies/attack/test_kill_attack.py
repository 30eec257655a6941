"""Attacks that are killed at any moment and continued make the files of those that never were.

Killed are an attack on decisions, one with weights of its own for each image, one on explanations, and `evaluate
--attack`, which reads what the first has made.
This file is run as a program: its processes are forks of one that has imported torch.
"""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import sys
import time

import numpy as np
import pytest
from killing import Job, answer_of, be_ready_to_fork

import deconvviz.studies.attack.command
import deconvviz.studies.attack.figure
import deconvviz.studies.attack.measure
import deconvviz.studies.evaluation.command
import deconvviz.studies.evaluation.under_attack_figure  # noqa: F401, what the commands would import when they run
from deconvviz.data.decode import encode
from deconvviz.data.pack import pack
from deconvviz.models.load import load_model  # noqa: F401
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.evaluation import pace
from deconvviz.studies.evaluation.under_attack_result import MapsUnderAttack

IMAGES, KILLS = 36, 3
WHAT = "../net.pth --device cpu --quiet --batch-size 2"
PGD = "attack zfnet ../store.h5 --method pgd --workers 1 --commit-every 1 --keep 50 --weights"
FOOLED = f"--limit {IMAGES // 3} --option joint_steps=2 --away-from top -l relu5"
# The file that is written -> the command, and how many images it measures.
JOBS = {
    "attack.h5": (f"{PGD} {WHAT} --epsilons 2,8 --option steps=3", IMAGES),
    "sparse.h5": (
        f"attack zfnet ../store.h5 --method sparse-convolution --workers 1 --commit-every 1 --weights {WHAT} "
        f"--epsilon 32/255 --option steps=3 --option mask_steps=12 --limit {IMAGES // 2} --away-from top",
        IMAGES // 2,
    ),
    "fooled.h5": (f"{PGD} {WHAT} --epsilon 8/255 --option steps=2 --fools cam,gradient {FOOLED}", IMAGES // 3),
    "trust.attack.h5": (
        f"evaluate zfnet ../store.h5 --weights {WHAT} -l relu5 -m grad-cam -m guided -m recipro-cam --metrics none "
        "--attack attack.h5",
        0,  # as many as were fooled
    ),
}


def arguments_of(out: str) -> list[str]:
    written = "trust.csv" if out.startswith("trust") else out
    return [*JOBS[out][0].split(), "-o", written]


def done_in(path: pathlib.Path) -> int:
    """How much of a job is in its file."""
    if path.name in ("attack.h5", "sparse.h5", "fooled.h5"):
        return AttackStudy.load(path).done
    found = MapsUnderAttack.load(path)
    return sum(int(found.measured(*name.split("/")).sum()) for name in found.values)


def killed(folder: pathlib.Path, out: str, writing: bool, rng: random.Random) -> bool:
    """Start or continue a job and kill it; false where it came to its end before that."""
    job = Job(folder, arguments_of(out), out)
    for _ in range(rng.randint(1, 3)):
        job.commits()
    if writing:
        job.writes(out)
    time.sleep(rng.uniform(0, 0.002 if writing else 0.03))
    return job.kill()


def to_the_end(folder: pathlib.Path, out: str) -> None:
    """Run a job until it ends by itself."""
    job = Job(folder, arguments_of(out), out)
    while job.runs():
        time.sleep(0.005)


def program(root: pathlib.Path) -> None:
    """Do each job in `straight`, and in `killed` with kills; print how much each kill left, as JSON."""
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    pace.PAUSE = pace.SHARE_OF_COMMITS = 0  # seconds between commits of `evaluate`: after every batch
    left: dict[str, list[int]] = {}
    for out in JOBS:
        to_the_end(root / "straight", out)
        if out == "trust.attack.h5":
            shutil.copy(root / "straight" / "attack.h5", root / "killed" / "attack.h5")
        rng, left[out], late = random.Random(0), [], 0
        while len(left[out]) < KILLS:
            if killed(root / "killed", out, len(left[out]) % 2 == 1, rng):
                left[out].append(done_in(root / "killed" / out))
            else:  # it has finished: begin again
                late += 1
                assert late < KILLS, f"{out}: most jobs ended before they could be killed"
                (root / "killed" / out).unlink()
        to_the_end(root / "killed", out)
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
    recipe = dv.Recipe(epochs=1, batch_size=40, validation=0)
    dv.train(model, store, tmp_path / "net.pth", recipe, name="zfnet", arguments=model.arguments, progress=False)
    store.close()
    left = answer_of(__file__, tmp_path)
    for out, (_, count) in JOBS.items():
        assert len(left[out]) == KILLS and len(set(left[out])) >= 2, (out, left)
        assert not count or any(0 < done < count for done in left[out]), (out, left)
    for straight in sorted((tmp_path / "straight").iterdir()):
        # Not compared are the tables of the evaluation itself: they have seconds.
        ours = straight.name.startswith(("attack.", "sparse.", "fooled.", "trust.attack."))
        if ours and straight.suffix in (".h5", ".csv"):
            assert straight.read_bytes() == (tmp_path / "killed" / straight.name).read_bytes(), straight.name
    assert AttackStudy.load(tmp_path / "killed" / "attack.h5").complete


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

"""A training killed ten times, also while it writes, and continued ends with the weights of one that never was."""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time

import numpy as np
import pytest
import torch
from killing import Job, answer_of, be_ready_to_fork, run_to_the_end

import deconvviz.studies.training.command
import deconvviz.studies.training.train  # noqa: F401, what the command would import when it runs
from deconvviz.data.decode import encode
from deconvviz.data.pack import pack
from deconvviz.models.weights import read_weights
from deconvviz.results.snapshots import Snapshots

EPOCHS, KILLS, OUT, SNAPSHOTS = 12, 10, "z.pth", "evolution.h5"
JOB = (
    "train zfnet ../store.h5 --with mixup,random-erasing,sparse-connections --input 32 --width 0.06 --fc 400,400 "
    "--batch-size 16 --device cpu --quiet --workers 1"
)
ARGUMENTS = [*JOB.split(), *f"--epochs {EPOCHS} --commit-every 2 -o {OUT} --snapshots {SNAPSHOTS}".split()]
MOMENTS = ("training", "writing the checkpoint", "writing the snapshot")


def progress(folder: pathlib.Path) -> tuple[int, int, list[int]]:
    """Epoch and step of the checkpoint, and the epochs of the snapshots; raises where a file cannot be read."""
    out, snapshots = folder / OUT, folder / SNAPSHOTS
    content = torch.load(out, weights_only=True) if out.exists() else {"epoch": 0, "step": 0}
    kept = Snapshots(snapshots) if snapshots.exists() else None
    epochs = list(kept.epochs) if kept else []
    for epoch in epochs:
        assert kept is not None and kept.weights(epoch)
    return content["epoch"], content["step"], epochs


def killed(folder: pathlib.Path, moment: str, rng: random.Random) -> bool:
    """Start or continue the training and kill it; false where it came to its end before that."""
    job = Job(folder, ARGUMENTS, OUT)
    for _ in range(rng.randint(1, 3)):
        job.commits()
    if moment != "training":
        job.writes(OUT if moment == "writing the checkpoint" else SNAPSHOTS)
    time.sleep(rng.uniform(0, 0.05 if moment == "training" else 0.004))
    return job.kill()


def program(root: pathlib.Path) -> None:
    """Train in `straight`, and in `killed` with kills; print what each kill left, as JSON."""
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    job = Job(root / "straight", ARGUMENTS, OUT)
    while job.runs():
        time.sleep(0.01)
    rng, kills, parts = random.Random(1), list[tuple[int, int, list[int]]](), set[str]()
    folder = root / "killed"
    for attempt in range(5 * KILLS):
        caught = all(any(part.startswith(f".{name}.") for part in parts) for name in (OUT, SNAPSHOTS))
        if len(kills) >= KILLS and caught:
            break
        if killed(folder, MOMENTS[len(kills) % 3], rng):
            kills.append(progress(folder))
            parts |= {path.name for path in folder.iterdir() if path.name.endswith(".part")}  # the next run sweeps them
        else:  # it has finished: begin again
            (folder / OUT).unlink()
            (folder / SNAPSHOTS).unlink()
        assert attempt < 5 * KILLS - 1, "most trainings ended before they could be killed"
    print(json.dumps({"kills": kills, "parts": sorted(parts)}))


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(90):
        path = tmp_path / "images" / "ab"[n % 2] / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(rng.integers(0, 256, (36, 36, 3), np.uint8)))
    pack(tmp_path / "images", tmp_path / "store.h5", progress=False)
    found = answer_of(__file__, tmp_path)
    assert len(found["kills"]) >= KILLS and len({tuple(kill[:2]) for kill in found["kills"]}) >= KILLS // 2, found
    assert any(step > 0 for _, step, _ in found["kills"]), "no kill left an epoch half done"
    for name in (OUT, SNAPSHOTS):
        assert any(part.startswith(f".{name}.") for part in found["parts"]), f"no kill came while {name} was written"

    folder, straight = tmp_path / "killed", tmp_path / "straight"
    run_to_the_end(ARGUMENTS, folder)
    one, two = (read_weights(place / OUT).state for place in (straight, folder))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    ours, theirs = (Snapshots(place / SNAPSHOTS) for place in (straight, folder))
    assert ours.epochs == theirs.epochs == (1, 2, 5, 10, 12) and ours.history == theirs.history
    for epoch in ours.epochs:
        for name, array in ours.weights(epoch).items():
            assert np.array_equal(array, theirs.weights(epoch)[name])


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

"""A look at a generator that is killed while it samples, or later, and continued leaves the files of one that was not.

This file is run as a program: its processes are forks of one that has imported torch.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import pytest
import sklearn.svm  # noqa: F401, as below
from killing import Job, answer_of, be_ready_to_fork

import deconvviz.studies.latent.command
import deconvviz.studies.latent.measure
import deconvviz.studies.latent.page  # noqa: F401, what the command would import when it runs
from deconvviz.results.features import Features

SAMPLES = 800
NETWORKS = """
import torch
from torch import nn
import deconvviz as dv

def generator():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 192), nn.Unflatten(1, (3, 8, 8)), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Tanh())
    return dv.LatentModel(module=module, size=4, categorical=((0, 2),), name="tiny")

def scorer():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    return module, dv.Preprocess(resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3), ("yes", "no")

def parts(images):
    return {"bright": images.mean(1) > 0.5}
"""
NAMED = "latent ../net.py:generator --scorer ../net.py:scorer --scorer-weights none --segment ../net.py:parts"
FEW = f"--samples {SAMPLES} --batch-size 2 --masked 4 --units 1 --rows 1 --steps 2 --axes 1 --device cpu --quiet -o out"
ARGUMENTS = [*NAMED.split(), *FEW.split()]


def killed_after(folder: pathlib.Path, count: int) -> int:
    """Start or continue the command, kill it when more than `count` samples count, and return how many do."""
    job, file = Job(folder, ARGUMENTS, "out/index.html"), folder / "out/data/samples.h5"
    while job.runs() and not (file.exists() and Features(file).done > count):
        time.sleep(0.001)
    assert job.kill(), "the command ended before it could be killed"
    return Features(file).done


def ended(folder: pathlib.Path) -> None:
    """Run the command, or continue it, to its end."""
    job = Job(folder, ARGUMENTS, "out/index.html")
    while job.runs():
        time.sleep(0.01)


def program(root: pathlib.Path) -> None:
    """Run in `straight`, and in `killed` with kills; print how many samples each kill left, as JSON."""
    be_ready_to_fork()
    straight, killed = root / "straight", root / "killed"
    straight.mkdir()
    killed.mkdir()
    ended(straight)
    left = [killed_after(killed, 0)]
    left.append(killed_after(killed, left[0]))
    job = Job(killed, ARGUMENTS, "out/data/views.h5")  # all samples are there; figures and tables are not
    job.commits()
    assert job.kill() and not (killed / "out/index.html").exists()
    ended(killed)
    print(json.dumps(left))


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Return each file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    (tmp_path / "net.py").write_text(NETWORKS)
    left = answer_of(__file__, tmp_path)
    assert 0 < left[0] < left[1] < SAMPLES, left
    straight, killed = files_of(tmp_path / "straight"), files_of(tmp_path / "killed")
    assert len(straight) > 10 and set(straight) == set(killed)
    assert [name for name in straight if straight[name] != killed[name]] == []


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

"""A comparison that is killed at any moment, and continued, has the files of one that never was.

As in test_kill.py, the processes that are killed are forks of one that has imported torch: this file, run as a program.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time

import pytest
import torch
from killing import Job, answer_of, be_ready_to_fork
from torch import nn

import deconvviz as dv
import deconvviz.studies.comparison.command
import deconvviz.studies.comparison.measure
import deconvviz.studies.comparison.page
from deconvviz.data.pack import pack

KILLS = 3
FACTORY = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 5, 5, stride=2), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)), {"resize": 32, "crop": 32}
"""
JOB = (
    "compare ../a.pth ../b.pth ../scenes.h5 --model ../net.py:net -l 1 -l 3 --checks dead,rank --filters 2 -k 3 "
    "--decisions 2 -m gradient --device cpu --quiet --batch-size 2 -o compared"
)
FILES = [
    *("comparing.h5", "findings-after.h5", "findings-before.h5", "mined-after.h5", "mined-before.h5", "responses.h5"),
    "result.h5",
]


# --- the program: one that has imported everything, and its forks


def names_in(folder: pathlib.Path) -> list[str]:
    """The files of the comparison that are there, also those that are being written."""
    data = folder / "compared" / "data"
    return sorted(path.name for path in data.iterdir()) if data.is_dir() else []


def killed(folder: pathlib.Path, rng: random.Random) -> bool:
    """Start or continue the job and kill it after some changes of the folder; false where it came to its end."""
    job, last, changes = Job(folder, JOB.split(), "compared"), names_in(folder), rng.randint(2, 9)
    while job.runs() and changes:
        now = names_in(folder)
        changes -= now != last
        last = now
    time.sleep(rng.choice((0, 0.002, 0.02)))
    return job.kill()


def program(root: pathlib.Path) -> None:
    """Make the files in `straight`, and in `killed` others; print what each kill left, as JSON."""
    deconvviz.studies.comparison.page.write_comparison = lambda *_, **__: "index.html"  # type: ignore[assignment]
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    job = Job(root / "straight", JOB.split(), "compared")
    while job.runs():
        time.sleep(0.001)
    rng, kills, late = random.Random(3), list[list[str]](), 0
    while len(kills) < KILLS:
        if killed(root / "killed", rng):
            kills.append(names_in(root / "killed"))
        else:  # it has finished: begin again with some of it
            late += 1
            assert late < 2 * KILLS, "most processes ended before they could be killed"
            for name in ("result.h5", *rng.sample(FILES[1:-1], 3)):
                (root / "killed" / "compared" / "data" / name).unlink(missing_ok=True)
    last = Job(root / "killed", JOB.split(), "compared")
    while last.runs():
        time.sleep(0.001)
    print(json.dumps(kills))


# --- the test


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    pack(dv.Scenes(24, seed=5), tmp_path / "scenes.h5", progress=False)
    (tmp_path / "net.py").write_text(FACTORY)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        convolutions = nn.Conv2d(3, 5, 5), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU()
        model = nn.Sequential(*convolutions, nn.Identity(), nn.Identity(), nn.Linear(24, 10))
        torch.save(model.state_dict(), tmp_path / f"{name}.pth")
    kills = answer_of(__file__, tmp_path)
    assert len(kills) == KILLS and len({tuple(left) for left in kills}) >= 2, kills
    straight, folder = (tmp_path / name / "compared" / "data" for name in ("straight", "killed"))
    for each in (straight, folder):
        assert sorted(path.name for path in each.iterdir()) == FILES  # nothing half written is left either
    for name in FILES:
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

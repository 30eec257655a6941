"""An atlas whose computing is killed at any moment, and continued, has the files of one that never was.

As in test_kill.py, the processes that are killed are forks of one that has imported torch: this file, run as a program.
The pages, which are made of these files, are left out.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time
import types

import pytest
from killing import Job, answer_of, be_ready_to_fork

import deconvviz as dv
import deconvviz.graph.choose
import deconvviz.studies.atlas.command
from deconvviz.data.pack import pack
from deconvviz.models.load import load_model
from deconvviz.studies.atlas import decisions, occlusion
from deconvviz.studies.mining.result import load_mined  # noqa: F401

KILLS = 10
JOB = "atlas demo ../scenes.h5 -l conv1 -l relu5 --filters 0-5 --top 4 --decisions 4 -m gradient,grad-cam --occlusion"
ARGUMENTS = [*JOB.split(), "--device", "cpu", "--quiet", "--batch-size", "4", "-o", "atlas"]
FILES = ["00-conv1.h5", "01-relu5.h5", "atlas.h5", "decisions.h5", "maxima.h5", "mined.h5", "occlusion.h5", "ranges.h5"]


# --- the program: one that has imported everything, and its forks


def parts(folder: pathlib.Path) -> set[str]:
    """The files that are being written."""
    data = folder / "atlas" / "data"
    return {path.name for path in data.iterdir() if path.name.endswith(".part")} if data.is_dir() else set()


def killed(folder: pathlib.Path, rng: random.Random, seconds: float, writing: bool) -> bool:
    """Start or continue the job and kill it at some moment; false where it came to its end before that."""
    job, begin = Job(folder, ARGUMENTS, "atlas"), time.monotonic()
    wait = rng.uniform(0.1, 0.8) * seconds
    while job.runs() and time.monotonic() - begin < wait:
        time.sleep(0.001)
    known = parts(folder)
    while writing and job.runs() and not parts(folder) - known:
        pass
    return job.kill()


def program(root: pathlib.Path) -> None:
    """Make the files in `straight`, and in `killed` others; print what each kill left, as JSON."""
    site = types.ModuleType("deconvviz.studies.atlas.site.site")
    site.build_site = lambda *_, **__: types.SimpleNamespace(index="index.html")  # type: ignore[attr-defined]
    sys.modules["deconvviz.studies.atlas.site.site"] = site
    occlusion.COMMIT, decisions.COMMIT = 2, 1
    for name in ("straight", "killed"):
        (root / name).mkdir()
    be_ready_to_fork()
    load_model("demo")
    assert len(list(pathlib.Path("/proc/self/task").iterdir())) == 1  # other threads would not survive a fork
    begin, job = time.monotonic(), Job(root / "straight", ARGUMENTS, "atlas")
    while job.runs():
        time.sleep(0.001)
    seconds, rng, kills, late = time.monotonic() - begin, random.Random(0), list[list[str]](), 0
    while len(kills) < KILLS:
        if killed(root / "killed", rng, seconds, writing=len(kills) % 2 == 1):
            data = root / "killed" / "atlas" / "data"
            kills.append(sorted(path.name for path in data.iterdir()) if data.is_dir() else [])
        else:  # it has finished: begin again with some of it, without what all of it is for
            late += 1
            assert late < 2 * KILLS, "most processes ended before they could be killed"
            for name in FILES[:2] + rng.sample(FILES[3:], 2):
                (root / "killed" / "atlas" / "data" / name).unlink(missing_ok=True)
    last = Job(root / "killed", ARGUMENTS, "atlas")
    while last.runs():
        time.sleep(0.001)
    print(json.dumps(kills))


# --- the test


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    pack(dv.Scenes(40, seed=5), tmp_path / "scenes.h5", progress=False)
    kills = answer_of(__file__, tmp_path)
    assert len(kills) == KILLS and len({len(left) for left in kills}) >= 3, kills
    assert any(name.endswith(".part") for left in kills for name in left), "no kill came while a file was being written"
    straight, folder = (tmp_path / name / "atlas" / "data" for name in ("straight", "killed"))
    assert sorted(path.name for path in straight.iterdir()) == FILES
    assert sorted(path.name for path in folder.iterdir()) == FILES  # nothing half written is left either
    for name in FILES:
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

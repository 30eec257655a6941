"""A training of an explainer that is killed at chosen moments goes on as one that never was.

Run as a program, this file trains in forks of itself and kills them.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import sys
import time
from typing import Any

import pytest
from demo_explainers import demo, learn, same_files
from killing import Job, answer_of

from deconvviz.models.checkpoints import read_file

JOBS = ("l-cam-fm", "real-time-masking", "bump")
FILES = ("e.training.pth", "e.json", "e.pth", "e.csv")  # of a commit, in this order
MOVES = (6, 1, 2, 3, 4, 5, 7, 0, 0)  # before which move of a file into place a process is killed; 0: at any moment


class Training(Job):
    """A process that trains an explainer, commits after every step, and may kill itself when it would move a file."""

    def __init__(self, folder: pathlib.Path, name: str, move: int = 0) -> None:
        self.name, self.move = name, move
        super().__init__(folder, [], FILES[0])

    def _work(self) -> int:
        moves, replaced = 0, pathlib.Path.replace

        def counted(path: pathlib.Path, target: Any) -> Any:
            nonlocal moves
            moves += 1
            if moves == self.move:
                os.kill(os.getpid(), signal.SIGKILL)
            return replaced(path, target)

        pathlib.Path.replace = counted  # type: ignore[method-assign, assignment]
        learn(self.name, self.folder / "e.pth", commit_every=1)
        return 0

    def dies(self, rng: random.Random) -> bool:
        """Wait until it kills itself, or kill it; false where it came to its end before that."""
        if self.move:
            return os.WIFSIGNALED(os.waitpid(self.process, 0)[1])
        self.commits()
        time.sleep(rng.uniform(0, 0.05))
        return self.kill()


def program(root: pathlib.Path) -> None:
    """Train each twice, once with kills; print what each kill left, as JSON."""
    demo()
    assert len(list(pathlib.Path("/proc/self/task").iterdir())) == 1  # other threads would not survive a fork
    found: dict[str, Any] = {}
    for name in JOBS:
        straight, folder = root / name / "straight", root / name / "killed"
        straight.mkdir(parents=True)
        folder.mkdir()
        job = Training(straight, name)
        while job.runs():
            time.sleep(0.01)
        rng, kills, parts = random.Random(1), list[tuple[int, int]](), set[str]()
        for move in MOVES:
            died = Training(folder, name, move).dies(rng)
            assert died or not move, f"{name} ended before it could be killed ({move})"  # at any moment: or after it
            state = read_file(folder / FILES[0])
            kills.append((state["phase"], state["step"]))
            parts |= {p.name for p in folder.iterdir() if p.name.endswith(".part")}  # the next run sweeps them
        job = Training(folder, name)
        while job.runs():
            time.sleep(0.01)
        found[name] = {"kills": kills, "parts": sorted(parts)}
    print(json.dumps(found))


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    found = answer_of(__file__, tmp_path)
    for name in JOBS:
        kills = [tuple(kill) for kill in found[name]["kills"]]
        assert len(kills) == len(MOVES) and kills == sorted(kills) and len(set(kills)) >= 6, found
        for file in FILES:
            assert any(part.startswith(f".{file}.") for part in found[name]["parts"]), (file, found)
        same_files(tmp_path / name / "killed" / "e.pth", tmp_path / name / "straight" / "e.pth")


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))

"""Ctrl-C and SIGTERM: a job says what is kept and how to go on, and leaves nothing half written."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest

import deconvviz as dv

pytestmark = pytest.mark.kill


def interrupted(folder: pathlib.Path, arguments: list[str], wait_for: str, number: signal.Signals) -> tuple[int, str]:
    """Run a command until a file is there, send it a signal, and return its exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deconvviz", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if list(folder.glob(wait_for)) or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.splitlines()[-1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("interrupts") / "s.h5"
    dv.pack(dv.Scenes(2000, seed=1), path, progress=False)
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_mining(store: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, code: int) -> None:
    job = ["mine", "demo", str(store), "-l", "relu5", "-o", "m.h5", "--commit-every", "1", "--batch-size", "1"]
    told = (
        "deconvviz: interrupted: what was done is kept in m.h5; run the same command again, and it goes on from there"
    )
    assert interrupted(tmp_path, job, "m.h5", number) == (code, told)
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
    done = dv.load_mined(tmp_path / "m.h5").done
    assert 0 < done < 2000


def test_what_is_written_at_its_end_only(tmp_path: pathlib.Path) -> None:
    """Packing writes one file as a whole: nothing of it stays."""
    code, said = interrupted(tmp_path, ["pack", "scenes:20000:1", "s.h5"], ".s.h5.*", signal.SIGINT)
    assert (code, said) == (130, "deconvviz: interrupted: nothing was kept; run the same command again to begin anew")
    assert not list(tmp_path.iterdir())

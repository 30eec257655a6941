"""Ctrl-C and SIGTERM: a job says what is kept and how to go on, and leaves nothing half written."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import deconvviz as dv

pytestmark = pytest.mark.kill


def interrupted(
    folder: pathlib.Path, arguments: list[str], begun: Callable[[], bool], number: signal.Signals
) -> tuple[int, str]:
    """Run a command until it has begun, send it a signal, and return its exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deconvviz", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )
    while not begun() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # Python loses it where it comes within a weak reference's callback
        process.send_signal(number)
        _, said = process.communicate(timeout=40)
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
    out = tmp_path / "m.h5"
    assert interrupted(tmp_path, job, lambda: out.exists() and dv.load_mined(out).done > 0, number) == (code, told)
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
    assert 0 < dv.load_mined(out).done < 2000


def test_what_is_written_at_its_end_only(tmp_path: pathlib.Path) -> None:
    """Packing writes one file as a whole: nothing of it stays."""
    begun = lambda: any(tmp_path.glob(".s.h5.*"))  # noqa: E731
    code, said = interrupted(tmp_path, ["pack", "scenes:20000:1", "s.h5"], begun, signal.SIGINT)
    assert (code, said) == (130, "deconvviz: interrupted: nothing was kept; run the same command again to begin anew")
    assert not list(tmp_path.iterdir())

"""`probe --fine-tune` killed in the middle of a training and run again ends with the table of one that never was."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

JOB = "probe demo scenes:60:5 -l relu7 --per-class 3 --splits 2 --probes softmax --costs 1 --no-random --fine-tune"
HOW = "--train-epochs 4 --train-batch 4 --device cpu --quiet --workers 1 --features f.h5 -o p.csv"


def started(folder: pathlib.Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deconvviz", *f"{JOB} {HOW}".split()]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.kill
def test_killed_and_run_again(tmp_path: pathlib.Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    both = [started(straight), started(killed)]
    deadline = time.monotonic() + 600
    while not list(killed.glob("f.networks.fine-tuned-3-2.pth")):  # the second training is under way
        assert both[1].poll() is None and time.monotonic() < deadline, both[1].communicate()[1].decode()
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    both[1].communicate()
    assert not (killed / "p.csv").exists() and (killed / "f.networks.h5").exists()
    for process in (both[0], started(killed)):
        errors = process.communicate(timeout=600)[1]
        assert process.returncode == 0, errors.decode()
    assert (killed / "p.csv").read_bytes() == (straight / "p.csv").read_bytes()
    assert {path.name for path in killed.iterdir()} == {"f.h5", "f.networks.h5", "p.csv", "p.png"}

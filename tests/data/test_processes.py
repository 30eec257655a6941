"""Functions in processes: their outcomes, their failures, and that none of them is left."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import worker_tasks

from deconvviz.data import processes
from deconvviz.data.processes import in_processes
from deconvviz.errors import DataError

pytestmark = pytest.mark.slow  # a process takes half a second to begin


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def runs(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked after does not."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_outcomes_and_progress() -> None:
    told: list[int] = []
    outcomes = dict(in_processes(worker_tasks.squared, range(9), 2, told.append))
    assert {task: square for task, (square, _) in outcomes.items()} == {task: task**2 for task in range(9)}
    used = {process for _, process in outcomes.values()}
    assert sum(told) == 27 and len(used) == 2 and os.getpid() not in used
    assert not multiprocessing.active_children()
    assert list(in_processes(worker_tasks.squared, [], 2, told.append)) == []


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("data", DataError, "^told in one line$"),
        ("bug", RuntimeError, "KeyError: 'a bug'"),
        ("killed", DataError, "^a worker process ended by signal 9, as happens where memory runs out; "),
    ],
)
def test_failures(task: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        list(in_processes(worker_tasks.failing, [task], 1, lambda _: None))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("function", [worker_tasks.waiting, worker_tasks.deaf])
def test_closing_ends_those_at_work(function: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 10 if function is worker_tasks.waiting else 0.2)

    def progress(_: int) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt

    # The second of `deaf` is never told of, so that its message comes with the first one of both.
    with pytest.raises(KeyboardInterrupt):
        for _ in in_processes(function, [tmp_path] * 2, 2, progress):
            pass
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) == (
        0 if function is worker_tasks.waiting else 2
    )  # those asked have cleaned up


def test_a_process_that_is_told_to_end_cleans_up(tmp_path: pathlib.Path) -> None:
    told = []

    def progress(count: int) -> None:
        told.append(count)
        os.kill(int(next(tmp_path.iterdir()).name), signal.SIGTERM)

    with pytest.raises(DataError, match="a worker process ended with exit code 0"):
        list(in_processes(worker_tasks.waiting, [tmp_path], 1, progress))
    assert told and not list(tmp_path.iterdir())


SCRIPT = """
import pathlib, sys
import worker_tasks
from deconvviz.data.processes import in_processes
print("once", flush=True)
for _ in in_processes(getattr(worker_tasks, sys.argv[2]), [pathlib.Path(sys.argv[1])] * 2, 2, lambda _: None):
    pass
"""


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_first(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    # A script without `if __name__ == "__main__"`: its processes must not run it again.
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "at").mkdir()
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "at", "deaf" if number == signal.SIGKILL else "waiting"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until(lambda: len(list((tmp_path / "at").iterdir())) == 2)
    workers = [int(path.name) for path in (tmp_path / "at").iterdir()]
    assert all(runs(worker) for worker in workers)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)  # as a terminal sends Ctrl-C: to all of them
    out, err = process.communicate(timeout=60)
    until(lambda: not any(runs(worker) for worker in workers), 5)
    assert out == "once\n"
    if number == signal.SIGINT:
        assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt")
        assert not list((tmp_path / "at").iterdir())

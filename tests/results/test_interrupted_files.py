"""What killed and running processes leave: parts of files, locks, and the last epoch of a training cut short."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.data.memory import InMemoryImages
from deconvviz.errors import DataError
from deconvviz.results.files import atomic, in_use, unreadable
from deconvviz.results.results import Result
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.studies.training.recorder import PAPER_EPOCHS, SnapshotRecorder

Other = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def other() -> Iterator[Other]:
    """`other(program)` runs a program in a process of its own, from its first line of output to the end of the test."""
    running: list[subprocess.Popen[str]] = []

    def run(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout.readline()
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def parts(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


def write(path: pathlib.Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text("whole")


# --- parts of files ---------------------------------------------------------------------------------------------------


def dead_process() -> int:
    """The number of a process that has ended, and that nothing waits for any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_parts_of_dead_processes_are_swept_and_those_of_living_ones_stay(tmp_path: pathlib.Path, other: Other) -> None:
    living, dead = other("input(print('runs', flush=True))").pid, dead_process()
    kept = [f".r.h5.{living}-00ff00ff00ff.part", f".r.h5.{os.getpid()}-00ff00ff00ff.part", ".r.h5.1-0123456789ab.part"]
    foreign = [
        f".s.h5.{dead}-00ff00ff00ff.part",
        f"r.h5.{dead}-00ff00ff00ff.part",
        ".r.h5.notes.part",
        ".r.h5.0123.part",
    ]
    gone = [f".r.h5.{dead}-{end}.part" for end in ("00ff00ff00ff", "ffffffffffff")]
    for name in (*kept, *foreign, *gone):
        (tmp_path / name).write_text("half")
    write(tmp_path / "r.h5")
    assert parts(tmp_path) == sorted(kept + foreign)
    assert (tmp_path / "r.h5").read_text() == "whole"


def test_parts_of_another_users_processes_stay(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask for such a process is not permitted, which says that there is one."""

    def refused(process: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    part = tmp_path / f".r.h5.{dead_process()}-00ff00ff00ff.part"
    part.touch()
    monkeypatch.setattr(os, "kill", refused)
    write(tmp_path / "r.h5")
    assert parts(tmp_path) == [part.name]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the state of a process")
def test_parts_of_processes_that_nobody_waited_for_are_swept(tmp_path: pathlib.Path) -> None:
    """A killed process whose parent has not asked for it yet still has its number, and writes no more."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    part = tmp_path / f".r.h5.{process.pid}-00ff00ff00ff.part"
    part.touch()
    write(tmp_path / "r.h5")
    assert part.exists()
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    write(tmp_path / "r.h5")
    assert not part.exists()
    process.wait()


def test_a_part_that_another_process_is_writing_becomes_its_file(tmp_path: pathlib.Path, other: Other) -> None:
    """Two commands write one file at once: neither breaks the other, and the last one to end has its result there."""
    program = f"""
from deconvviz.results.files import atomic
with atomic({str(tmp_path / "r.h5")!r}) as temporary:
    temporary.write_text("of the other")
    print("begun", flush=True)
    input()
print("done", flush=True)
"""
    process = other(program)
    assert len(parts(tmp_path)) == 1
    write(tmp_path / "r.h5")
    assert (tmp_path / "r.h5").read_text() == "whole" and len(parts(tmp_path)) == 1
    assert process.communicate("\n", timeout=60)[0] == "done\n"
    assert (tmp_path / "r.h5").read_text() == "of the other" and not parts(tmp_path)


def test_what_a_killed_process_was_writing_is_swept_by_the_next(tmp_path: pathlib.Path, other: Other) -> None:
    """Also where the name of the file is a pattern, and where the file is reached by a link."""
    (tmp_path / "r [*].h5").write_text("whole")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "r.h5").symlink_to(tmp_path / "r [*].h5")
    process = other(f"""
from deconvviz.results.files import atomic
with atomic({str(tmp_path / "r [*].h5")!r}) as temporary:
    temporary.write_text("half")
    print("begun", flush=True)
    input()
""")
    assert len(parts(tmp_path)) == 1
    process.kill()
    process.wait()
    assert (tmp_path / "r [*].h5").read_text() == "whole"
    write(tmp_path / "links" / "r.h5")
    assert not parts(tmp_path) and not parts(tmp_path / "links")
    assert (tmp_path / "links" / "r.h5").is_symlink()


def test_files_of_long_names_are_swept_as_well(tmp_path: pathlib.Path) -> None:
    name, dead = f"{'long' * 40}.h5", dead_process()
    (tmp_path / f".{name[:100]}.{dead}-00ff00ff00ff.part").touch()
    write(tmp_path / name)
    assert not parts(tmp_path)


# --- files in use -----------------------------------------------------------------------------------------------------


def store(path: pathlib.Path) -> None:
    pictures = InMemoryImages(np.zeros((3, 9, 9, 3), np.uint8), [0, 0, 0], ("all",))
    dv.pack(pictures, path, progress=False)


def mined(path: pathlib.Path) -> None:
    network = dv.capture(nn.Sequential(nn.Conv2d(3, 2, 3)).eval(), (3, 8, 8))
    pictures = InMemoryImages(np.zeros((3, 9, 9, 3), np.uint8))
    dv.mine(network, pictures, ["0"], k=1, preprocess=dv.Preprocess(8, 8), progress=False).save(path)


def snapshots(path: pathlib.Path) -> None:
    SnapshotRecorder(path, (1,))(1, nn.Conv2d(3, 2, 3))


KINDS: dict[str, tuple[Callable[[pathlib.Path], None], Callable[[pathlib.Path], Any]]] = {
    "store": (store, dv.ImageStore.open),
    "mined": (mined, dv.load_mined),
    "snapshots": (snapshots, Snapshots),
    "result": (lambda path: Result("ablation", 1, {}).save(path), lambda path: Result.load(path, "ablation", 1)),
}


@pytest.mark.parametrize("kind", ["store", "mined", "snapshots", "result"])
def test_a_file_that_another_program_writes_to_is_in_use_and_not_damaged(
    tmp_path: pathlib.Path, other: Other, kind: str
) -> None:
    make, read = KINDS[kind]
    path = tmp_path / "f.h5"
    make(path)
    before = path.read_bytes()
    process = other(f"import h5py; f = h5py.File({str(path)!r}, 'r+'); input(print('open', flush=True))")
    with pytest.raises(DataError, match="is open for writing in another program; close it there and try") as raised:
        read(path)
    told = str(raised.value)
    assert "HDF5_USE_FILE_LOCKING=FALSE" in told and str(path) in told and "\n" not in told
    assert not any(word in told for word in ("damaged", "again:", "pack it", "remove", "make it again"))
    process.kill()
    process.wait()
    path.write_bytes(before)  # HDF5 marks a file as open for writing until it is closed
    read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_readers_do_not_disturb_one_another(tmp_path: pathlib.Path, other: Other, kind: str) -> None:
    make, read = KINDS[kind]
    path = tmp_path / "f.h5"
    make(path)
    before = path.read_bytes()
    other(f"import h5py; f = h5py.File({str(path)!r}, 'r'); input(print('open', flush=True))")
    with h5py.File(path, "r"):
        assert read(path) is not None
    assert path.read_bytes() == before


def test_which_errors_mean_that_a_file_is_in_use() -> None:
    locked = [
        BlockingIOError(11, "Resource temporarily unavailable"),
        OSError("Unable to synchronously open file (unable to lock file, errno = 11)"),
        OSError("unable to lock file, errno = 37, error message = 'No locks available'"),
    ]
    others = [
        OSError("truncated file: eof = 96"),
        OSError(5, "Input/output error"),
        KeyError("format"),
        ValueError("x"),
    ]
    assert [in_use(error) for error in locked + others] == [True] * 3 + [False] * 4
    assert unreadable("a.h5", others[0], "a.h5 is damaged") == "a.h5 is damaged"
    assert unreadable("a.h5", locked[1], "a.h5 is damaged").startswith("a.h5 is open for writing in another program")


def test_a_damaged_file_is_still_called_damaged(tmp_path: pathlib.Path) -> None:
    store(tmp_path / "f.h5")
    (tmp_path / "f.h5").write_bytes((tmp_path / "f.h5").read_bytes()[:900])
    with pytest.raises(DataError, match=r"damaged or truncated") as raised:
        dv.ImageStore.open(tmp_path / "f.h5")
    assert "another program" not in str(raised.value)


# --- the last epoch ---------------------------------------------------------------------------------------------------


def network(value: float) -> nn.Module:
    """A network whose weights tell the epoch."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def recorded(path: pathlib.Path, trained: range, **options: Any) -> Snapshots:
    recorder = SnapshotRecorder(path, **options)
    for epoch in trained:
        recorder(epoch, network(epoch), loss=1.0)
    return Snapshots(path)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 9, 11])
def test_the_last_epoch_is_kept_whenever_a_training_ends(tmp_path: pathlib.Path, last: int) -> None:
    found = recorded(tmp_path / "e.h5", range(1, last + 1))
    wanted = [epoch for epoch in PAPER_EPOCHS if epoch <= last]
    assert found.epochs == tuple(sorted({*wanted, last}))
    assert found.until_next == (None if last in PAPER_EPOCHS else last)
    assert [(found.weights(epoch)["0.weight"] == epoch).all() for epoch in found.epochs] == [True] * len(found.epochs)


def test_only_one_epoch_is_kept_in_passing(tmp_path: pathlib.Path) -> None:
    """The file does not grow by what is kept until the next epoch, and 0 counts as an epoch."""
    sizes, path = [], tmp_path / "e.h5"
    recorder = SnapshotRecorder(path, (5,))
    for epoch in range(4):
        assert recorder(epoch, network(epoch)) is False
        sizes.append(path.stat().st_size)
        assert Snapshots(path).epochs == (epoch,)
    assert max(sizes) - min(sizes) < 1000


def test_the_last_epoch_is_kept_after_a_training_was_continued(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.h5"
    assert recorded(path, range(1, 4), epochs=(1, 6)).epochs == (1, 3)
    assert recorded(path, range(4, 6), epochs=(1, 6), resume=True).epochs == (1, 5)  # 3 was the last one then
    found = recorded(path, range(6, 9), epochs=(1, 6), resume=True)
    assert found.epochs == (1, 6, 8) and len(found.history) == 8
    back = recorded(path, range(4, 5), epochs=(1, 6), resume=True)  # goes back, over what was kept for good
    assert back.epochs == (1, 4) and [row["epoch"] for row in back.history] == [1, 2, 3, 4]
    assert (back.weights(4)["0.weight"] == 4).all()


def test_an_epoch_that_is_wanted_later_is_kept_from_then_on(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.h5"
    assert recorded(path, range(1, 4), epochs=(1,)).until_next == 3
    found = recorded(path, range(3, 5), epochs=(1, 3), resume=True)  # epoch 3 is recorded once more
    assert found.epochs == (1, 3, 4) and found.until_next == 4


def test_epochs_without_weights_keep_what_was_kept_for_good(tmp_path: pathlib.Path) -> None:
    path, tensors = tmp_path / "e.h5", {"w": np.ones(2, np.float32)}
    write_epoch(path, {"epoch": 1}, tensors, {}, {})
    write_epoch(path, {"epoch": 2}, tensors, {}, {}, until_next=True)
    write_epoch(path, {"epoch": 3}, None, {}, {}, until_next=True)
    found = Snapshots(path)
    assert found.epochs == (1,) and found.until_next is None and len(found.history) == 3


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": compiled,
    "DataParallel": nn.DataParallel,
    "DataParallel of a compiled one": lambda model: nn.DataParallel(compiled(model)),
    "a compiled DataParallel": lambda model: compiled(nn.DataParallel(model)),
    "compiled in place": compiled_in_place,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_a_wrapped_network_is_recorded_under_its_own_names(tmp_path: pathlib.Path, wrapper: str) -> None:
    """A training may be continued in another wrapper, or in none."""
    path = tmp_path / "e.h5"
    SnapshotRecorder(path, (1, 2))(1, WRAPPED[wrapper](network(1)))
    SnapshotRecorder(path, (1, 2), resume=True)(2, network(2))
    SnapshotRecorder(path, (1, 2), resume=True)(3, WRAPPED[wrapper](network(3)))
    found = Snapshots(path)
    for epoch in (1, 2, 3):
        model = network(0)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in found.weights(epoch).items()})
        assert (model[0].weight == epoch).all()


def test_a_network_with_a_compiled_part_is_recorded_under_its_own_names(tmp_path: pathlib.Path) -> None:
    model: Any = network(1)
    model[0] = compiled(model[0])
    SnapshotRecorder(tmp_path / "e.h5", (1,))(1, model)
    assert sorted(Snapshots(tmp_path / "e.h5").weights(1)) == sorted(network(0).state_dict())

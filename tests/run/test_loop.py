"""The training loop: stopped at any moment and resumed, a training ends as one that was not stopped."""

from __future__ import annotations

import contextlib
import copy
import pathlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvviz.errors import DataError, TrainingError
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps


class Stop(Exception):
    """What stands for a kill."""


class Bar:
    """A progress bar that remembers how far it went, and what it said last."""

    def __init__(self) -> None:
        self.steps, self.postfix = 0, dict[str, str]()

    def update(self) -> None:
        self.steps += 1

    def set_postfix(self, values: dict[str, str]) -> None:
        self.postfix = values


class CountingTraining:
    """A training whose sums tell which batches it has learned from, and how often.

    Step s of an epoch e measures the sums below on `images(s)` images; a step that is left out, or done twice, changes
    the epoch's means. `saved` is what its last commit wrote. Its event number `stop` raises Stop instead of happening:
    a step, the end of an epoch or a commit.
    """

    def __init__(self, per_epoch: int, saved: dict[str, Any] | None = None, stop: int | None = None) -> None:
        self.per_epoch, self.saved, self.stop, self.events = per_epoch, saved, stop, 0
        self.position, self.ended = Position(), list[Any]()
        self.opened, self.commits = list[tuple[int, int]](), list[int]()
        if saved is not None:
            self.position = copy.deepcopy(saved["position"])
            self.ended, self.commits = list(saved["ended"]), list(saved["commits"])

    def _happens(self) -> None:
        self.events += 1
        if self.events == self.stop:
            raise Stop

    def batches(self, epoch: int, done: int) -> Iterator[tuple[int, int]]:
        self.opened.append((epoch, done))
        for step in range(done, self.per_epoch):
            yield epoch, step

    def step(self, batch: tuple[int, int], epoch: int) -> Measured:
        self._happens()
        assert batch == divmod(self.position.step, self.per_epoch) and batch[0] == epoch
        images = 1 + batch[1] % 3
        return Measured({"loss": 2.0 ** -batch[1] * images, "accuracy": (epoch + batch[1]) % 2}, images)

    def end_epoch(self, epoch: int) -> None:
        self._happens()
        self.ended.append((epoch, self.position.means(), self.position.images))

    def commit(self) -> None:
        self._happens()
        self.commits.append(self.position.step)
        state = {"position": self.position, "ended": self.ended, "commits": self.commits}
        self.saved = copy.deepcopy(state)


def whole(per_epoch: int, total: int, commit_every: int) -> CountingTraining:
    """A training that was never stopped."""
    training = CountingTraining(per_epoch)
    run_steps(training, per_epoch, total, commit_every, Bar())
    return training


def without_seconds(position: Position) -> dict[str, Any]:
    return {name: value for name, value in asdict(position).items() if name != "seconds"}


def test_sums_epochs_and_commits() -> None:
    """Seven steps, three an epoch, a commit after every second one: by hand."""
    bar, training = Bar(), CountingTraining(3)
    run_steps(training, 3, 7, 2, bar)
    images = 1 + 2 + 3
    first = {"loss": (1 * 1 + 0.5 * 2 + 0.25 * 3) / images, "accuracy": (0 + 1 + 0) / images}
    second = {"loss": first["loss"], "accuracy": (1 + 0 + 1) / images}
    assert training.ended[:2] == [(0, first, images), (1, second, images)]
    assert training.ended[2] == (2, {"loss": 1.0, "accuracy": 0.0}, 1)  # the last epoch is cut short
    assert training.commits == [2, 3, 4, 6, 7]
    assert training.opened == [(0, 0), (1, 0), (2, 0)]
    assert bar.steps == 7 and bar.postfix == {"loss": "1.000", "accuracy": "0.000"}
    assert without_seconds(training.position) == {"step": 7, "sums": {}, "images": 0}


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 9), st.data())
@settings(max_examples=200, deadline=None)
def test_stopped_anywhere_and_resumed(per_epoch: int, total: int, commit_every: int, data: st.DataObject) -> None:
    """Stopped at any event, up to three times: the same epochs, sums and commits as without."""
    straight = whole(per_epoch, total, commit_every)
    saved: dict[str, Any] | None = None
    for _ in range(data.draw(st.integers(1, 3), "stops")):
        stopped = CountingTraining(per_epoch, saved, data.draw(st.integers(1, straight.events), "event"))
        with contextlib.suppress(Stop):
            run_steps(stopped, per_epoch, total, commit_every, Bar())
        saved = stopped.saved
    resumed = CountingTraining(per_epoch, saved)
    began, bar = resumed.position.step, Bar()
    run_steps(resumed, per_epoch, total, commit_every, bar)
    assert resumed.ended == straight.ended and resumed.commits == straight.commits
    assert without_seconds(resumed.position) == without_seconds(straight.position)
    assert bar.steps == total - began  # what was committed is not done again


def test_a_finished_training_does_nothing() -> None:
    finished = CountingTraining(3, whole(3, 6, 2).saved)
    run_steps(finished, 3, 6, 2, Bar())
    assert not finished.opened and not finished.events
    run_steps(finished, 3, 8, 2, Bar())  # more steps are added to it
    assert finished.opened == [(2, 0)] and finished.commits == [2, 3, 4, 6, 8]


def test_seconds_add_up_over_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch's seconds are those of its committed steps; what a stop threw away is not counted."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    seconds = list[float]()

    class Timed(CountingTraining):
        def end_epoch(self, epoch: int) -> None:
            super().end_epoch(epoch)
            seconds.append(self.position.seconds)

    stopped = Timed(4, stop=4)  # the events are: step, step, commit, and the third step, which is stopped
    with pytest.raises(Stop):
        run_steps(stopped, 4, 8, 2, Bar())
    assert stopped.saved is not None and stopped.saved["position"].seconds == 10
    run_steps(Timed(4, stopped.saved), 4, 8, 2, Bar())
    assert seconds == [20, 20]  # one reading of the clock at the start, and one at each commit


def test_means_without_images_are_none() -> None:
    assert Position().means() == {}


def test_a_checkpoint_comes_back(tmp_path: pathlib.Path) -> None:
    checkpoint = Checkpoint(tmp_path / "t.pth", "training", 3)
    content = {"step": 4, "weights": {"a": torch.arange(3.0)}, "history": [{"loss": 0.5}]}
    checkpoint.write(content)
    back = checkpoint.read()
    assert (
        back["step"] == 4
        and torch.equal(back["weights"]["a"], torch.arange(3.0))
        and back["history"] == [{"loss": 0.5}]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["t.pth"]


@pytest.mark.parametrize("other", [("explainer", 3), ("training", 2), ("training", 4)])
def test_another_checkpoint_is_refused(other: tuple[str, int], tmp_path: pathlib.Path) -> None:
    Checkpoint(tmp_path / "t.pth", *other).write({"step": 1})
    with pytest.raises(DataError, match=r"t\.pth exists and is no training of this version; choose another"):
        Checkpoint(tmp_path / "t.pth", "training", 3).read()


def test_what_is_no_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("text")
    for name, complaint in (
        ("list.pth", "is no training of this version"),
        ("text.pth", "cannot be read as a training"),
    ):
        with pytest.raises(DataError, match=rf"{name} exists and {complaint}; choose another"):
            Checkpoint(tmp_path / name, "training", 1).read()


def test_a_write_that_fails_keeps_the_last_checkpoint(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "t.pth", "training", 1)
    checkpoint.write({"step": 1})

    def full(content: Any, path: pathlib.Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left"):
        patch.setattr(torch, "save", full)
        checkpoint.write({"step": 2})
    assert checkpoint.read()["step"] == 1 and len(list(tmp_path.iterdir())) == 1


def test_values_that_are_not_finite(tmp_path: pathlib.Path) -> None:
    checkpoint = Checkpoint(tmp_path / "t.pth", "training", 1)
    checkpoint.require_finite([torch.ones(3), torch.zeros(0)], "a weight", "epoch 1, step 2", 0.1)
    for value in (float("nan"), float("inf")):
        with pytest.raises(TrainingError) as error:
            checkpoint.require_finite([torch.ones(3), torch.tensor([1, value])], "a weight", "epoch 1, step 2", 0.1)
        assert str(error.value) == (
            "the training diverged: a weight is not finite in epoch 1, step 2; nothing was written: try a lower "
            "learning rate than 0.1"
        )
    checkpoint.write({})
    with pytest.raises(TrainingError, match=r"t\.pth keeps the last good checkpoint"):
        checkpoint.require_finite([torch.tensor(torch.nan)], "the loss", "epoch 1, step 2", 0.1)


def test_the_line_about_an_epoch() -> None:
    line = report_epoch("epoch 2/5", {"loss": 0.12345, "validation_accuracy": 0.5}, 7.04)
    assert line == "epoch 2/5: loss 0.123, validation accuracy 0.5, 7.0 s"

"""The one training loop: steps over epochs, commits along the way, and a kill that costs only what came since.

A job says what a step does; the loop counts, measures the time, ends the epochs and commits. Nothing in it is random:
a job draws what it needs from the address (seed, phase, epoch, step), so that a training that was killed and resumed
ends with the same weights.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from deconvviz.errors import DataError, ModelError, TrainingError
from deconvviz.graph.computing import computing
from deconvviz.models.checkpoints import read_file
from deconvviz.results.files import atomic


class Measured(NamedTuple):
    """What one step measured.

    Attributes:
        sums: name -> sum over the images of the step, such as {"loss": 4.8}.
        images: how many there were.
    """

    sums: Mapping[str, float]
    images: int


@dataclass
class Position:
    """How far a training has come within one phase.

    Attributes:
        step: steps done since the phase began.
        sums: of the epoch under way, over its images.
        images: of the epoch under way.
        seconds: of the epoch under way.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0

    def add(self, measured: Measured) -> None:
        """Count one more step."""
        for name, total in measured.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.images += measured.images
        self.step += 1

    def means(self) -> dict[str, float]:
        """Return the means over the images of the epoch so far."""
        return {name: total / self.images for name, total in self.sums.items()}

    def begin_epoch(self) -> None:
        """Forget what was measured of the epoch that ended."""
        self.sums, self.images, self.seconds = {}, 0, 0.0


class Training(Protocol):
    """What the loop asks of a training."""

    position: Position

    def batches(self, epoch: int, done: int) -> Iterator[Any]:
        """Yield the batches of an epoch, from 0, without the first `done` ones."""

    def step(self, batch: Any, epoch: int) -> Measured:
        """Learn from one batch; `position.step` tells which step it is."""

    def end_epoch(self, epoch: int) -> None:
        """Note what `position` holds of the epoch that is over, before it is forgotten."""

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically."""


def run_steps(
    training: Training, per_epoch: int, total: int, commit_every: int, bar: Any, precision: str = "fp32"
) -> None:
    """Run a phase from where it stands to its end.

    Args:
        training: the job.
        per_epoch: steps in an epoch.
        total: steps in the phase; the last epoch may be cut short.
        commit_every: steps between commits; an epoch's end is one too.
        bar: a progress bar over the steps.
        precision: of what the steps compute, both ways.
    """
    with computing(precision):
        _run_steps(training, per_epoch, total, commit_every, bar)


def _run_steps(training: Training, per_epoch: int, total: int, commit_every: int, bar: Any) -> None:
    position, began = training.position, time.monotonic()
    while position.step < total:
        epoch, done = divmod(position.step, per_epoch)
        for batch in training.batches(epoch, done):
            position.add(training.step(batch, epoch))
            bar.set_postfix({name: f"{mean:.3f}" for name, mean in list(position.means().items())[:2]})
            bar.update()
            ends = position.step % per_epoch == 0 or position.step == total
            if ends or position.step % commit_every == 0:
                now = time.monotonic()
                position.seconds, began = position.seconds + now - began, now
                if ends:
                    training.end_epoch(epoch)
                    position.begin_epoch()
                training.commit()
            if ends:
                break


@dataclass(frozen=True)
class Checkpoint:
    """The file from which a training resumes.

    Attributes:
        path: of the file.
        kind: the mark by which it is recognised.
        schema: version of its layout.
    """

    path: pathlib.Path
    kind: str
    schema: int

    def read(self) -> dict[str, Any]:
        """Return what the file holds; raises DataError where it is no checkpoint of this kind and version."""
        try:
            content = read_file(self.path)
        except ModelError as error:  # its message speaks of a state dict
            raise DataError(f"{self.path} exists and cannot be read as a training; choose another --out") from error
        fits = isinstance(content, Mapping) and content.get("format") == self.kind
        if not fits or content.get("schema") != self.schema:
            raise DataError(f"{self.path} exists and is no training of this version; choose another --out")
        return dict(content)

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the file atomically; raises DataError where that cannot be done."""
        with atomic(self.path) as temporary:
            torch.save({"format": self.kind, "schema": self.schema, **content}, temporary)

    def require_finite(self, values: Iterable[Tensor], what: str, where: str, rate: float) -> None:
        """Raise TrainingError where a value is not finite, before it could be written.

        Args:
            values: tensors that must be finite.
            what: what they are, such as "the loss".
            where: in the training, such as "epoch 3, step 7".
            rate: the learning rate.
        """
        if all(bool(torch.isfinite(value).all()) for value in values):
            return
        kept = f"{self.path} keeps the last good checkpoint" if self.path.exists() else "nothing was written"
        raise TrainingError(
            f"the training diverged: {what} is not finite in {where}; {kept}: try a lower learning rate than {rate:g}"
        )


def report_epoch(name: str, means: Mapping[str, float], seconds: float) -> str:
    """Return one line about an epoch that is over."""
    listed = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in means.items())
    return f"{name}: {listed}, {seconds:.1f} s"

"""TrainingOptions: how a training runs, apart from what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from deconvviz.data.parallel import cores
from deconvviz.errors import TrainingError, require
from deconvviz.run.options import RunOptions

if TYPE_CHECKING:
    import torch


class TrainingKeywords(TypedDict, total=False):
    """The fields of `TrainingOptions`, as the keyword arguments of `train` and of what calls it."""

    device: torch.device | str
    commit_every: int
    workers: int
    progress: bool
    sources: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a training runs. None of it changes the weights; batch size, precision and seed belong to the recipe.

    Attributes:
        device: where the network is trained, such as "cpu" or "cuda".
        commit_every: number of steps between checkpoints within an epoch; the end of an epoch is always one.
        workers: number of threads that decode images.
        progress: whether progress bars and a line for each epoch are shown on standard error.
        sources: where the model and the images came from, JSON values for the file.

    Raises:
        TrainingError: a number of steps below 1.
        DataError: a number of workers below 1.

    >>> TrainingOptions(workers=4).run.workers
    4
    """

    device: torch.device | str = "cpu"
    commit_every: int = 500
    workers: int = field(default_factory=cores)
    progress: bool = True
    sources: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require(self, TrainingError, commit_every=(self.commit_every >= 1, "at least 1"))
        _ = self.run

    @property
    def run(self) -> RunOptions:
        """The part of these options that every long job has."""
        return RunOptions(workers=self.workers, progress=self.progress)

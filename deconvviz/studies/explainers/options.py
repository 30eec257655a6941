"""ExplainerTrainingOptions: how an explainer is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import Phase
    from deconvviz.types import Ints


class ExplainerTrainingKeywords(RunKeywords, total=False):
    """The fields of `ExplainerTrainingOptions`, as the keyword arguments of `train_explainer`."""

    options: Mapping[str, Any]
    phases: Sequence[Phase]
    outputs: Ints | None
    commit_every: int
    sources: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExplainerTrainingOptions(RunOptions):
    """How an explainer is trained, and how the training runs (the fields of `RunOptions`).

    Of those, `precision` is that of the network's passes; the explainer itself computes in float32. The batch size is
    part of the phases, so that `batch_size` is not used.

    Attributes:
        options: the method's own options, name -> value.
        phases: the stretches of the training; () takes the method's own schedule.
        outputs: int64 [classes], the output that stands for each class of the images. The explainer then learns to
            explain the images' labels. Without it, it explains the network's decisions: the top class of each crop.
        commit_every: number of steps between two checkpoints within an epoch.
        sources: where model and images came from, for the checkpoint; JSON values.

    Raises:
        DataError: an invalid value.

    >>> ExplainerTrainingOptions(options={"area": 2.0}, seed=3).commit_every
    200
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    outputs: Ints | None = None
    commit_every: int = 200
    sources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, DataError, commit_every=(self.commit_every >= 1, "at least 1"))

"""RunOptions: how a job runs, apart from what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict, cast

from deconvviz.choices import PRECISIONS, Precision
from deconvviz.data.parallel import cores
from deconvviz.errors import DataError, require
from deconvviz.progress import progress_bar

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

ON_A_CPU, ON_A_GPU = 16, 64  # images at once: a CPU's caches hold no more, a GPU is busy from here on


class RunKeywords(TypedDict, total=False):
    """The fields of `RunOptions`, as the keyword arguments that every long job takes."""

    batch_size: int | None
    precision: Precision
    workers: int
    seed: int
    progress: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a job runs. None of it changes what is computed, but for `precision` and `seed`.

    Attributes:
        batch_size: images (or changed values) in one pass; None takes 16 on a CPU and 64 on a GPU, or the job's own
            default.
        precision: of forward passes: "fp32", which is never TF32; "tf32", in which a GPU computes faster and keeps 10
            bits of a factor, and which is "fp32" on a CPU; "bf16"; or "fp64". A network that was captured in float64
            stays float64 in "fp32".
        workers: threads that decode images; by default as many as there are processors for this process.
        seed: of everything that is drawn at random.
        progress: whether progress bars are shown on standard error.

    Raises:
        DataError: a batch size or number of workers below 1, a negative seed, another precision.

    >>> RunOptions(batch_size=8).images_at_once("cpu")
    8
    >>> RunOptions().images_at_once("cpu")
    16
    """

    batch_size: int | None = None
    precision: Precision = "fp32"
    workers: int = field(default_factory=cores)
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            batch_size=(self.batch_size is None or self.batch_size >= 1, "at least 1"),
            workers=(self.workers >= 1, "at least 1"),
            seed=(self.seed >= 0, "0 or more"),
            precision=(self.precision in PRECISIONS, " or ".join(PRECISIONS)),
        )

    def images_at_once(self, device: torch.device | str, default: int | None = None) -> int:
        """Return how many images run at once on a device: `batch_size`, else `default`, else 16 or 64."""
        if self.batch_size is not None:
            return self.batch_size
        return default or (ON_A_CPU if str(device).startswith("cpu") else ON_A_GPU)

    def keywords(self) -> RunKeywords:
        """Return these five options as keyword arguments, to hand them on to another job.

        A job may add options of its own in a subclass; those are not handed on.
        """
        return cast(RunKeywords, {name: getattr(self, name) for name in RunKeywords.__annotations__})

    def as_config(self) -> dict[str, Any]:
        """Return the options that a subclass adds, and the seed, as JSON values: what decides a result.

        >>> RunOptions(seed=3).as_config()
        {'seed': 3}
        """
        names = [each.name for each in fields(self) if each.name not in RunKeywords.__annotations__]
        values = {name: getattr(self, name) for name in (*names, "seed")}
        return {
            name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for name, value in values.items()
        }

    def bar(self, unit: str, total: int | None, what: str, done: int = 0) -> tqdm[Any]:
        """Return a progress bar that is updated by hand, shown on standard error where `progress` is set.

        Args:
            unit: what is counted, such as "image".
            total: how many there are; None where that is not known.
            what: the word before the bar, such as "mining".
            done: how many were done before, by a run that was interrupted.
        """
        return progress_bar(total=total, initial=done, unit=unit, desc=what, disable=not self.progress)

"""DissectionOptions: which images are looked at, where a channel's threshold is, and how the job runs."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints


class DissectionKeywords(RunKeywords, total=False):
    """The fields of `DissectionOptions`, as the keyword arguments of `dissect`."""

    quantile: float
    top: int
    limit: int | None
    shard: tuple[int, int] | None
    commit_every: int


@dataclass(frozen=True, kw_only=True)
class DissectionOptions(RunOptions):
    """What `dissect` does, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        quantile: of all values of a channel, over all positions and images; above it a channel counts as firing.
        top: the strongest images of each channel among which a class is looked for; the figure shows the first four.
        limit: take only so many images, spread over the classes and over the store; None takes all.
        shard: (i, n), i from 0: take each n-th image from the i-th on, for the first pass, or for the second where the
            thresholds of all shards are given.
        commit_every: batches between two commits to the file.

    Raises:
        DataError: a value out of its range.

    Source: the quantile of Bau et al. 2017, section 2.2; 20 images are our choice.

    >>> import numpy as np
    >>> DissectionOptions(limit=7, shard=(1, 3)).indices(np.zeros(100))
    array([21, 64])
    """

    quantile: float = 0.995
    top: int = 20
    limit: int | None = None
    shard: tuple[int, int] | None = None
    commit_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            quantile=(0.5 <= self.quantile < 1, "from 0.5 to below 1"),
            top=(self.top >= 4, "at least 4"),
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )
        index, parts = self.shard or (0, 1)
        if not 0 <= index < parts:
            raise DataError(f"shard {index}/{parts} given; expected i/n with i from 0 to n - 1")

    def indices(self, labels: Ints) -> Ints:
        """Return which images are looked at, int64, ascending; labels: int64 [N], -1 where the class is unknown."""
        index, parts = self.shard or (0, 1)
        return spread(labels, self.limit or len(labels))[index::parts]

"""ShardedOptions: which images a job over a store takes, and how often it commits."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints


class ShardedKeywords(RunKeywords, total=False):
    """The fields of `ShardedOptions`, as keyword arguments."""

    limit: int | None
    shard: tuple[int, int] | None
    commit_every: int


@dataclass(frozen=True, kw_only=True)
class ShardedOptions(RunOptions):
    """Which images a job takes, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        limit: take only so many images, spread over the classes and over the store; None takes all.
        shard: (i, n), i from 0: take each n-th image from the i-th on.
        commit_every: batches between two commits to the file.

    Raises:
        DataError: a value out of its range.

    >>> import numpy as np
    >>> ShardedOptions(limit=7, shard=(1, 3)).indices(np.zeros(100))
    array([21, 64])
    """

    limit: int | None = None
    shard: tuple[int, int] | None = None
    commit_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )
        index, parts = self.shard or (0, 1)
        if not 0 <= index < parts:
            raise DataError(f"shard {index}/{parts} given; expected i/n with i from 0 to n - 1")

    def indices(self, labels: Ints) -> Ints:
        """Return which images are taken, int64, ascending; labels: int64 [N], -1 where the class is unknown."""
        index, parts = self.shard or (0, 1)
        return spread(labels, self.limit or len(labels))[index::parts]

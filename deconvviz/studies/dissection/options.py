"""DissectionOptions: which images are looked at, where a channel's threshold is, and how the job runs."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.errors import DataError, require
from deconvviz.run.sharding import ShardedKeywords, ShardedOptions


class DissectionKeywords(ShardedKeywords, total=False):
    """The fields of `DissectionOptions`, as the keyword arguments of `dissect`."""

    quantile: float
    top: int


@dataclass(frozen=True, kw_only=True)
class DissectionOptions(ShardedOptions):
    """What `dissect` does, and how it runs: the attributes of `ShardedOptions` are options too.

    A shard is for the first pass, or for the second where the thresholds of all shards are given.

    Attributes:
        quantile: of all values of a channel, over all positions and images; above it a channel counts as firing.
        top: the strongest images of each channel among which a class is looked for; the figure shows the first four.

    Raises:
        DataError: a value out of its range.

    Source: the quantile of Bau et al. 2017, section 2.2; 20 images are our choice.

    >>> DissectionOptions(quantile=0.99).top
    20
    """

    quantile: float = 0.995
    top: int = 20
    commit_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            quantile=(0.5 <= self.quantile < 1, "from 0.5 to below 1"),
            top=(self.top >= 4, "at least 4"),
        )

"""ComparisonOptions: what is compared of two networks, on which images, and how the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deconvviz.data.truth import Truth
from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints

LIMIT = 1000  # images that are looked at by default


class ComparisonKeywords(RunKeywords, total=False):
    """The fields of `ComparisonOptions`, as the keyword arguments of `compare`."""

    layers: Sequence[str]
    limit: int | None
    checks: Sequence[str] | None
    outputs: Ints | None
    class_names: Sequence[str]
    truth: Truth | None
    method: str
    cam_layer: str | None
    decisions: int
    filters: int
    k: int
    commit_every: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparisonOptions(RunOptions):
    """What is compared, on which images; the attributes of `RunOptions` are options too.

    Attributes:
        layers: names of the layers whose filters are matched; by default up to eight, evenly spread over the depth.
        limit: how many images are looked at, evenly chosen over classes and store; None for all.
        checks: names of the checks of `diagnose` that are made of both networks; empty for all, None for none.
        outputs: int64 [classes of the images], the output that stands for each class, -1 for none; None where unknown.
        class_names: names of the network's outputs; empty where unknown.
        truth: where the objects are in the images, for the checks that need it; None where unknown.
        method: by which method both networks' decisions are explained, a name of `deconvviz cam --list`.
        cam_layer: the layer at which it explains; None for the last with rows and columns.
        decisions: images whose decisions are explained, those first on which the networks differ; 0 for none.
        filters: pairs of filters of each layer whose strongest patches are shown; 0 for none.
        k: patches of each of these filters.
        commit_every: batches between two commits.

    Raises:
        DataError: a value out of its range.

    >>> ComparisonOptions(limit=100, checks=None).filters
    6
    """

    layers: Sequence[str] = ()
    limit: int | None = LIMIT
    checks: Sequence[str] | None = ()
    outputs: Ints | None = None
    class_names: Sequence[str] = ()
    truth: Truth | None = None
    method: str = "grad-cam"
    cam_layer: str | None = None
    decisions: int = 6
    filters: int = 6
    k: int = 9
    commit_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            decisions=(0 <= self.decisions <= 40, "0 to 40"),
            filters=(0 <= self.filters <= 100, "0 to 100"),
            k=(1 <= self.k <= 100, "1 to 100"),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )

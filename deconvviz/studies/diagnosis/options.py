"""DiagnosisOptions: what a diagnosis looks at, what is known about it, and how it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deconvviz.data.truth import Truth
from deconvviz.errors import DataError, require
from deconvviz.results.names import Names
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints

LIMIT = 1000  # images that a diagnosis looks at by default


class DiagnosisKeywords(RunKeywords, total=False):
    """The fields of `DiagnosisOptions`, as the keyword arguments of `diagnose`."""

    layers: Sequence[str]
    limit: int | None
    outputs: Ints | None
    names: Sequence[str]
    truth: Truth | None
    snapshots: Snapshots | None
    concepts: Names


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagnosisOptions(RunOptions):
    """What a diagnosis looks at and what is known about it; the attributes of `RunOptions` are options too.

    Of these, `precision` is that of the responses, and `seed` that of sampled positions and signs.

    Attributes:
        layers: names of the layers to look at; by default every convolution and linear layer after its rectifier,
            except the last one, whose channels are the classes.
        limit: how many images to look at, evenly chosen; None for all.
        outputs: int64 [classes of the images], the output that stands for each class, -1 for none; None where unknown.
        names: names of the network's outputs; empty where unknown.
        truth: where the objects are in the images; None where unknown.
        snapshots: weights of the network during its training; None where there are none.
        concepts: layer -> channel -> what the filter detects, as `results.names.read_names` returns it; findings about
            filters that are blind to the classes tell it.

    Raises:
        DataError: a value out of its range.

    >>> DiagnosisOptions(limit=100, batch_size=8).limit
    100
    """

    layers: Sequence[str] = ()
    limit: int | None = LIMIT
    outputs: Ints | None = None
    names: Sequence[str] = ()
    truth: Truth | None = None
    snapshots: Snapshots | None = None
    concepts: Names = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, DataError, limit=(self.limit is None or self.limit >= 1, "at least 1"))

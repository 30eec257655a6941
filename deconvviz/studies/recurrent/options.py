"""RecurrentOptions: what is measured of a recurrent network, and how the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.recurrent.responses import PARTS


class RecurrentKeywords(RunKeywords, total=False):
    """The fields of `RecurrentOptions`, as the keyword arguments of `recurrent`."""

    properties: Sequence[str]
    carry: bool
    groups: int
    part: str
    k: int
    permutations: int
    chosen: tuple[int, int, int] | None
    threshold: float
    magnitude: bool
    edges: bool
    explained: Sequence[tuple[int, int]] | None
    epsilon: float
    shown: int


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions(RunOptions):
    """What is measured of a recurrent network.

    Attributes:
        properties: names from `properties.PROPERTIES`, or FILE.csv:COLUMN; none for all that vary.
        carry: sequences go on from the states after the one before.
        groups: of tokens and units; 0 for none.
        part: of the expected responses, by which groups are made: "absolute", "positive" or "negative".
        k: passages of each unit.
        permutations: of each property.
        chosen: (sequence, first step, last step) of the range whose units are looked for elsewhere, counted from 0;
            None takes the longest range of at most 40 steps over which the unit is on that tracks a property best.
        threshold: activity from which a unit counts as on.
        magnitude: whether a strongly negative activity counts as on too.
        edges: whether a chosen unit must be off just outside of the range.
        explained: (sequence, step) of outputs that are shared out among the tokens, counted from 0, where step -1 is
            the last one; None for the last step of the first three sequences.
        epsilon: the stabiliser of relevance.
        shown: steps of which the activity of every unit is kept, from the first on, for text coloured by a cell.

    Raises:
        DataError: a value out of its range.
    """

    properties: Sequence[str] = ()
    carry: bool = False
    groups: int = 4
    part: str = "absolute"
    k: int = 5
    permutations: int = 200
    chosen: tuple[int, int, int] | None = None
    threshold: float = 0.3
    magnitude: bool = False
    edges: bool = False
    explained: Sequence[tuple[int, int]] | None = None
    epsilon: float = 1e-3
    shown: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            groups=(self.groups >= 0, "0 or more"),
            part=(self.part in PARTS, " or ".join(PARTS)),
            k=(self.k >= 1, "at least 1 passage"),
            permutations=(self.permutations >= 1, "at least 1"),
            threshold=(self.threshold > 0, "more than 0"),
            epsilon=(self.epsilon > 0, "more than 0"),
            shown=(self.shown >= 1, "at least 1 step"),
        )

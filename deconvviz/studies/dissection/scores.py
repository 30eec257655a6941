"""What `concept_scores` measures: for each layer, concept and class the share of images whose score rises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

ALL = -1  # stands for all classes together
COLUMNS = ("layer", "concept", "class", "images", "score", "score_spread", "chance", "p")


@dataclass(frozen=True, kw_only=True)
class ConceptScore:
    """How often the score of a class rises along the direction of a concept.

    Attributes:
        layer: its name.
        concept: its name.
        class_name: "" for all images together, each with its own class.
        images: of the class.
        score: share of them on which the score rises, a mean over random sets.
        spread: standard deviation of the share over the sets.
        chance: the mean share along directions between random sets.
        p: of the two-sided test between both.
    """

    layer: str
    concept: str
    class_name: str
    images: int
    score: float
    spread: float
    chance: float
    p: float

    def corrected(self, tests: int) -> ConceptScore:
        """Return the score with its p value times a number of tests, at most 1 (Bonferroni)."""
        return replace(self, p=min(self.p * tests, 1.0))


@dataclass(frozen=True, kw_only=True)
class ConceptScores:
    """The scores of all layers, concepts and classes.

    Attributes:
        model: name of the network.
        tests: number of tests for which the p values are corrected.
        scores: in the order of concepts, layers and classes.
    """

    model: str
    tests: int
    scores: tuple[ConceptScore, ...]

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each layer, concept and class; docs/files.md says what its columns are."""
        write_csv(path, "concept scores", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("concept scores", COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for s in self.scores:
            yield s.layer, s.concept, s.class_name, s.images, s.score, s.spread, s.chance, s.p

    def __repr__(self) -> str:
        lines = [f"ConceptScores of {self.model}, {counted(self.tests, 'test')}"]
        for s in sorted(self.scores, key=lambda s: s.p)[:5]:
            what = s.class_name or "all classes"
            lines.append(
                f"  {s.layer}, {s.concept}: rises for {s.score:.0%} of {what} (chance {s.chance:.0%}, p {s.p:.2g})"
            )
        return "\n".join(lines)

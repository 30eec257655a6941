"""What a correspondence study finds: a score for each part and layer beside that of random masks, as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deconvviz.metrics.intervals import standard_error
from deconvviz.notebook import Shown
from deconvviz.results.tables import rows_of, to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike, Pixels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class PartScore:
    """How alike the changes of one layer are when one part is masked.

    Attributes:
        part: its name.
        layer: its name.
        image_sets: int64 [S, n], the indices of the images of each of the S sets.
        distances: float64 [S, n (n - 1) / 2, 1 + R], for each pair of images of a set: the Hamming distance of the
            signs where the part is masked in both, then where both have their r-th random mask. Their mean is the
            score.
        p: the chance that masks at random places score as low as the part's, see `permutation_test`; of this part and
            layer alone, not corrected for the number of tests.
    """

    part: str
    layer: str
    image_sets: Ints
    distances: Floats
    p: float

    @property
    def mean(self) -> float:
        """The part's score: the mean distance; lower is tighter."""
        return float(self.distances[..., 0].mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the score: over the sets, or over the pairs (which share images) of a single set."""
        return _standard_error(self.distances[..., 0])

    @property
    def random_mean(self) -> float:
        """The score of the random masks."""
        return float(self.distances[..., 1:].mean())

    @property
    def random_standard_error(self) -> float:
        """The standard error of that score, over the means of each set's or pair's random masks."""
        return _standard_error(self.distances[..., 1:].mean(2))


@dataclass(frozen=True, kw_only=True)
class Correspondence(Shown, drawn_by="draw_correspondence"):
    """The paper's table 1, with the level of random masks for each part.

    Attributes:
        rows: a score for each part and layer, by part, then by layer.
        examples: part -> uint8 [m + 1, H, W, 3]: up to five images of its first set without it, and the first image
            with a random mask instead.
        config: settings of the run, with the fingerprints of network and images.
    """

    rows: tuple[PartScore, ...]
    examples: Mapping[str, Pixels]
    config: Mapping[str, Any]

    def table(self) -> dict[str, Sequence[Any]]:
        """Return the columns of the table, by name: a row for each part and layer."""
        return {
            "part": [row.part for row in self.rows],
            "layer": [row.layer for row in self.rows],
            "mean": [row.mean for row in self.rows],
            "standard_error": [row.standard_error for row in self.rows],
            "random_mean": [row.random_mean for row in self.rows],
            "random_standard_error": [row.random_standard_error for row in self.rows],
            "p": [row.p for row in self.rows],
            "images": [row.image_sets.size for row in self.rows],
            "sets": [len(row.image_sets) for row in self.rows],
        }

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each part and layer; raises DataError where the file cannot be written."""
        table = self.table()
        write_csv(path, "correspondence", list(table), rows_of(table))

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        table = self.table()
        return to_frame("correspondence", list(table), rows_of(table))

    def __repr__(self) -> str:
        layers = list(dict.fromkeys(row.layer for row in self.rows))
        width = max(len(row.part) for row in self.rows)
        lines = [
            "sign Hamming distance ± standard error, lower is tighter; random masks of equal area; p by permutation",
            " " * width + "  images" + "".join(f"  {layer:34s}" for layer in layers),
            " " * width + "        " + f"  {'masked part':13s} {'random':13s} {'p':6s}" * len(layers),
        ]
        for first in self.rows[:: len(layers)]:
            cells = [
                f"  {_with_error(row.mean, row.standard_error):13s} "
                f"{_with_error(row.random_mean, row.random_standard_error):13s} {row.p:<6.3f}"
                for row in self.rows
                if row.part == first.part
            ]
            lines.append(f"{first.part:{width}s}  {first.image_sets.size:6d}" + "".join(cells))
        return "\n".join(line.rstrip() for line in lines)


def _standard_error(distances: Floats) -> float:
    """Return the standard error of the mean of [S, pairs]: over the sets, over the pairs of a single one."""
    return standard_error(distances.mean(1) if len(distances) > 1 else distances[0])


def _with_error(mean: float, error: float) -> str:
    if math.isnan(error):  # of a single pair
        return f"{mean:.3f}" if mean < 10 else f"{mean:.4g}"
    return f"{mean:.3f}±{error:.3f}" if mean < 10 else f"{mean:.4g}±{error:.2g}"

"""Which place of one image matches which place of another, to a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image_a", "image_b", "row_a", "column_a", "row_b", "column_b", "cosine", "weight")
APART = 0.12  # of the longer side of the maps: numbered matches are at least as far apart in both images


class Match(NamedTuple):
    """A place of the first image and one of the second, each of which matches the other best.

    Attributes:
        a: (row, column) of the first image's place on the maps.
        b: (row, column) of the second image's place.
        cosine: of their channels.
        weight: the product of their channels.
    """

    a: tuple[int, int]
    b: tuple[int, int]
    cosine: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Matches(Shown, drawn_by="draw_matches"):
    """Which place of one image matches which place of another.

    Attributes:
        network: name of the network.
        layer: name of the layer whose channels are compared at each place.
        size: (rows, columns) of its maps.
        names: of the first and the second image of each of N pairs.
        pictures: uint8 [N, 2, H, W, 3], both images as figures show them.
        places: int64 [N, 2, rows * columns], for each place of the first (second) image the place of the second (first)
            one whose channels have the largest cosine with its own; places are counted row by row.
        cosines: float64 [N, 2, rows * columns], these cosines.
        weights: float64 [N, 2, rows * columns], these cosines times the lengths of both places' channels. Places that
            count in the embedding weigh much, a plain background little.
    """

    network: str
    layer: str
    size: tuple[int, int]
    names: tuple[tuple[str, str], ...]
    pictures: Pixels
    places: Ints
    cosines: Floats
    weights: Floats

    def mutual(self, pair: int) -> list[Match]:
        """Return the matches of a pair in which each place matches the other best, the one that weighs most first."""
        there, back = self.places[pair]
        numbers = np.arange(len(there))
        both = numbers[back[there] == numbers]
        strongest = both[np.argsort(-self.weights[pair, 0, both], kind="stable")]
        return [
            Match(
                self._place(int(place)),
                self._place(int(there[place])),
                float(self.cosines[pair, 0, place]),
                float(self.weights[pair, 0, place]),
            )
            for place in strongest
        ]

    def apart(self, pair: int, count: int) -> list[Match]:
        """Return up to `count` of the mutual matches of a pair, those that weigh most and are apart in both images."""
        least, matches = APART * max(self.size), list[Match]()
        for match in self.mutual(pair):
            if len(matches) == count:
                break
            if all(_distance(match.a, other.a) >= least and _distance(match.b, other.b) >= least for other in matches):
                matches.append(match)
        return matches

    def middle(self, place: tuple[int, int]) -> tuple[float, float]:
        """Return the middle (row, column) in pixels of a place (row, column) of the maps."""
        height, width = self.pictures.shape[2:4]
        return (place[0] + 0.5) * height / self.size[0], (place[1] + 0.5) * width / self.size[1]

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each mutual match of each pair; raises DataError where the file cannot be written."""
        write_csv(path, "matches", COLUMNS, self._rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes; raises DataError where pandas is not installed."""
        return to_frame("matches", COLUMNS, self._rows())

    def _rows(self) -> Iterator[Sequence[Any]]:
        for pair, names in enumerate(self.names):
            for match in self.mutual(pair):
                yield [*names, *self.middle(match.a), *self.middle(match.b), match.cosine, match.weight]

    def _place(self, number: int) -> tuple[int, int]:
        return divmod(number, self.size[1])

    def __repr__(self) -> str:
        places = self.size[0] * self.size[1]
        lines = [
            f"  {a} and {b}: {counted(len(matches), 'mutual match', 'mutual matches')} of {places} places"
            + (f", cosine {matches[0].cosine:.3f} of the one that weighs most" if matches else "")
            for (a, b), matches in ((names, self.mutual(pair)) for pair, names in enumerate(self.names[:8]))
        ]
        return "\n".join(
            [f"Matches({counted(len(self.names), 'pair')} of images in {self.network} at {self.layer})", *lines]
        )


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))

"""Mistakes: the images that a network classifies incorrectly, and the confusions that recur."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

MISTAKE_COLUMNS = ("image", "true", "predicted", "p_true", "p_predicted", "overlap", "reading")
# Two maps with at least the first correlation mark the same place, with at most the second one different places (ours).
SAME_PLACE, DIFFERENT_PLACES = 0.8, 0.3


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One image that is classified incorrectly.

    Attributes:
        image: index of the image.
        name: name of the image.
        true: the output that stands for the image's label.
        predicted: the output that the network prefers.
        p_true: probability of `true`.
        p_predicted: probability of `predicted`.
        overlap: correlation of the maps for the two outputs, -1 to 1. It is near 1 where the network sees both classes
            in the same place (two names for nearly the same thing, or an object that looks like another one), and near
            0 or below where it sees them in different places (several objects). It is 0 where a map is constant.

    >>> Mistake(image=0, name="a.png", true=1, predicted=2, p_true=0.1, p_predicted=0.8, overlap=0.9).reading
    'same place'
    """

    image: int
    name: str
    true: int
    predicted: int
    p_true: float
    p_predicted: float
    overlap: float

    @property
    def reading(self) -> str:
        """Where the network sees the two classes: "same place", "in part" the same, or "different places"."""
        if self.overlap >= SAME_PLACE:
            return "same place"
        return "different places" if self.overlap <= DIFFERENT_PLACES else "in part"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A pair of classes that the network confuses.

    Attributes:
        true: name of the class that the images have.
        predicted: name of the class that the network finds instead.
        images: number of such images.
        mean_overlap: mean of their overlaps, see `Mistake`.
    """

    true: str
    predicted: str
    images: int
    mean_overlap: float


@dataclass(frozen=True, kw_only=True)
class Mistakes(Shown, drawn_by="draw_mistakes"):
    """The mistakes among some labelled images.

    Attributes:
        records: one for each image that is classified incorrectly, in the order of the images.
        labelled: number of labelled images that were classified.
        output_names: names of the network's outputs.
        maps: float32 [n, 2, h, w] in 0..1, for the first few records the maps for the true and the predicted class.
        pictures: uint8 [n, h, w, 3], the images of these records as the network saw them.
    """

    records: tuple[Mistake, ...]
    labelled: int
    output_names: tuple[str, ...]
    maps: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2, 1, 1), np.float32))
    pictures: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))

    def confusions(self) -> list[Confusion]:
        """Return the pairs of classes that are confused, the most frequent one first."""
        overlaps: dict[tuple[int, int], list[float]] = {}
        for record in self.records:
            overlaps.setdefault((record.true, record.predicted), []).append(record.overlap)
        return [
            Confusion(
                true=self.output_names[true],
                predicted=self.output_names[predicted],
                images=len(of_pair),
                mean_overlap=float(np.mean(of_pair)),
            )
            for (true, predicted), of_pair in sorted(overlaps.items(), key=lambda item: (-len(item[1]), item[0]))
        ]

    def save_csv(self, images: Pathlike, confusions: Pathlike) -> None:
        """Write two tables: the images that are classified incorrectly, and the pairs of classes that are confused."""
        write_csv(images, "mistakes", MISTAKE_COLUMNS, self._rows())
        pairs = [(pair.true, pair.predicted, pair.images, pair.mean_overlap) for pair in self.confusions()]
        write_csv(confusions, "confusions", ("true", "predicted", "images", "mean_overlap"), pairs)

    def to_frame(self) -> pd.DataFrame:
        """Return the table of images as a data frame; DataError where pandas is not installed."""
        return to_frame("mistakes", MISTAKE_COLUMNS, self._rows())

    def _rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the table of images."""
        names = self.output_names
        return [
            (m.name, names[m.true], names[m.predicted], m.p_true, m.p_predicted, m.overlap, m.reading)
            for m in self.records
        ]

    def __repr__(self) -> str:
        readings = [record.reading for record in self.records]
        said = {"same place": "in the same place", "in part": "in part in the same place"}
        counts = ", ".join(
            f"{said.get(reading, f'in {reading}')} for {readings.count(reading)}"
            for reading in sorted(set(readings), reverse=True)
        )
        places = f"; the network finds the two classes {counts}" if readings else ""
        lines = [f"Mistakes({len(self.records)} of {counted(self.labelled, 'labelled image')}{places})"]
        for pair in self.confusions()[:5]:
            correlation = f"correlation of the two maps {pair.mean_overlap:.2f}"
            lines.append(f"  {pair.true} taken for {pair.predicted}: {counted(pair.images, 'image')}, {correlation}")
        return "\n".join(lines)

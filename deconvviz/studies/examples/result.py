"""What training images say of a decision, and which of them are suspicious."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("row", "rank", "image", "index", "class", "value")
SUSPECT_COLUMNS = ("rank", "image", "index", "class", "predicted", "probability", "self_influence")


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """Some training images that are chosen in one way, the first first.

    Attributes:
        kind: how they are chosen, such as "nearest" or "influence for".
        title: the same in words, for the figure.
        unit: of the values.
        images: int64 [k], indices into the training images.
        labels: int64 [k], the outputs of their classes.
        values: float64 [k], by which they are ordered.
        pictures: uint8 [k, h, w, 3], as the network sees them.
    """

    kind: str
    title: str
    unit: str
    images: Ints
    labels: Ints
    values: Floats
    pictures: Pixels


@dataclass(frozen=True, kw_only=True)
class Examples(Shown, drawn_by="draw_examples"):
    """The training images that explain one decision.

    Attributes:
        name: of the image; "" where it has none.
        picture: uint8 [h, w, 3], the image as the network sees it.
        decided: the output that is explained.
        probability: of that output, in 0..1.
        layer: name of the embedding.
        total: training images that were compared.
        rows: one for each way of choosing.
        image_names: names of all images of the training set.
        names: of the network's outputs; empty where they are unknown.
        notes: what a reader has to know, in whole sentences.
    """

    name: str
    picture: Pixels
    decided: int
    probability: float
    layer: str
    total: int
    rows: tuple[ExampleRow, ...]
    image_names: Sequence[str]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def row(self, kind: str) -> ExampleRow:
        """Return a row by its kind; raises KeyError with the kinds there are."""
        by_kind = {row.kind: row for row in self.rows}
        if kind not in by_kind:
            raise KeyError(f"no row {kind!r}; there are {', '.join(by_kind)}")
        return by_kind[kind]

    def class_name(self, output: int) -> str:
        """Return what an output is called."""
        return name_of(output, self.names)

    def _cells(self) -> Iterator[list[Any]]:
        for row in self.rows:
            for rank, (image, label, value) in enumerate(zip(row.images, row.labels, row.values, strict=True), 1):
                name = self.image_names[int(image)]
                yield [row.kind, rank, name, int(image), self.class_name(int(label)), float(value)]

    def save_csv(self, path: Pathlike) -> None:
        """Write a line for each image of each row; raises DataError where the file cannot be written."""
        write_csv(path, "examples", COLUMNS, self._cells())

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("examples", COLUMNS, self._cells())

    def __repr__(self) -> str:
        what = f"{self.name or 'the image'}: {class_label(self.decided, self.names)}, {100 * self.probability:.1f} %"
        rows = "; ".join(
            f"{row.title}: {self.image_names[int(row.images[0])]} ({row.values[0]:.3g})"
            for row in self.rows
            if len(row.images)
        )
        return f"<Examples of {what}, among {counted(self.total, 'training image')}. {rows}>"


@dataclass(frozen=True, kw_only=True)
class Suspects(Shown, drawn_by="draw_suspects"):
    """Training images by their influence on themselves, the most suspicious first.

    An image with a wrong label pulls the network towards itself more than others do: they are found by hand among the
    first ones.

    Attributes:
        method: how the influence was measured: "tracin", "influence" or "gradient".
        images: int64 [N], indices into the training images.
        labels: int64 [N], the outputs of their classes.
        predicted: int64 [N], the outputs that the network predicts.
        probability: float64 [N], of the label, in 0..1.
        values: float64 [N], self-influence, falling.
        pictures: uint8 [n, h, w, 3], the first ones.
        image_names: names of all images of the training set.
        names: of the network's outputs; empty where they are unknown.
        notes: what a reader has to know, in whole sentences.
    """

    method: str
    images: Ints
    labels: Ints
    predicted: Ints
    probability: Floats
    values: Floats
    pictures: Pixels
    image_names: Sequence[str]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def class_name(self, output: int) -> str:
        """Return what an output is called."""
        return name_of(output, self.names)

    def _cells(self) -> Iterator[list[Any]]:
        for place, image in enumerate(self.images.tolist()):
            label, predicted = (self.class_name(int(outputs[place])) for outputs in (self.labels, self.predicted))
            numbers = float(self.probability[place]), float(self.values[place])
            yield [place + 1, self.image_names[image], image, label, predicted, *numbers]

    def save_csv(self, path: Pathlike) -> None:
        """Write a line for each image, the most suspicious first; raises DataError where it cannot be written."""
        write_csv(path, "suspects", SUSPECT_COLUMNS, self._cells())

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("suspects", SUSPECT_COLUMNS, self._cells())

    def __repr__(self) -> str:
        first = ", ".join(self.image_names[image] for image in self.images[:3].tolist())
        differ = int((self.labels != self.predicted)[:100].sum())
        return (
            f"<Suspects among {counted(len(self.images), 'training image')}, by {self.method}; the first: {first}; of "
            f"the first {min(100, len(self.images))}, {differ} are predicted to be of another class>"
        )


def name_of(output: int, names: Sequence[str]) -> str:
    """Return the name of an output, or its number where it has none."""
    return names[output] if 0 <= output < len(names) else str(output)

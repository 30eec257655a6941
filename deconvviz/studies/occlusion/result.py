"""What `occlude` measures for one image: the values under each window, maps of them, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.cam.window_grid import WindowGrid
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.tables import rows_of, to_frame, write_csv
from deconvviz.types import Array, Floats, Ints, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image", "top", "left", "bottom", "right", "probability", "top_class", "top_probability", "activation")


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the network gives for one picture.

    Attributes:
        probability: of the target.
        top_probability: of the most probable class.
        activation: sum of the watched map.
        top_class: the most probable class, an index of the output.
    """

    probability: float
    top_probability: float
    activation: float
    top_class: int


@dataclass(frozen=True, kw_only=True)
class Occlusion(Shown, drawn_by="draw_occlusion"):
    """One image with a square in each of W windows.

    Attributes:
        config: settings of the run: model, layer, square, stride, fill and so on; "rule" is that of the projection, and
            "why" says in words how it was chosen ("" where it was given).
        name: of the image.
        picture: uint8 [H, W, 3], the picture without the square.
        occluded_picture: uint8 [H, W, 3], the picture with the square in the middle window.
        windows: where the square was put; `windows.places` is (top, left) of each window.
        target: the class that is followed, an index of the output.
        outputs: number of classes.
        channel: the map that is watched.
        whole: what the network gives for the picture without the square.
        probability: float64 [W], of the target under each window.
        top_probability: float64 [W], of the most probable class under each window.
        activation: float64 [W], sum of the watched map under each window.
        top_class: int64 [W], the most probable class under each window.
        projection: float32 [H, W, C], of the map's strongest unit in the picture without the square.
    """

    config: dict[str, Any]
    name: str
    picture: Pixels
    occluded_picture: Pixels
    windows: WindowGrid
    target: int
    outputs: int
    channel: int
    whole: Response
    probability: Floats
    top_probability: Floats
    activation: Floats
    top_class: Ints
    projection: NDArray[np.float32]

    def grid(self, values: Array) -> Array:
        """Return values of the windows, [W], as rows and columns of windows."""
        return self.windows.as_rows(values)

    def averaged(self, values: Floats) -> Floats:
        """Return for each pixel the mean of the values [W] of the windows that cover it, [H, W]; 0 where none does."""
        return self.windows.mean_by_pixel(values)

    def drop(self) -> Floats:
        """Return how far the target's probability falls, averaged over the windows of each pixel, [H, W]."""
        return self.averaged(self.whole.probability - self.probability)

    def table(self, names: Sequence[str] = ()) -> dict[str, Sequence[Any]]:
        """Return the columns of the table, by name: a row for each window.

        Args:
            names: of the outputs; the most probable class is a number where there is not one name for each output.
        """
        top, left, bottom, right = self.windows.boxes.T.tolist()
        classes = self.top_class.tolist()
        columns = (
            [self.name] * len(self.windows),
            *(top, left, bottom, right),
            self.probability.tolist(),
            [names[number] for number in classes] if len(names) == self.outputs else classes,
            self.top_probability.tolist(),
            self.activation.tolist(),
        )
        return dict(zip(COLUMNS, columns, strict=True))

    def to_frame(self, names: Sequence[str] = ()) -> pd.DataFrame:
        """Return the table as a data frame; DataError where pandas is not installed."""
        return to_frame("occlusion", COLUMNS, rows_of(self.table(names)))

    def summary(self, names: Sequence[str] = ()) -> str:
        """Return what was found in one line; `names` are those of the outputs, as in `table`."""
        target = class_label(self.target, names if len(names) == self.outputs else ())
        lowest = int(self.probability.argmin())
        place = tuple(self.windows.places[lowest].tolist())
        return (
            f"Occlusion({self.name}: {counted(len(self.windows), 'window')}; probability of {target} "
            f"{self.whole.probability:.3f}, lowest {self.probability[lowest]:.3f} with the square at {place}; "
            f"map {self.config['layer']}:{self.channel})"
        )

    def __repr__(self) -> str:
        return self.summary()


def save_occlusions(occlusions: Sequence[Occlusion], path: Pathlike, names: Sequence[str] = ()) -> None:
    """Write a table, a CSV file with a row for each image and window.

    Args:
        occlusions: one for each image.
        path: of the file.
        names: of the network's outputs; empty where they are unknown.

    Raises:
        DataError: the file cannot be written.
    """
    tables = [occlusion.table(names) for occlusion in occlusions]
    write_csv(path, "occlusion", COLUMNS, (row for table in tables for row in rows_of(table)))

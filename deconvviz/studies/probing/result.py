"""The accuracy of linear probes of one network's layers, of several networks, and of networks trained as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.probing.settings import ProbeSettings
from deconvviz.types import Floats, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Shown, drawn_by="draw_probing"):
    """How well linear classifiers recognise the classes by the features of each layer.

    Attributes:
        layers: name of a layer -> number of values that a probe is given for an image.
        settings: how the layers are probed.
        chance: accuracy of guessing: one divided by the number of classes.
        accuracy: float64 [layers, probes, per_class, splits], the mean over the classes of the share of a class's test
            images that are classified correctly.
        costs: float64 [layers, probes, per_class, splits], the cost that was chosen.
        tested: number of test images in a split.
        config: the network, the images and the settings, JSON values.
        sources: where the model and the images came from, JSON values.
    """

    layers: dict[str, int]
    settings: ProbeSettings
    chance: float
    accuracy: Floats
    costs: Floats
    tested: int
    config: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> Floats:
        """float64 [layers, probes, per_class], the mean over the splits."""
        return np.asarray(self.accuracy.mean(-1))

    @property
    def deviation(self) -> Floats:
        """float64 [layers, probes, per_class], the standard deviation over the splits (of a sample: n - 1)."""
        return np.asarray(self.accuracy.std(-1, ddof=1))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers in a row of the table: accuracy and deviation for each probe and number of images."""
        names = (f"{name}_{count}" for name in self.settings.probes for count in self.settings.per_class)
        return tuple(column for name in names for column in (name, f"{name}_deviation"))

    def table(self) -> list[list[Any]]:
        """Return a row for each layer: its name, its number of values, then the numbers of `columns`, in fractions."""
        numbers = np.stack([self.mean, self.deviation], -1).reshape(len(self.layers), -1)
        return [[*layer, *map(float, row)] for layer, row in zip(self.layers.items(), numbers, strict=True)]

    def save_csv(self, path: Pathlike) -> None:
        """Write the table, in fractions, as the paper's table 7 has it."""
        write_csv(path, "probes", ("layer", "values", *self.columns), self.table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("probes", ("layer", "values", *self.columns), self.table())

    def __repr__(self) -> str:
        width = max(20, *(len(name) + 1 for name in self.layers))
        head = ["layer".ljust(width), "values".rjust(7), *(name.rjust(14) for name in self.columns[::2])]
        lines = ["".join(head)]
        for name, values, *numbers in self.table():
            cells = (f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(numbers[::2], numbers[1::2], strict=True))
            lines.append("".join([name.ljust(width), str(values).rjust(7), *(cell.rjust(14) for cell in cells)]))
        title = f"Mean accuracy of a class in %, deviation over {counted(self.settings.splits, 'split')}"
        return "\n".join([f"{title} of {self.tested} test images; chance {100 * self.chance:.1f}", *lines])


WHOLE, TRAINED_BY = "all layers", "softmax"  # where a network that was trained as a whole stands in the table
STARTS = {"scratch": "from scratch", "fine-tuned": "fine-tuned"}
"""From where a network was trained as a whole -> how figures and texts say it."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Shown, drawn_by="draw_probing"):
    """The probes of several networks, on the same splits of the same images, and networks trained on these images.

    Attributes:
        by_network: name of a network -> the result of its probes.
        by_start: "scratch" or "fine-tuned" -> float64 [per_class, splits], the accuracy of a network all of whose
            layers were trained on the images of each split, measured as that of the probes; empty where none was.
    """

    by_network: dict[str, ProbeResult]
    by_start: dict[str, Floats] = field(default_factory=dict)

    @property
    def first(self) -> ProbeResult:
        """The result of the first network; layers, settings and splits are those of all of them."""
        return next(iter(self.by_network.values()))

    @property
    def config(self) -> dict[str, Any]:
        """Name of a network -> the configuration of its probes."""
        return {name: result.config for name, result in self.by_network.items()}

    def curve(self, network: str, layer: str, probe: str) -> tuple[Floats, Floats]:
        """Return the accuracy against the number of training images.

        Args:
            network: its name.
            layer: its name.
            probe: "svm" or "softmax".

        Returns:
            Two float64 [per_class]: the means over the splits, and their standard deviations.
        """
        result = self.by_network[network]
        place = list(result.layers).index(layer), result.settings.probes.index(probe)
        return result.mean[place], result.deviation[place]

    def whole_curve(self, start: str) -> tuple[Floats, Floats]:
        """Return mean and deviation of networks trained from a start, as `curve` returns them."""
        accuracy = self.by_start[start]
        return np.asarray(accuracy.mean(-1)), np.asarray(accuracy.std(-1, ddof=1))

    def save_csv(self, path: Pathlike) -> None:
        """Write the tables of all networks one below the other, in fractions.

        Networks that were trained as a whole are rows with the layer "all layers". Their numbers stand in the columns
        of softmax, with which they were trained.
        """
        write_csv(path, "probes", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("probes", *self._table())

    def _table(self) -> tuple[tuple[str, ...], list[list[Any]]]:
        """Return the columns of the table and its rows."""
        rows = [[name, *row] for name, result in self.by_network.items() for row in result.table()]
        columns, counts = list(self.first.columns), self.first.settings.per_class
        softmax = [name for count in counts for name in (f"{TRAINED_BY}_{count}", f"{TRAINED_BY}_{count}_deviation")]
        if self.by_start and softmax[0] not in columns:
            columns += softmax
            rows = [[*row, *[None] * len(softmax)] for row in rows]
        for start in self.by_start:
            pairs = np.stack(self.whole_curve(start), -1).ravel()
            numbers = dict(zip(softmax, map(float, pairs), strict=True))
            rows.append([start, WHOLE, None, *(numbers.get(column) for column in columns)])
        return ("network", "layer", "values", *columns), rows

    def __repr__(self) -> str:
        lines = [f"{name}: {result!r}" for name, result in self.by_network.items()]
        for start in self.by_start:
            pairs = zip(self.first.settings.per_class, *self.whole_curve(start), strict=True)
            listed = ", ".join(f"{count}: {100 * m:.1f} ± {100 * d:.1f}" for count, m, d in pairs)
            lines.append(f"{STARTS.get(start, start)}, all layers trained, by training images of a class: {listed}")
        return "\n".join(lines)

"""The accuracy of linear probes: of one network's layers, and of several networks side by side."""

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


@dataclass(frozen=True, kw_only=True)
class Transfer(Shown, drawn_by="draw_probing"):
    """The probes of several networks, on the same splits of the same images.

    Attributes:
        by_network: name of a network -> the result of its probes.
    """

    by_network: dict[str, ProbeResult]

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

    def save_csv(self, path: Pathlike) -> None:
        """Write the tables of all networks one below the other, in fractions."""
        write_csv(path, "probes", *self._table())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("probes", *self._table())

    def _table(self) -> tuple[tuple[str, ...], list[list[Any]]]:
        """Return the columns of the table and its rows."""
        rows = [[name, *row] for name, result in self.by_network.items() for row in result.table()]
        return ("network", "layer", "values", *self.first.columns), rows

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {result!r}" for name, result in self.by_network.items())

"""FidelityTable: which rule's projections mark the pixels that carry a layer's units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from deconvviz.choices import CONTROLS
from deconvviz.metrics.intervals import area_under, median_interval
from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Pathlike
from deconvviz.words import between, counted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    "layer",
    "rule",
    "share",
    "units",
    "left_out",
    "kept",
    "kept_low",
    "kept_high",
    "left",
    "left_low",
    "left_high",
    "kept_area",
    "kept_area_low",
    "kept_area_high",
    "left_area",
]


class Estimate(NamedTuple):
    """A median with its 95 % interval by the bootstrap over units."""

    median: float
    low: float
    high: float


AUTO_OF = (
    "by these units of these images; grid chooses by other units, of the images of its mined file, and may take another"
)
"""By what the rule that `auto` takes was chosen here."""


@dataclass(frozen=True, kw_only=True)
class LayerFidelity:
    """The fidelity of several rules on units of one layer.

    Attributes:
        layer: name of the layer.
        shares: per cent of the pixels that a unit sees, at which it was measured.
        kept: rule or control -> float64 [units, S], what the strongest pixels bring back of the activation.
        left: rule or control -> float64 [units, S], what remains without them.
        left_out: units that were left out, because their activation is not positive.
        auto: the rule that `--rule auto` would take by these units; on other images or units it may be another.
    """

    layer: str
    shares: tuple[float, ...]
    kept: Mapping[str, Floats]
    left: Mapping[str, Floats]
    left_out: int
    auto: str

    @property
    def units(self) -> int:
        """Number of units that count."""
        return len(next(iter(self.kept.values())))

    def at(self, name: str, share: float, mirror: bool = False) -> Estimate:
        """Return the median over the units of what is kept (or left, with `mirror`) at a share of the pixels."""
        values = (self.left if mirror else self.kept)[name]
        return Estimate(*median_interval(values[:, self.shares.index(share)]))

    def area(self, name: str, mirror: bool = False) -> Estimate:
        """Return the median over the units of the area under the curve, the mean over the shares."""
        values = (self.left if mirror else self.kept)[name]
        return Estimate(*median_interval(area_under(values, self.shares)))

    def best(self) -> str:
        """Return the rule with the largest area, controls apart."""
        return max((name for name in self.kept if name not in CONTROLS), key=lambda name: self.area(name).median)


@dataclass(frozen=True, kw_only=True)
class FidelityTable(Shown, drawn_by="draw_fidelity"):
    """The fidelity of rules on several layers of a network.

    Attributes:
        layers: what was measured, layer by layer.
        config: what decides the result: model, images, settings.
    """

    layers: tuple[LayerFidelity, ...]
    config: Mapping[str, Any]

    @property
    def fill(self) -> str:
        """What stood for pixels that were taken away, "mean" or "blur"."""
        return str(self.config["fill"])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of the table, in the order of COLUMNS; `auto` is marked by a star behind the rule's name."""
        for layer in self.layers:
            for name in layer.kept:
                marked = f"{name}*" if name == layer.auto else name
                areas = (*layer.area(name), layer.area(name, mirror=True).median)
                for share in layer.shares:
                    numbers = (*layer.at(name, share), *layer.at(name, share, mirror=True), *areas)
                    yield (layer.layer, marked, share, layer.units, layer.left_out, *map(float, numbers))

    def save_csv(self, path: Pathlike) -> None:
        """Write the table; raises DataError where that cannot be done."""
        write_csv(path, "fidelity", COLUMNS, self.rows())

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("fidelity", COLUMNS, self.rows())

    def __repr__(self) -> str:
        lines = [
            f"share of the activation that the strongest pixels bring back (fill: {self.fill}); * is what auto takes "
            f"{AUTO_OF}"
        ]
        for layer in self.layers:
            lines.append(
                f"{layer.layer}: {counted(layer.units, 'unit')}" + f", {layer.left_out} left out" * bool(layer.left_out)
            )
            for name in layer.kept:
                cells = "  ".join(f"{share:g} %: {layer.at(name, share).median:5.2f}" for share in layer.shares)
                area = layer.area(name)
                star = "*" if name == layer.auto else " "
                interval = between(area.low, area.high, ".3f")
                lines.append(f"  {name:<17}{star} {cells}   area {area.median:.3f} {interval}")
        return "\n".join(lines)

"""What `evolve` found: filters and layers over the epochs of a training, and the two tables of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

UNIT_COLUMNS = ("layer", "channel", "epoch", "activation", "image", "y", "x", "image_changed")


@dataclass(frozen=True, kw_only=True)
class LayerEvolution:
    """One layer over E epochs, with the F filters that are shown.

    Attributes:
        layer: name of the layer.
        rule: of the projections, one of `choices.RULES`.
        why: in words, how the rule was chosen; "" where it was given.
        channels: int64 [F], the channels of the filters.
        values: float32 [F, E], the strongest activation over the images at each epoch.
        images: int64 [F, E], the image that gave it, an index into the store.
        positions: int64 [F, E, 2], (y, x) of that activation on the layer's map.
        projections: float32 [F, E, h, w, C], each in units of its largest absolute value.
        patches: uint8 [F, E, h, w, 3], the parts of the images that the projections cover.
        top_final: float64 [E], share of the last epoch's top-k images that are in the top k already. It is the mean
            over all channels of the layer that are not dead at the last epoch.
        similarity: float64 [E], cosine between the projections of the same units (the last epoch's strongest) by this
            epoch's weights and by the last epoch's. It is the mean over at most 32 channels.
    """

    layer: str
    rule: str
    why: str
    channels: Ints
    values: NDArray[np.float32]
    images: Ints
    positions: Ints
    projections: NDArray[np.float32]
    patches: Pixels
    top_final: Floats
    similarity: Floats

    @property
    def changed(self) -> Mask:
        """bool [F, E], true where the strongest image differs from that of the epoch before."""
        first = np.zeros((len(self.images), 1), bool)
        return np.concatenate([first, self.images[:, 1:] != self.images[:, :-1]], 1)


@dataclass(frozen=True, kw_only=True)
class Evolution(Shown, drawn_by="draw_evolution"):
    """What `evolve` found.

    Attributes:
        layers: one entry for each layer.
        epochs: the epochs that are shown, ascending.
        history: the metrics of every epoch that was recorded, such as {"epoch": 3, "accuracy": 0.61}.
        names: of the store's images.
        count: number of images that were mined.
        k: images that were mined for each channel.
    """

    layers: tuple[LayerEvolution, ...]
    epochs: tuple[int, ...]
    history: tuple[Mapping[str, float], ...]
    names: tuple[str, ...]
    count: int
    k: int

    def rules(self) -> str:
        """Return by which rule each layer is projected and why, as a sentence for a caption."""
        whys = [f"{layer.layer}: {layer.why}" for layer in self.layers if layer.why]
        if whys:
            return f"Rules, chosen by the weights of epoch {self.epochs[-1]}. {' '.join(whys)}"
        return f"The rule is {', '.join(dict.fromkeys(layer.rule for layer in self.layers))}."

    def settled(self, layer: LayerEvolution, share: float = 0.5) -> tuple[int | None, int | None]:
        """Return from which epoch on a layer is final, by its strongest images and by its projections.

        Args:
            layer: one of `layers`.
            share: how much of the top k has to be final, and how large the cosine of the projections has to be.

        Returns:
            (epoch, epoch): the first ones from which on the two curves stay at `share` or above; None where a curve is
            below it, or not defined, at the last epoch: the layer is dead there, or its projections are zero.
        """
        by_images, by_projections = (self._settled(curve, share) for curve in (layer.top_final, layer.similarity))
        return by_images, by_projections

    def _settled(self, curve: Floats, share: float) -> int | None:
        below = np.flatnonzero(~(curve >= share))
        first = int(below[-1]) + 1 if len(below) else 0
        return self.epochs[first] if first < len(self.epochs) else None

    def save_csv(self, units: Pathlike, layers: Pathlike) -> None:
        """Write two tables: each filter that is shown at each epoch, and the convergence of each layer at each epoch,
        with the rule of its projections.

        Args:
            units: path of the first table.
            layers: path of the second table.

        Raises:
            DataError: a file cannot be written.
        """
        write_csv(units, "evolution", UNIT_COLUMNS, self._units())
        curves = [
            (layer.layer, epoch, float(layer.top_final[n]), float(layer.similarity[n]), layer.rule)
            for layer in self.layers
            for n, epoch in enumerate(self.epochs)
        ]
        names = ("layer", "epoch", f"top{self.k}_already_final", "projection_similarity", "rule")
        write_csv(layers, "evolution of layers", names, curves)

    def to_frame(self) -> pd.DataFrame:
        """Return the table of filters as a data frame; DataError where pandas is not installed."""
        return to_frame("evolution", UNIT_COLUMNS, self._units())

    def _units(self) -> list[tuple[Any, ...]]:
        """Return the rows of the table of filters."""
        return [
            (
                layer.layer,
                int(channel),
                epoch,
                float(layer.values[f, n]),
                self.names[layer.images[f, n]],
                *map(int, layer.positions[f, n]),
                int(layer.changed[f, n]),
            )
            for layer in self.layers
            for f, channel in enumerate(layer.channels)
            for n, epoch in enumerate(self.epochs)
        ]

    def __repr__(self) -> str:
        lines = [f"Evolution over epochs {', '.join(map(str, self.epochs))} on {counted(self.count, 'image')}"]
        for layer in self.layers:
            by_images, by_projections = ("none" if epoch is None else epoch for epoch in self.settled(layer))
            lines.append(
                f"  {layer.layer}: half of its top {self.k} final from epoch {by_images}, "
                f"projections from {by_projections}"
            )
        return "\n".join(lines)

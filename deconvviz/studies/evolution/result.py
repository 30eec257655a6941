"""What `evolve` found, and its tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv


@dataclass(frozen=True)
class LayerEvolution:
    """One layer over E epochs, of F filters shown.

    Attributes:
        layer: its name; channels: int64 [F].
        values: float32 [F, E], the strongest activation over the images at each epoch.
        images: int64 [F, E], the image that gave it; positions: int64 [F, E, 2], (y, x) on the map.
        projections: float32 [F, E, h, w, C], each in units of its largest absolute value.
        patches: uint8 [F, E, h, w, 3].
        top_final: float64 [E], share of the last epoch's top-k images that are in the top k already, mean over all
            channels that live at the last epoch; similarity: float64 [E], cosine between the projections of the same
            units (the last epoch's strongest) by this epoch's weights and by the last's, mean over 32 channels.
    """

    layer: str
    channels: NDArray[np.int64]
    values: NDArray[np.float32]
    images: NDArray[np.int64]
    positions: NDArray[np.int64]
    projections: NDArray[np.float32]
    patches: NDArray[np.uint8]
    top_final: NDArray[np.float64]
    similarity: NDArray[np.float64]

    @property
    def changed(self) -> NDArray[np.bool_]:
        """bool [F, E], true where the strongest image is another one than at the epoch before."""
        first = np.zeros((len(self.images), 1), bool)
        return np.concatenate([first, self.images[:, 1:] != self.images[:, :-1]], 1)


@dataclass(frozen=True)
class Evolution:
    """What `evolve` found: a `LayerEvolution` each layer, over `epochs`; `names` are the store's."""

    layers: tuple[LayerEvolution, ...]
    epochs: tuple[int, ...]
    history: tuple[dict[str, float], ...]
    names: tuple[str, ...]
    count: int
    k: int

    def settled(self, layer: LayerEvolution, share: float = 0.5) -> tuple[int, int]:
        """Return the first epochs from which on `share` of the top k, and of the projections, are final."""
        found = []
        for curve in (layer.top_final, layer.similarity):
            below = np.flatnonzero(curve < share)
            found.append(self.epochs[int(below[-1]) + 1 if len(below) else 0])
        return found[0], found[1]

    def save_csv(self, units: Pathlike, layers: Pathlike) -> None:
        """Write two tables: each unit shown at each epoch, and each layer's convergence at each epoch."""
        rows = [
            (
                one.layer,
                int(c),
                e,
                float(one.values[f, n]),
                self.names[one.images[f, n]],
                *map(int, one.positions[f, n]),
                int(one.changed[f, n]),
            )
            for one in self.layers
            for f, c in enumerate(one.channels)
            for n, e in enumerate(self.epochs)
        ]
        write_csv(units, ("layer", "channel", "epoch", "activation", "image", "y", "x", "image_changed"), rows)
        curves = [
            (one.layer, e, float(one.top_final[n]), float(one.similarity[n]))
            for one in self.layers
            for n, e in enumerate(self.epochs)
        ]
        write_csv(layers, ("layer", "epoch", f"top{self.k}_already_final", "projection_similarity"), curves)

    def __repr__(self) -> str:
        lines = [f"Evolution over epochs {', '.join(map(str, self.epochs))} on {self.count} images"]
        for layer in self.layers:
            top, projection = self.settled(layer)
            lines.append(
                f"  {layer.layer}: half of its top {self.k} final from epoch {top}, projections from {projection}"
            )
        return "\n".join(lines)

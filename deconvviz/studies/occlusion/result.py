"""What `occlude` found for one image: values under each window, and maps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.cam.occluder import Occluder
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv

Floats = NDArray[np.float64]


class Panels(NamedTuple):
    """What the unoccluded image gives: the target's probability, the best one, the map's sum, the best class."""

    probability: float
    top_probability: float
    activation: float
    top: int


@dataclass(frozen=True)
class Occlusion:
    """One image under every window.

    Attributes:
        config: of the run; name: of the image; picture: uint8 [H, W, 3], unoccluded, and `shown` with an occluder.
        occluder: its `places` are the windows, [W, 2], its `grid` their rows and columns.
        target: the output followed; outputs: how many there are; channel: the map watched.
        whole: what the unoccluded image gives.
        probability, top_probability, activation: float64 [W], of the target, of the most probable class, and the sum of
            the map; top: int64 [W], the most probable class.
        projection: float32 [H, W, C], of the map's strongest unit in the unoccluded image.
    """

    config: dict[str, Any]
    name: str
    picture: NDArray[np.uint8]
    occluder: Occluder
    target: int
    outputs: int
    channel: int
    whole: Panels
    probability: Floats
    top_probability: Floats
    activation: Floats
    top: NDArray[np.int64]
    projection: NDArray[np.float32]
    shown: NDArray[np.uint8]

    def grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the windows, [W], as rows and columns of windows."""
        return values.reshape(*(len(one) for one in self.occluder.grid))

    def averaged(self, values: Floats) -> Floats:
        """Return for each pixel the mean of the values [W] of the windows that cover it, [H, W]."""
        found: Floats = self.occluder.averaged(torch.from_numpy(values)[None])[0].numpy()
        return found

    def drop(self) -> Floats:
        """Return how far the target's probability falls, averaged over the windows of each pixel, [H, W]."""
        return self.averaged(self.whole.probability - self.probability)

    def __repr__(self) -> str:
        worst = int(self.probability.argmin())
        at = tuple(int(one) for one in self.occluder.places[worst])
        return (
            f"Occlusion({self.name}: {len(self.probability)} windows; p of output {self.target} "
            f"{self.whole.probability:.3f}, least {self.probability[worst]:.3f} at {at}; "
            f"{self.config['layer']}:{self.channel})"
        )


def save_occlusions(found: Sequence[Occlusion], path: Pathlike, names: Sequence[str] = ()) -> None:
    """Write a table with a row for each image and window; names: of the outputs."""
    head = ("image", "top", "left", "bottom", "right", "probability", "top_class", "top_probability", "activation")
    rows = []
    for one in found:
        height, width = one.occluder.square
        for n, (top, left) in enumerate(one.occluder.places.tolist()):
            best = int(one.top[n])
            shown = names[best] if len(names) == one.outputs else best
            values = (float(one.probability[n]), shown, float(one.top_probability[n]), float(one.activation[n]))
            rows.append((one.name, top, left, top + height, left + width, *values))
    write_csv(path, head, rows)

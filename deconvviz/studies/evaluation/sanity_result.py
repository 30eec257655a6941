"""SanityCheck: how similar a method's maps stay while weights are randomised, or where labels were permuted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Pathlike

if TYPE_CHECKING:
    import pandas as pd

PERMUTED = "permuted labels"  # what stands for a layer where not weights but labels are random
SIMILARITIES = ("spearman", "ssim", "hog")
DISSIMILAR = 0.5  # mean rank correlation up to which maps count as dissimilar; our choice, the paper has no threshold


@dataclass(frozen=True, kw_only=True)
class SanityCheck(Shown, drawn_by="draw_sanity"):
    """How similar the maps of N images stay while the weights of L layers are randomised.

    Attributes:
        randomisation: "cascading" (the layers are randomised from the last one on, and stay so), "independent" (one
            layer at a time) or "labels" (the network was trained on permuted labels).
        layers: names of the layers in the order in which they are randomised; "permuted labels" alone for labels.
        similarity: "spearman", "ssim" and "hog" -> float64 [L, N], 1 for equal maps.

    >>> import numpy as np
    >>> values = {name: np.array([[0.8, 0.6], [0.1, 0.3]]) for name in ("spearman", "ssim", "hog")}
    >>> SanityCheck(randomisation="cascading", layers=("fc", "conv"), similarity=values)
    Sanity check, cascading: passes
      fc: spearman 0.70, ssim 0.70, hog 0.70
      conv: spearman 0.20, ssim 0.20, hog 0.20
    """

    randomisation: str
    layers: tuple[str, ...]
    similarity: dict[str, Floats]

    def passes(self, most: float = DISSIMILAR) -> bool:
        """Return whether the maps after the last layer are no longer similar to those of the trained network.

        Args:
            most: mean rank correlation up to which maps count as dissimilar.
        """
        return float(self.similarity["spearman"][-1].mean()) <= most

    def means(self) -> Iterator[tuple[str, list[float]]]:
        """Yield each layer with the means of SIMILARITIES over the images."""
        for number, layer in enumerate(self.layers):
            yield layer, [float(self.similarity[name][number].mean()) for name in SIMILARITIES]

    def save_csv(self, path: Pathlike) -> None:
        """Write the means over the images: a row for each layer, a column for each similarity."""
        write_csv(path, "sanity", ("layer", *SIMILARITIES), [(layer, *means) for layer, means in self.means()])

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("sanity", ("layer", *SIMILARITIES), [(layer, *means) for layer, means in self.means()])

    def __repr__(self) -> str:
        lines = [f"Sanity check, {self.randomisation}: {'passes' if self.passes() else 'FAILS'}"]
        for layer, means in self.means():
            values = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(SIMILARITIES, means, strict=True))
            lines.append(f"  {layer}: {values}")
        return "\n".join(lines)


def save_sanity_checks(checks: Mapping[str, SanityCheck], path: Pathlike) -> None:
    """Write the checks of several methods as one table: a row for each method and layer, the means over the images."""
    rows = [
        (method, check.randomisation, layer, *means)
        for method, check in checks.items()
        for layer, means in check.means()
    ]
    write_csv(path, "sanity", ("method", "how", "layer", *SIMILARITIES), rows)

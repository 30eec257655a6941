"""The sanity check: does a method's map change when the network's weights are randomised, layer by layer?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconvviz.cam.explain import ConstantMapWarning, cam
from deconvviz.graph.network import Network
from deconvviz.metrics import hog_similarity, randomised, spearman, ssim
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv

MEASURES = {"spearman": spearman, "ssim": ssim, "hog": hog_similarity}
Explain = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Sanity:
    """How alike maps stay while weights are randomised.

    Attributes:
        how: "cascading" (from the last layer down, all of them so far) or "independent" (one at a time).
        layers: the L layers, in the order in which they were randomised.
        similarity: measure -> float64 [L, N], 1 for the same map.
    """

    how: str
    layers: tuple[str, ...]
    similarity: dict[str, NDArray[np.float64]]

    def passes(self, most: float = 0.5) -> bool:
        """Whether the maps of the last step (cascading: of a wholly random network) are unlike the first ones.

        most: the mean rank correlation that is still unlike; a threshold of this package, the paper gives none.
        """
        return float(self.similarity["spearman"][-1].mean()) <= most

    def save_csv(self, path: Pathlike) -> None:
        """Write the means over the images: a row for each layer, a column for each measure."""
        rows = [(name, *(float(self.similarity[m][n].mean()) for m in MEASURES)) for n, name in enumerate(self.layers)]
        write_csv(path, ("layer", *MEASURES), rows)

    def __repr__(self) -> str:
        lines = [f"Sanity check, {self.how}: {'passes' if self.passes() else 'FAILS'}"]
        for n, name in enumerate(self.layers):
            shown = ", ".join(f"{m} {values[n].mean():.2f}" for m, values in self.similarity.items())
            lines.append(f"  {name}: {shown}")
        return "\n".join(lines)


def explained_by(name: str, network: Network, layers: Sequence[str] = (), **options: Any) -> Explain:
    """Return what `sanity_check` asks for: maps by a method, of a captured network with a model's weights."""

    def explain(model: nn.Module, x: Tensor) -> Tensor:
        weights = {key: value for key, value in model.state_dict().items() if key in network.tensors}
        changed = network.replaced(network.graph, {**network.tensors, **weights})
        with warnings.catch_warnings():  # the maps of a random network may well be constant
            warnings.simplefilter("ignore", ConstantMapWarning)
            return cam(name, changed, layers, **options)(x)

    return explain


def save_sanity(found: Mapping[str, Sanity], path: Pathlike) -> None:
    """Write methods' checks as one table: a row for each method and layer, the means over the images."""
    rows = [
        (method, one.how, name, *(float(one.similarity[m][n].mean()) for m in MEASURES))
        for method, one in found.items()
        for n, name in enumerate(one.layers)
    ]
    write_csv(path, ("method", "how", "layer", *MEASURES), rows)


def sanity_check(explain: Explain, model: nn.Module, x: Tensor, how: str = "cascading", seed: int = 0) -> Sanity:
    """Randomise a network step by step and compare its maps with those of the trained one.

    Args:
        explain: makes maps [N, H, W] in 0..1 of a model and images, such as explained_by("grad-cam", network,
            ["layer4"]), or any function of your own. The randomised network's own top
            class is what a method then explains, as in the paper's code.
        model: the trained network; it is left as it is.
        x: images [N, C, H, W].
        how: "cascading" or "independent".

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.
    """
    before = explain(model, x).cpu()
    layers: list[str] = []
    found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for name, changed in randomised(model, how, seed):
        maps = explain(changed.eval(), x).cpu()
        layers.append(name)
        for measure, alike in MEASURES.items():
            found[measure].append(alike(before, maps))
    return Sanity(how, tuple(layers), {name: torch.stack(values).numpy() for name, values in found.items()})

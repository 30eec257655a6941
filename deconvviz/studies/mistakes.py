"""What a network gets wrong: where it looked for the right class and for the wrong one, and which confusions recur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.cam.explain import Explainer
from deconvviz.data.files import Pathlike
from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.tables import write_csv
from deconvviz.errors import DataError
from deconvviz.graph.network import Network


@dataclass(frozen=True)
class Mistake:
    """One image that was named wrongly.

    image: index into the store; true, predicted: classes, with their probabilities; overlap: the correlation of the
    maps for the two, near 1 where both classes are found in the same place (near-synonyms, or one object that looks
    like another), near 0 or below where they are found in different ones (several objects).
    """

    image: int
    name: str
    true: int
    predicted: int
    p_true: float
    p_predicted: float
    overlap: float


@dataclass(frozen=True)
class Mistakes:
    """All of them, over `count` labelled images, and their confusions."""

    found: tuple[Mistake, ...]
    count: int
    classes: tuple[str, ...]

    def confusions(self) -> list[tuple[str, str, int, float]]:
        """Return (true, predicted, how often, mean overlap) of each pair, the most frequent first."""
        pairs: dict[tuple[int, int], list[float]] = {}
        for one in self.found:
            pairs.setdefault((one.true, one.predicted), []).append(one.overlap)
        ordered = sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(self.classes[a], self.classes[b], len(v), float(np.mean(v))) for (a, b), v in ordered]

    def save_csv(self, images: Pathlike, confusions: Pathlike) -> None:
        """Write two tables: the images, and the pairs of classes that recur."""
        rows = [
            (m.name, self.classes[m.true], self.classes[m.predicted], m.p_true, m.p_predicted, m.overlap)
            for m in self.found
        ]
        write_csv(images, ("image", "true", "predicted", "p_true", "p_predicted", "overlap"), rows)
        write_csv(confusions, ("true", "predicted", "images", "mean_overlap"), self.confusions())

    def __repr__(self) -> str:
        worst = "".join(f"\n  {a} taken for {b}: {n} (overlap {o:.2f})" for a, b, n, o in self.confusions()[:5])
        return f"Mistakes({len(self.found)} of {self.count} labelled images){worst}"


def mistakes(
    network: Network,
    store: ImageStore,
    explainer: Explainer,
    preprocess: Preprocess,
    images: Sequence[int] | NDArray[np.int64] | None = None,
    chunk: int = 16,
) -> Mistakes:
    """Explain every wrongly named image for its true class and for the predicted one.

    images: which of the store; all by default. Raises DataError where the store's classes are not the outputs.

    Source: the error analysis of Gkartzonika et al. 2022 (L-CAM), arXiv 2209.11189.
    """
    chosen = np.arange(len(store)) if images is None else np.asarray(images)
    chosen = chosen[store.labels[chosen] >= 0]
    found: list[Mistake] = []
    for start in range(0, len(chosen), chunk):
        part = chosen[start : start + chunk]
        pictures = np.stack([preprocess.picture(store[int(i)][0]) for i in part])
        x = preprocess.tensor(pictures, network.device, network.dtype)
        with torch.no_grad():
            shares = torch.softmax(network(x).float(), 1).cpu()
        if shares.shape[1] != len(store.classes):
            raise DataError(
                f"{store.path} has {len(store.classes)} classes, {network.name} {shares.shape[1]} outputs; mistakes "
                "can be told only where the classes are the outputs, in their order"
            )
        labels, best = torch.from_numpy(store.labels[part].copy()), shares.argmax(1)
        wrong = (labels != best).nonzero().flatten()
        if len(wrong):
            true, predicted = (explainer(x[wrong], classes[wrong].tolist()).cpu() for classes in (labels, best))
            for n, row in enumerate(wrong.tolist()):
                a, b, index = int(labels[row]), int(best[row]), int(part[row])
                p = (float(shares[row, a]), float(shares[row, b]))
                found.append(Mistake(index, store.names[index], a, b, *p, _correlation(true[n], predicted[n])))
    return Mistakes(tuple(found), len(chosen), tuple(store.classes))


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    one, two = (m.double().flatten() - m.double().mean() for m in (a, b))
    return float(one @ two / (one.norm() * two.norm()).clamp(min=1e-300))

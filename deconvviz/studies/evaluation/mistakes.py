"""What a network gets wrong: where it looked for the right class and for the wrong one, and which confusions recur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.cam.explain import Explainer
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv

SAME, DIFFERENT = 0.8, 0.3  # correlations from which on maps are in the same place, and below which they are not
SHOWN = 8  # mistakes whose maps are kept for a figure


@dataclass(frozen=True)
class Mistake:
    """One image that was named wrongly.

    image: its index; true, predicted: outputs, with their probabilities; overlap: the correlation of the
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

    @property
    def reading(self) -> str:
        """What the overlap says: one thing under two names, or two things."""
        if self.overlap >= SAME:
            return "same place"
        return "different places" if self.overlap <= DIFFERENT else "in part"


@dataclass(frozen=True)
class Mistakes:
    """All of them, over `count` labelled images, and their confusions.

    names: of the outputs. maps: float32 [n, 2, h, w], for the first few mistakes, of the true and the predicted class.
    """

    found: tuple[Mistake, ...]
    count: int
    names: tuple[str, ...]
    maps: NDArray[np.float32]

    def confusions(self) -> list[tuple[str, str, int, float]]:
        """Return (true, predicted, how often, mean overlap) of each pair, the most frequent first."""
        pairs: dict[tuple[int, int], list[float]] = {}
        for one in self.found:
            pairs.setdefault((one.true, one.predicted), []).append(one.overlap)
        ordered = sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(self.names[a], self.names[b], len(v), float(np.mean(v))) for (a, b), v in ordered]

    def save_csv(self, images: Pathlike, confusions: Pathlike) -> None:
        """Write two tables: the images, and the pairs of classes that recur."""
        rows = [
            (m.name, self.names[m.true], self.names[m.predicted], m.p_true, m.p_predicted, m.overlap, m.reading)
            for m in self.found
        ]
        write_csv(images, ("image", "true", "predicted", "p_true", "p_predicted", "overlap", "reading"), rows)
        write_csv(confusions, ("true", "predicted", "images", "mean_overlap"), self.confusions())

    def __repr__(self) -> str:
        worst = "".join(f"\n  {a} taken for {b}: {n} (overlap {o:.2f})" for a, b, n, o in self.confusions()[:5])
        places = [m.reading for m in self.found]
        told = "; ".join(
            f"{reading} {places.count(reading)}" for reading in dict.fromkeys(sorted(places, reverse=True))
        )
        shown = f"; both classes found in: {told}" if places else ""
        return f"Mistakes({len(self.found)} of {self.count} labelled images{shown}){worst}"


def mistakes(
    network: Network,
    images: Images,
    explainer: Explainer,
    preprocess: Preprocess,
    outputs: NDArray[np.int64],
    names: Sequence[str] = (),
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    chunk: int = 16,
) -> Mistakes:
    """Explain every wrongly named image for its true class and for the predicted one.

    Args:
        outputs: int64 [classes], the output that stands for each class of the images; see `models.labels.outputs_of`.
        names: of the network's outputs; without them an output has its class's name, or its number.
        indices: which images; all by default.

    Source: the error analysis of Gkartzonika et al. 2022 (L-CAM), arXiv 2209.11189.
    """
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices)
    chosen = chosen[images.labels[chosen] >= 0]
    found: list[Mistake] = []
    kept: list[torch.Tensor] = []
    width = 0
    for start in range(0, len(chosen), chunk):
        part = chosen[start : start + chunk]
        x = preprocess.tensor(
            np.stack([preprocess.picture(images[int(i)][0]) for i in part]), network.device, network.dtype
        )
        with torch.no_grad():
            shares = torch.softmax(network(x).float(), 1).cpu()
        width, best = shares.shape[1], shares.argmax(1)
        labels = torch.from_numpy(outputs[images.labels[part]])
        wrong = (labels != best).nonzero().flatten()
        if not len(wrong):
            continue
        true, predicted = (explainer(x[wrong], classes[wrong].tolist()).float().cpu() for classes in (labels, best))
        for n, row in enumerate(wrong.tolist()):
            a, b, index = int(labels[row]), int(best[row]), int(part[row])
            p = (float(shares[row, a]), float(shares[row, b]))
            found.append(Mistake(index, images.names[index], a, b, *p, _correlation(true[n], predicted[n])))
            if len(kept) < SHOWN:
                kept.append(torch.stack([true[n], predicted[n]]))
    maps = torch.stack(kept).numpy() if kept else np.zeros((0, 2, 1, 1), np.float32)
    return Mistakes(tuple(found), len(chosen), _names(names, outputs, images.classes, width), maps)


def _names(names: Sequence[str], outputs: NDArray[np.int64], classes: Sequence[str], width: int) -> tuple[str, ...]:
    if len(names) == width:
        return tuple(names)
    own = dict(zip(outputs.tolist(), classes, strict=False))
    return tuple(own.get(index, str(index)) for index in range(width))


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    one, two = (m.double().flatten() - m.double().mean() for m in (a, b))
    return float(one @ two / (one.norm() * two.norm()).clamp(min=1e-300))

"""How good a trained explainer is on images that it did not learn from, and which weights of its loss serve best."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.cam.learned.files import save_explainer
from deconvviz.data.datasets import Images, Part
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv
from deconvviz.studies.evaluation.measure import evaluate
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.explainers.result import TrainedExplainer
from deconvviz.studies.explainers.train import train_explainer

MOST = 64  # settings in a grid: each is a training


def parted(images: Images, share: float, seed: int) -> tuple[Images, Images | None]:
    """Split images at random into those to learn from and a share that is held out, None for a share of 0.

    Raises DataError for a share outside 0 to below 1, or that leaves one of them empty.
    """
    if not 0 <= share < 1:
        raise DataError(f"a share of {share:g} to hold out given; expected 0 to below 1")
    order = np.random.default_rng([seed, 3]).permutation(len(images))
    count = round(share * len(images))
    if not count:
        return images, None
    return Part(images, np.sort(order[count:])), Part(images, np.sort(order[:count]))


def held_out(
    trained: TrainedExplainer,
    network: Network,
    images: Images,
    preprocess: Preprocess,
    others: Sequence[str] = (),
    layers: Sequence[str] = (),
    progress: bool = False,
) -> Evaluation:
    """Return drop and increase at 100, 50 and 15 % on images, masked pixels black, and those of other methods."""
    methods: dict[str, dict[str, Any]] = {trained.explainer.name: {"explainer": trained.explainer}}
    return evaluate(
        network,
        images,
        methods | {name: {} for name in others},
        layers,
        preprocess=preprocess,
        metrics=["faithfulness"],
        fill="black",
        progress=progress,
    )


@dataclass(frozen=True)
class Search:
    """A grid of settings: each one's explainer on the images held out; `best` is the one of least mean drop.

    settings: one mapping each; drop, increase: float64 [settings, 3], at 100, 50 and 15 %.
    """

    settings: tuple[dict[str, float], ...]
    drop: NDArray[np.float64]
    increase: NDArray[np.float64]

    @property
    def best(self) -> int:
        """The setting of least drop, mean over the three shares; of equal ones that of most increase."""
        order = np.lexsort((-self.increase.mean(1), self.drop.mean(1)))
        return int(order[0])

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each setting."""
        names = list(self.settings[0])
        head = [
            *names,
            *(f"{what}_{share}" for share in (100, 50, 15) for what in ("average_drop", "increase")),
            "best",
        ]
        rows = [
            [
                *setting.values(),
                *(float(v) for pair in zip(self.drop[n], self.increase[n], strict=True) for v in pair),
                int(n == self.best),
            ]
            for n, setting in enumerate(self.settings)
        ]
        write_csv(path, head, rows)

    def __repr__(self) -> str:
        lines = [f"Search({len(self.settings)} settings; average drop at 100, 50, 15 %; increase)"]
        for n, setting in enumerate(self.settings):
            shown = ", ".join(f"{name} {value:g}" for name, value in setting.items())
            drop, rise = (" ".join(f"{v:6.1%}" for v in row[n]) for row in (self.drop, self.increase))
            lines.append(f"  {shown}: {drop}; {rise}{'  best' if n == self.best else ''}")
        return "\n".join(lines)


def search(
    method: str,
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    grid: Mapping[str, Sequence[float]],
    *,
    preprocess: Preprocess,
    validation: float = 0.2,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **how: Any,
) -> tuple[Search, TrainedExplainer]:
    """Train an explainer for each setting of a grid, score it on images held out, and keep the best as `out`.

    Each setting has files of its own beside `out`, so that an interrupted search goes on. The choice is made on the
    images held out: report the chosen one's numbers on others.

    Args:
        grid: option -> values, such as {"area": (1, 2, 4), "smoothness": (0.01, 0.1)}.
        validation: share of the images that is held out.
        how: further arguments of `train_explainer`.

    Raises:
        DataError: nothing to choose from, more than 64 settings, or nothing held out.
    """
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not 1 < len(settings) <= MOST:
        raise DataError(f"the grid has {len(settings)} settings; expected 2 to {MOST}")
    learnt, held = parted(images, validation, seed)
    if held is None:
        raise DataError("nothing is held out to choose by; give a share for validation, such as 0.2")
    path, found, scores = pathlib.Path(out), list[TrainedExplainer](), list[Evaluation]()
    for setting in settings:
        name = path.stem + "".join(f"-{key}{value:g}" for key, value in setting.items()) + path.suffix
        trained = train_explainer(
            method,
            network,
            learnt,
            layers,
            path.with_name(name),
            preprocess=preprocess,
            seed=seed,
            options={**(options or {}), **setting},
            **how,
        )
        found.append(trained)
        scores.append(held_out(trained, network, held, preprocess))
    table = Search(tuple(settings), *(_columns(scores, name) for name in ("average_drop", "increase")))
    best = found[table.best]
    save_explainer(best.explainer, path, best.config)
    return table, TrainedExplainer(explainer=best.explainer, path=path, history=best.history, config=best.config)


def _columns(scores: Sequence[Evaluation], name: str) -> NDArray[np.float64]:
    columns = [scores[0].columns.index(f"{name}_{share}") for share in (100, 50, 15)]
    return np.array([score.mean(next(iter(score.values)))[columns] for score in scores])

"""How well a trained explainer does on images held out of its training, and a search for the weights of its loss."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.cam.learned.files import save_explainer
from deconvviz.data.datasets import Images, Part
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.studies.evaluation.columns import SHARES
from deconvviz.studies.evaluation.measure import evaluate
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.explainers.result import GridSearch, TrainedExplainer
from deconvviz.studies.explainers.train import train_explainer
from deconvviz.types import Floats, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords
    from deconvviz.studies.explainers.options import ExplainerTrainingKeywords

MOST_SETTINGS = 64  # in a grid: each of them is a training


def hold_out(images: Images, share: float, seed: int) -> tuple[Images, Images | None]:
    """Split images at random into those to train on and those held out.

    Args:
        images: the whole.
        share: of the images that are held out, from 0 to below 1.
        seed: of the choice.

    Returns:
        The images to train on, and the images held out; None where the share is of no image.

    Raises:
        DataError: another share, or one that leaves no image to train on.

    >>> from deconvviz.data.scenes.scenes import Scenes
    >>> training, held_out = hold_out(Scenes(8), 0.25, seed=0)
    >>> len(training), len(held_out)
    (6, 2)
    """
    if not 0 <= share < 1:
        raise DataError(f"a share of {share:g} to hold out given; expected 0 to below 1")
    order = np.random.default_rng([seed, 3]).permutation(len(images))
    count = round(share * len(images))
    if not count:
        return images, None
    return Part(images, np.sort(order[count:])), Part(images, np.sort(order[:count]))


def evaluate_held_out(
    trained: TrainedExplainer,
    network: Network,
    images: Images,
    preprocess: Preprocess,
    others: Sequence[str] = (),
    layers: Sequence[str] = (),
    **run: Unpack[RunKeywords],
) -> Evaluation:
    """Measure drop and increase of a trained explainer where 100, 50 and 15 % of the pixels are kept.

    Args:
        trained: the explainer.
        network: the network that it explains.
        images: images that it was not trained on.
        preprocess: as the network takes images.
        others: names of other methods to measure as well.
        layers: names of the layers that these explain.
        run: the fields of `RunOptions`.

    Returns:
        The evaluation; masked pixels are black.
    """
    methods: dict[str, dict[str, Any]] = {trained.explainer.name: {"explainer": trained.explainer}}
    methods |= {name: {} for name in others}
    return evaluate(
        network, images, methods, layers, preprocess=preprocess, metrics=["faithfulness"], fill="black", **run
    )


def grid_search(
    method: str,
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    grid: Mapping[str, Sequence[float]],
    *,
    preprocess: Preprocess,
    validation: float = 0.2,
    **training: Unpack[ExplainerTrainingKeywords],
) -> tuple[GridSearch, TrainedExplainer]:
    """Train an explainer with each setting of a grid, measure it on images held out, and keep the best one as `out`.

    Each setting has files of its own beside `out`, so that an interrupted search resumes. The choice is made on the
    images held out: report the numbers of the chosen explainer on other images.

    Args:
        method: name of the explainer's method.
        network: the network to explain.
        images: images to train on, of which a share is held out.
        layers: names of the layers that the explainer reads.
        out: path of the best explainer, .pth or .pt.
        grid: option -> values, such as {"area": (1, 2, 4), "smoothness": (0.01, 0.1)}; all combinations are tried.
        preprocess: as the network takes images.
        validation: share of the images that is held out.
        training: the fields of `ExplainerTrainingOptions`.

    Returns:
        The table of the settings, and the best explainer.

    Raises:
        DataError: a grid of fewer than 2 or more than 64 settings, or no image is held out.
        DeconvvizError: as `train_explainer`.
    """
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not 1 < len(settings) <= MOST_SETTINGS:
        raise DataError(f"the grid has {len(settings)} settings; expected 2 to {MOST_SETTINGS}")
    training_images, held_out = hold_out(images, validation, training.get("seed", 0))
    if held_out is None:
        raise DataError("nothing is held out to choose by; give a share for validation, such as 0.2")
    path, explainers, evaluations = pathlib.Path(out), list[TrainedExplainer](), list[Evaluation]()
    for setting in settings:
        name = path.stem + "".join(f"-{key}{value:g}" for key, value in setting.items()) + path.suffix
        keywords: ExplainerTrainingKeywords = {**training, "options": {**training.get("options", {}), **setting}}
        trained = train_explainer(
            method, network, training_images, layers, path.with_name(name), preprocess=preprocess, **keywords
        )
        explainers.append(trained)
        evaluations.append(evaluate_held_out(trained, network, held_out, preprocess, progress=False))
    drop, increase = (_means(evaluations, metric) for metric in ("average_drop", "increase"))
    search = GridSearch(settings=tuple(settings), drop=drop, increase=increase)
    best = explainers[search.best]
    save_explainer(best.explainer, path, best.config)
    return search, TrainedExplainer(explainer=best.explainer, path=path, history=best.history, config=best.config)


def _means(evaluations: Sequence[Evaluation], metric: str) -> Floats:
    """Return the means of a metric at each share of the pixels, [evaluations, 3], of each evaluation's only method."""
    columns = [evaluations[0].columns.index(f"{metric}_{share}") for share in SHARES]
    return np.array([evaluation.mean(next(iter(evaluation.values)))[columns] for evaluation in evaluations])

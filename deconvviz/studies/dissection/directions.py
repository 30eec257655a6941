"""Directions of concepts: whether a class's score rises along the direction that tells example pictures from others."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import ttest_ind  # type: ignore[import-untyped]

from deconvviz.data.datasets import Images, labels_of
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, missing_library, require
from deconvviz.graph.computing import computing
from deconvviz.graph.network import Network
from deconvviz.run.options import RunOptions
from deconvviz.studies.dissection.scores import ALL, ConceptScore, ConceptScores
from deconvviz.types import Floats, Ints
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

LEAST = 5  # examples of a concept, and images of a class, from which a share means something
PER_CLASS = 50  # images of a class whose gradients are taken, at most


def concept_scores(
    network: Network,
    images: Images,
    layers: Sequence[str],
    concepts: Mapping[str, Images],
    *,
    outputs: Sequence[int] | Ints,
    preprocess: Preprocess | None = None,
    sets: int = 20,
    **options: Unpack[RunKeywords],
) -> ConceptScores:
    """Measure on which share of a class's images its score rises along a concept's direction (TCAV).

    A layer's maps are averaged over their positions. The direction of a concept is the normal of a linear classifier
    (logistic regression) between its examples and as many random images; the score of a class rises along it where the
    gradient, summed over the positions, has a positive product with it: as all positions move along the direction
    together. The random images are drawn `sets` times; directions between random sets tell what chance gives.

    Args:
        network: a captured network, on the device that computes.
        images: labelled images; random sets are drawn from them, and the shares are those of their classes.
        layers: names from `network.layers`.
        concepts: name -> examples, at least 5 images.
        outputs: int64 [classes], the output that stands for each class of the images; see `models.labels.outputs_of`.
        preprocess: how an image becomes the network's input; by default resized and cropped to the network's size.
        sets: random sets, at least 2.
        options: of `RunOptions`; `seed` settles the random sets.

    Returns:
        For each layer, concept and class of at least 5 images, and for all images together (the class ""), the mean
        share over the sets, that of random directions, and the p value of Welch's two-sided t-test between both,
        times the number of all these tests (Bonferroni).

    Raises:
        DataError: too few examples or images, no labels, or scikit-learn is not installed.
        LayerNotFound: a name in `layers` does not exist.

    Source: Kim et al. 2018 (TCAV), section 3: directional derivatives, random sets and the two-sided test. That maps
    are averaged over positions, and the logistic regression, are our choice; the paper takes whole maps.
    """
    settings = RunOptions(**options)
    require({"sets": sets}, DataError, sets=(sets >= 2, "at least 2"))
    labels = labels_of(images)
    few = [name for name, examples in concepts.items() if len(examples) < LEAST]
    if few:
        raise DataError(f"concept {few[0]!r} has {counted(len(concepts[few[0]]), 'image')}; expected at least {LEAST}")
    if not (labels >= 0).any() or len(images) < 2 * LEAST:
        raise DataError(f"the images need classes, and there must be at least {2 * LEAST} of them")
    preprocess = preprocess or Preprocess.to_fit(network.input_shape)
    network.check_input(preprocess.shape)
    run = DirectionRun(network, images, list(layers), preprocess, np.asarray(outputs, np.int64), settings)
    scores = [score for name, examples in concepts.items() for score in run.scores(name, examples, sets)]
    return ConceptScores(
        model=network.name, tests=len(scores), scores=tuple(score.corrected(len(scores)) for score in scores)
    )


@dataclass
class DirectionRun:
    """The features, the gradients and the directions of some layers.

    Attributes:
        network: as it was captured.
        images: labelled images.
        layers: names.
        preprocess: how an image becomes the network's input.
        outputs: int64 [classes].
        settings: how the job runs.
    """

    network: Network
    images: Images
    layers: list[str]
    preprocess: Preprocess
    outputs: Ints
    settings: RunOptions

    def __post_init__(self) -> None:
        labels = labels_of(self.images)
        labelled = np.flatnonzero(labels >= 0)
        chosen_by_class = [labelled[labels[labelled] == label][:PER_CLASS] for label in np.unique(labels[labelled])]
        self.chosen = np.sort(np.concatenate(chosen_by_class))
        self.labels = labels[self.chosen]
        pool = spread(labels, min(len(labels), 2000))
        self.pool = self.features(self.images, pool)
        self.gradients = self._gradients()

    def features(self, images: Images, indices: Ints | None = None) -> dict[str, Floats]:
        """Return layer -> float64 [n, C], the means of the maps over their positions."""
        feed = Feed(images, self.preprocess, indices, workers=self.settings.workers)
        size = self.settings.images_at_once(self.network.device)
        rows: dict[str, list[Floats]] = {layer: [] for layer in self.layers}
        forward = self.network.forward_only(self.settings.precision, keep=self.layers)
        with torch.inference_mode():
            for _, x in feed.tensors(size, self.network.device, self.network.dtype):
                for layer, value in forward.activations(x, self.layers).items():
                    rows[layer].append(forward.maps(layer, value).mean((2, 3)).double().cpu().numpy())
        return {layer: np.concatenate(of_layer) for layer, of_layer in rows.items()}

    def _gradients(self) -> dict[str, Floats]:
        """Return layer -> float64 [n, C], the gradient of each image's class's score, summed over positions."""
        feed = Feed(self.images, self.preprocess, self.chosen, workers=self.settings.workers)
        size, device = self.settings.images_at_once(self.network.device), self.network.device
        rows: dict[str, list[Floats]] = {layer: [] for layer in self.layers}
        with self.settings.bar("image", len(feed), "gradients") as bar:
            for places, x in feed.tensors(size, device, self.network.dtype):
                targets = torch.from_numpy(self.outputs[self.labels[places]]).to(device)
                for layer in self.layers:
                    with torch.no_grad():
                        value, tail = self.network.split(layer, x)
                    value = value.detach().requires_grad_(True)
                    classes = self.network.readout.scores(tail(value))
                    score = classes[torch.arange(len(targets), device=device), targets].sum()
                    with computing("fp32"):
                        (gradient,) = torch.autograd.grad(score, value)
                    rows[layer].append(self.network.maps(layer, gradient).sum((2, 3)).double().cpu().numpy())
                bar.update(len(places))
        return {layer: np.concatenate(of_layer) for layer, of_layer in rows.items()}

    def scores(self, concept: str, examples: Images, sets: int) -> Iterator[ConceptScore]:
        """Yield the scores of one concept, for each layer and class."""
        features = self.features(examples)
        for layer in self.layers:
            pool, positive = self.pool[layer], features[layer]
            size = min(len(positive), len(pool) // 2)
            drawn = [
                np.random.default_rng([self.settings.seed, number]).permutation(len(pool))[: 2 * size]
                for number in range(sets)
            ]
            ours = np.array([direction(positive, pool[some[:size]]) for some in drawn])
            random = np.array([direction(pool[some[:size]], pool[some[size:]]) for some in drawn])
            rises, rises_random = (self.gradients[layer] @ directions.T > 0 for directions in (ours, random))
            for label in (ALL, *np.unique(self.labels).tolist()):
                members = np.full(len(self.labels), True) if label == ALL else self.labels == label
                if label != ALL and members.sum() < LEAST:
                    continue
                shares, chance = rises[members].mean(0), rises_random[members].mean(0)
                yield ConceptScore(
                    layer=layer,
                    concept=concept,
                    class_name="" if label == ALL else str(self.images.classes[label]),
                    images=int(members.sum()),
                    score=float(shares.mean()),
                    spread=float(shares.std()),
                    chance=float(chance.mean()),
                    p=different(shares, chance),
                )


def direction(positive: Floats, negative: Floats) -> Floats:
    """Return the normal of the plane between two sets of features, float64 [C], of length 1, towards the first.

    Args:
        positive: float64 [n, C].
        negative: float64 [m, C].

    >>> direction(np.array([[2.0, 1.0], [2.0, 3.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])).round(3).tolist()
    [1.0, 0.0]
    """
    try:
        linear_model = importlib.import_module("sklearn.linear_model")
    except ImportError:
        raise DataError(f"no direction can be found: {missing_library('scikit-learn')}") from None
    features = np.concatenate([positive, negative])
    spread_of = features.std(0)
    alive = spread_of > 0
    if not alive.any():
        return np.zeros(len(spread_of))
    scaled = (features[:, alive] - features[:, alive].mean(0)) / spread_of[alive]
    classifier: Any = linear_model.LogisticRegression(max_iter=1000)
    classifier.fit(scaled, np.repeat([1, 0], [len(positive), len(negative)]))
    normal = np.zeros(len(spread_of))
    normal[alive] = classifier.coef_[0] / spread_of[alive]
    length = np.linalg.norm(normal)
    return np.asarray(normal / length if length else normal)


def different(first: Floats, second: Floats) -> float:
    """Return the p value of Welch's two-sided t-test; where neither varies, 1 for equal values and 0 for others.

    >>> different(np.ones(3), np.ones(3)), different(np.ones(3), np.zeros(3))
    (1.0, 0.0)
    """
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return float(first[0] == second[0])
    with warnings.catch_warnings():  # that one side is constant is no news: the test is of the other's spread then
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ttest_ind(first, second, equal_var=False).pvalue)

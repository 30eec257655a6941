"""Measure explanation methods by metrics over images: how well do their maps show what the network relies on?"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.cam.explain import Explainer, constant_maps_allowed
from deconvviz.data.datasets import Images, labels_of, limited
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import room_for, spread
from deconvviz.data.truth import OBJECT
from deconvviz.errors import DataError
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.lengths import REFERENCE
from deconvviz.metrics.crop import CROP_THRESHOLDS
from deconvviz.metrics.curves import INSERTION_BLUR
from deconvviz.metrics.localisation import THRESHOLDS
from deconvviz.results.results import digest_of, require_same, stamped
from deconvviz.studies.evaluation.columns import (
    BOX_FITS,
    CONSTANT,
    CURVES,
    PIXEL_COUNTS,
    SECONDS,
    columns_of,
)
from deconvviz.studies.evaluation.explaining import MASKED_IMAGES, by_method, described, explainers_by_method
from deconvviz.studies.evaluation.metric_groups import BatchMetrics, ExplainedBatch, MetricGroups
from deconvviz.studies.evaluation.of_all_images import set_values_of_all
from deconvviz.studies.evaluation.options import EvaluationOptions
from deconvviz.studies.evaluation.pace import Pace
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.types import Floats, Ints, Mask, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.evaluation.options import EvaluationKeywords

ILLUSTRATED = 4  # images whose maps are kept for the figure
TOGETHER = 8  # images that are explained and measured together


def evaluate(
    network: Network,
    images: Images,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str],
    layers: Sequence[str] = (),
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    limit: int | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[EvaluationKeywords],
) -> Evaluation:
    """Explain images by each method, and measure the maps.

    With `out`, what is measured is committed there every few seconds. Calling again with the same arguments resumes.

    Args:
        network: a captured network.
        images: a packed store, a folder of classes, or scenes.
        methods: names of methods, or a name -> its options. A trained method has the option "explainer": the explainer
            or the path of its file.
        layers: names of the layers that the methods explain; a trained method has its own.
        out: path of the file, .h5; None writes nothing.
        preprocess: how an image becomes the network's input.
        limit: measure only so many images, spread over the classes and over the dataset.
        sources: where model and images came from, for the file.
        options: the fields of `EvaluationOptions`: what is measured (`metrics`, `fill`, `steps`, `truth`), what is
            explained (`explain`, `outputs`), and how it runs (`batch_size`, `precision`, `seed`, ...).

    Returns:
        The values of every metric for every method and image.

    Raises:
        DataError: an invalid option, no method, or an image without a class where its label is to be explained.
        DeconvvizError: a method, a method's option or a layer does not exist.
        MismatchError: `out` was written with other settings.
        CaptureError: the images do not fit the network.

    >>> import torch, deconvviz as dv
    >>> maps = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> network = dv.capture(torch.nn.Sequential(maps, head).eval(), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> evaluation = evaluate(
    ...     network, dv.Scenes(3), ["grad-cam"], ["0"], preprocess=preprocess, metrics=["adcc"], progress=False
    ... )
    >>> evaluation.columns[:3], evaluation.values["grad-cam"].shape
    (('complexity', 'coherency', 'adcc'), (3, 7))
    """
    settings = EvaluationOptions(**options)
    options_by_method = by_method(methods)
    network.check_input(preprocess.shape)
    _ = network.readout  # what cannot decide is refused before a file is begun
    count = min(len(images), limit or len(images))
    feed = Feed(
        images,
        preprocess,
        spread(labels_of(images), count),
        workers=settings.workers,
        memory=room_for(count, *preprocess.shape[1:]),
    )
    classes = _labelled_outputs(feed, settings.outputs) if settings.explain == "label" else None
    explainers = explainers_by_method(network, options_by_method, layers, preprocess, settings)
    size = preprocess.shape[1:]
    config = {
        **_configuration(network, feed, settings, classes),
        "layers": list(layers),
        "limit": limit,
        **limited(len(images), limit),
        "methods": {name: described(explainers[name], options_by_method[name], size) for name in explainers},
    }
    evaluation = _begin(feed, config, stamped({"architecture": architecture(network), **(sources or {})}), out)
    return EvaluationRun(network, feed, evaluation, settings, classes, out).run(explainers)


def _labelled_outputs(feed: Feed, outputs: Ints | None) -> Ints:
    """Return the output that stands for each image's label, int64 [N]; raises DataError where one is unknown."""
    if outputs is None or (feed.labels < 0).any():
        raise DataError(
            "to explain the label's class every image needs one that the network has; explain the top class"
        )
    labelled_outputs: Ints = outputs[feed.labels]
    return labelled_outputs


def _configuration(network: Network, feed: Feed, settings: EvaluationOptions, classes: Ints | None) -> dict[str, Any]:
    """Return what must be equal for an evaluation to be resumed; JSON values."""
    blur, usual = (INSERTION_BLUR.of(*sides) for sides in (feed.preprocess.shape[1:], (REFERENCE, REFERENCE)))
    scaled_blur = "curves" in settings.metrics and blur != usual  # older files have the blur of 224 px, and no note
    return {
        **({"insertion_blur": list(blur)} if scaled_blur else {}),
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "store_fingerprint": feed.images.fingerprint,
        "metrics": list(settings.metrics),
        "fill": settings.fill,
        "steps": settings.steps,
        "precision": settings.precision,
        "seed": settings.seed,
        "preprocess": feed.preprocess.as_dict(),
        "explain": settings.explain,
        "truth": None if settings.truth is None else settings.truth.fingerprint,
        "targets": None if classes is None else digest_of(classes.tolist()),
    }


def _begin(feed: Feed, config: dict[str, Any], sources: dict[str, Any], out: Pathlike | None) -> Evaluation:
    """Return an evaluation without values, or the one that the file holds.

    Raises:
        DataError: the file cannot be read, or not be written.
        MismatchError: the file was written with other settings.
    """
    if out is not None and pathlib.Path(out).exists():
        evaluation = Evaluation.load(out)
        both = evaluation.sources, sources
        require_same(out, evaluation.config, config, "remove it or choose another output", both)
        return evaluation
    evaluation = _without_values(feed, config, sources)
    if out is not None:
        evaluation.save(out)  # a place that cannot be written to is found before the work
    return evaluation


def _without_values(feed: Feed, config: dict[str, Any], sources: dict[str, Any]) -> Evaluation:
    columns, methods, count = columns_of(config["metrics"]), list(config["methods"]), len(feed)
    size, illustrated = feed.preprocess.shape[1:], min(len(feed), ILLUSTRATED)

    def unknown(*shape: int) -> Floats:
        return np.full((count, *shape), np.nan)

    walks = CURVES if "curves" in config["metrics"] else ()
    kinds = (*BOX_FITS, *PIXEL_COUNTS) if "localisation" in config["metrics"] else ()
    steps, thresholds = config["steps"] + 1, len(THRESHOLDS)
    cropped = methods if "crop" in config["metrics"] else ()
    return Evaluation(
        config=config,
        sources=sources,
        values={method: unknown(len(columns)) for method in methods},
        columns=columns,
        explained=np.full(count, -1, np.int64),
        labels=feed.labels,
        probability=np.zeros(count),
        names=tuple(feed.name(place) for place in range(count)),
        classes=tuple(feed.images.classes),
        curves={f"{method}/{walk}": unknown(steps) for method in methods for walk in walks},
        fits={f"{method}/{kind}": unknown(thresholds).astype(np.float32) for method in methods for kind in kinds},
        crops={method: unknown(len(CROP_THRESHOLDS)).astype(np.float32) for method in cropped},
        pictures=np.zeros((illustrated, *size, 3), np.uint8),
        maps={method: np.zeros((illustrated, *size), np.float32) for method in methods},
    )


def probabilities_of(network: Network) -> Callable[[Tensor], Tensor]:
    """Return a function from images [N, C, H, W] to the network's class probabilities [N, K]."""
    forward = network.forward_only()

    def probabilities(images: Tensor) -> Tensor:
        with torch.no_grad():
            return forward.probabilities(images)

    return probabilities


class EvaluationRun:
    """An evaluation under way: it measures what is missing, and commits it every few seconds."""

    def __init__(
        self,
        network: Network,
        feed: Feed,
        evaluation: Evaluation,
        settings: EvaluationOptions,
        classes: Ints | None,
        out: Pathlike | None,
    ) -> None:
        """Prepare the run.

        Args:
            network: whose decisions are explained.
            feed: the images; a place in the feed is a row of the evaluation.
            evaluation: what was measured before; its arrays are filled.
            settings: what is measured, and how.
            classes: int64 [N], the output to explain for each image; None explains each image's own top class.
            out: path of the file; None writes nothing.
        """
        self.network, self.feed, self.evaluation, self.classes = network, feed, evaluation, classes
        self.settings, self.out = settings, out
        self.probabilities = probabilities_of(network)
        black = feed.preprocess.level(0)
        self.metrics = MetricGroups(
            groups=settings.metrics,
            probabilities=self.probabilities,
            fill=torch.zeros_like(black) if settings.fill == "mean" else black,
            steps=settings.steps,
            batch_size=settings.images_at_once(network.device, MASKED_IMAGES),
            seed=settings.seed,
        )
        self.pace = Pace()

    def run(self, explainers: Mapping[str, Explainer]) -> Evaluation:
        """Measure what is missing, a few images at a time; an interruption keeps what is measured."""
        index, parts = self.settings.shard or (0, 1)
        ours = np.arange(len(self.feed)) // TOGETHER % parts == index  # in the batches in which one run measures them
        missing = {method: np.flatnonzero(ours & ~self.evaluation.measured(method)) for method in explainers}
        try:
            with self.settings.bar("image", sum(map(len, missing.values())), "evaluating") as bar:
                for method, explainer in explainers.items():
                    for batch in self.feed.batches(TOGETHER, missing[method]):
                        self._measure(method, explainer, batch)
                        bar.update(len(batch.places))
                        if self.pace.due:
                            self.pace.commit(self._commit)
        finally:
            set_values_of_all(self.evaluation)
            self._commit()
        return self.evaluation

    def _commit(self) -> None:
        if self.out is not None:
            self.evaluation.save(self.out)

    def _measure(self, method: str, explainer: Explainer, batch: PictureBatch) -> None:
        """Explain some images by a method, measure the maps, and note the values."""
        rows, count = batch.places, len(batch.places)
        images = self.feed.tensor(batch.pictures, self.network.device, self.network.dtype)
        classes, probability, outputs = self._explained(images, rows)
        began = time.perf_counter()
        with constant_maps_allowed():  # they are counted, and an image's number within its batch would mislead
            maps = explainer(images, classes.tolist())
            seconds, passes = (time.perf_counter() - began) / count, explainer.passes.copy()
            explained = ExplainedBatch(images, maps, classes, probability, rows, outputs)
            self._note(method, rows, self.metrics.on_images(explainer, explained))
        masks, places = self._object_masks(rows)
        if len(places):
            on_objects = self.metrics.on_objects(maps[torch.from_numpy(places).to(maps.device)], masks)
            self._note(method, rows[places], on_objects)
        notes: dict[str, Floats | float] = {
            CONSTANT: _float64(maps.amax((1, 2)) == 0),
            "forward_passes": (passes["forward"] + passes["tail"]) / count,
            "backward_passes": (passes["backward"] + passes["tail backward"]) / count,
            SECONDS: seconds,
        }
        for column, values in notes.items():
            self.evaluation.column(method, column)[rows] = values
        illustrated = np.flatnonzero(rows < len(self.evaluation.pictures))
        self.evaluation.pictures[rows[illustrated]] = self.feed.preprocess.display(batch.pictures[illustrated])
        self.evaluation.maps[method][rows[illustrated]] = maps.float().cpu().numpy()[illustrated]

    def _explained(self, images: Tensor, rows: Ints) -> tuple[Tensor, Tensor, int]:
        """Return and note the outputs to explain, int64 [n], and their probabilities [n]; also how many outputs are."""
        probabilities = self.probabilities(images)
        if self.classes is None:
            classes = probabilities.argmax(1)
        else:
            classes = torch.from_numpy(self.classes[rows]).to(probabilities.device)
        probability = probabilities.gather(1, classes[:, None])[:, 0]
        self.evaluation.explained[rows] = classes.cpu().numpy()
        self.evaluation.probability[rows] = _float64(probability)
        return classes, probability, probabilities.shape[1]

    def _note(self, method: str, rows: Ints, measured: BatchMetrics) -> None:
        """Put what was measured of some images into the evaluation's arrays."""
        for column, values in measured.columns.items():
            self.evaluation.column(method, column)[rows] = _float64(values)
        for walk, curve in measured.curves.items():
            self.evaluation.curves[f"{method}/{walk}"][rows] = curve
        for kind, fits in measured.fits.items():
            if f"{method}/{kind}" in self.evaluation.fits:  # older files have no counts of pixels
                self.evaluation.fits[f"{method}/{kind}"][rows] = fits
        if measured.crops is not None:
            self.evaluation.crops[method][rows] = measured.crops

    def _object_masks(self, rows: Ints) -> tuple[Mask, Ints]:
        """Return the masks of the objects that are known, bool [m, H, W], and their places in `rows`, int64 [m]."""
        masks, places = [], []
        if self.settings.truth is not None and "localisation" in self.settings.metrics:
            for place, row in enumerate(rows):
                parts = self.settings.truth.masks(int(self.feed.indices[row]))
                whole = parts.get(OBJECT, np.logical_or.reduce(list(parts.values())) if parts else None)
                mask = None if whole is None else self.feed.preprocess.mask(whole)
                if mask is not None and mask.any():
                    masks.append(mask)
                    places.append(place)
        return np.array(masks, bool), np.array(places, np.int64)


def _float64(values: Tensor) -> Floats:
    """Return values [n] as a float64 array."""
    return np.asarray(values.double().cpu().numpy())

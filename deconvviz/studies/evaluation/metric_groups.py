"""The groups of metrics that `evaluate` knows: what each of them measures on a batch of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from deconvviz.cam.engine import whole_images
from deconvviz.cam.explain import Explainer
from deconvviz.data.truth import bounds
from deconvviz.metrics import (
    METRICS,
    adcc,
    best_iou,
    box_fits,
    coherency,
    complexity,
    deletion,
    effects_of_squares,
    energy,
    faithfulness,
    infidelity,
    insertion,
    iou,
    max_sensitivity,
    other_classes,
    pixel_counts,
    pointing_game,
    random_logit,
    random_squares,
    road_combined,
    saliency_metric,
    sparseness,
)
from deconvviz.studies.evaluation.columns import BOX_FITS, CURVES, PIXEL_COUNTS, SHARES
from deconvviz.types import Floats, Ints, Mask

HIGHLIGHTED = 0.2  # a pixel counts for the IoU above this share of its map's maximum, as in CAM's paper


def directions(columns: Sequence[str]) -> dict[str, bool]:
    """Return, for each of the columns that is a metric, whether a higher value is better.

    >>> directions(["average_drop_15", "energy", "seconds"])
    {'average_drop_15': False, 'energy': True}
    """
    higher_is_better = {}
    for column in columns:
        metric, _, share = column.rpartition("_")
        metric = metric if share.isdecimal() else column
        if metric in METRICS:
            higher_is_better[column] = METRICS[metric].higher_is_better
    return higher_is_better


class ExplainedBatch(NamedTuple):
    """Some images, the classes that are explained, and their maps by one method.

    Attributes:
        images: Tensor [N, C, H, W], as the network takes them.
        maps: Tensor [N, H, W] in 0..1.
        classes: int64 Tensor [N], the output that is explained.
        probability: Tensor [N], the probability of this class on the whole image.
        places: int64 [N], the images' places in the feed.
        outputs: number of classes.
    """

    images: Tensor
    maps: Tensor
    classes: Tensor
    probability: Tensor
    places: Ints
    outputs: int


@dataclass(frozen=True, kw_only=True)
class BatchMetrics:
    """What was measured on a batch of N maps.

    Attributes:
        columns: name of a metric -> Tensor [N].
        curves: "deletion" and "insertion" -> float64 [N, steps + 1], the probability after each step.
        fits: what is measured at each threshold of the maps: "largest" and "best", the IoU of the boxes, and
            "on_object" and "beside", pixels, float64 [N, 1000] each.
        crops: float64 [N, 20], the saliency metric at each of its thresholds; None where it is not measured.
    """

    columns: Mapping[str, Tensor]
    curves: Mapping[str, Floats] = field(default_factory=dict)
    fits: Mapping[str, Floats] = field(default_factory=dict)
    crops: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class MetricGroups:
    """The groups of metrics to measure, and how.

    Attributes:
        groups: names from METRIC_GROUPS.
        probabilities: returns the class probabilities [N, K] of images [N, C, H, W].
        fill: Tensor [C], what masked pixels become, in normalised values.
        steps: number of steps of the curves.
        batch_size: masked images in one pass; a CPU takes at most 8.
        seed: of squares, noise and other classes.
        effects: place of an image -> float64 [squares], how much the probability falls without each square; the
            methods share them.
    """

    groups: Sequence[str]
    probabilities: Callable[[Tensor], Tensor]
    fill: Tensor
    steps: int
    batch_size: int
    seed: int
    effects: dict[int, Floats] = field(default_factory=dict)

    def on_images(self, explainer: Explainer, batch: ExplainedBatch) -> BatchMetrics:
        """Measure what needs no truth: of changed images, of other explanations, and of the maps alone.

        Args:
            explainer: made the maps.
            batch: the images and their maps.
        """
        changed, explained = self._by_masking(explainer, batch), self._by_explaining(explainer, batch)
        crops = None
        if "crop" in self.groups:
            crops = saliency_metric(self.probabilities, *batch[:3], batch_size=self._at_once(batch)).numpy()
        if "sparseness" in self.groups:
            explained["sparseness"] = sparseness(batch.maps)
        return BatchMetrics(columns={**changed.columns, **explained}, curves=changed.curves, crops=crops)

    def _by_explaining(self, explainer: Explainer, batch: ExplainedBatch) -> dict[str, Tensor]:
        """Compare the maps with those of images that have changed hardly, and with those of other classes."""
        columns: dict[str, Tensor] = {}
        if "sensitivity" in self.groups:
            classes = batch.classes.tolist()
            columns["max_sensitivity"] = max_sensitivity(
                lambda images: explainer(images, classes), batch.images, batch.maps, seed=self.seed
            )
        if "random-logit" in self.groups:
            others = other_classes(batch.classes, batch.outputs, batch.places, self.seed)
            columns["random_logit"] = random_logit(batch.maps, explainer(batch.images, others.tolist()))
        return columns

    def _by_masking(self, explainer: Explainer, batch: ExplainedBatch) -> BatchMetrics:
        """Measure how the probabilities change as images are masked by their maps."""
        columns: dict[str, Tensor] = {}
        curves: dict[str, Floats] = {}
        if "faithfulness" in self.groups:
            for share in SHARES:
                columns |= self._faithfulness(batch, share)
        if "adcc" in self.groups:
            columns |= self._adcc(explainer, batch)
        if "road" in self.groups:
            columns["road_combined"] = road_combined(
                self.probabilities, *batch[:3], batch_size=self._at_once(batch)
            ).score
        if "infidelity" in self.groups:
            columns["infidelity"] = self._infidelity(batch)
        if "curves" in self.groups:
            at_once, fill = self._at_once(batch), self.fill.to(batch.images)
            walks = (
                deletion(self.probabilities, *batch[:3], self.steps, fill, at_once),
                insertion(self.probabilities, *batch[:3], self.steps, None, at_once),
            )
            columns |= {name: walk.auc for name, walk in zip(CURVES, walks, strict=True)}
            curves = {name: walk.probabilities.numpy() for name, walk in zip(CURVES, walks, strict=True)}
        return BatchMetrics(columns=columns, curves=curves)

    def on_objects(self, maps: Tensor, masks: Mask) -> BatchMetrics:
        """Measure how much of maps [N, H, W] lies on the objects, whose masks are bool [N, H, W] and not empty."""
        columns = {
            "pointing_game": pointing_game(maps, masks, tolerance=0),
            "energy": energy(maps, masks),
            "iou": iou(maps, masks, HIGHLIGHTED),
            "best_iou": best_iou(maps, masks),
        }
        fits = dict(zip(BOX_FITS, box_fits(maps, [[bounds(mask)] for mask in np.asarray(masks)]), strict=True))
        fits |= dict(zip(PIXEL_COUNTS, pixel_counts(maps, masks), strict=True))
        return BatchMetrics(columns=columns, fits=fits)

    def _infidelity(self, batch: ExplainedBatch) -> Tensor:
        """Return the infidelity; the effects of the squares are computed for the first method and kept for the rest."""
        height, width = batch.images.shape[2:]
        squares, places = random_squares(height, width, seed=self.seed), batch.places.tolist()
        if not all(place in self.effects for place in places):
            fill = self.fill.to(batch.images)
            effects = effects_of_squares(
                self.probabilities, batch.images, batch.classes, squares, fill, self._at_once(batch)
            )
            self.effects.update(zip(places, effects, strict=True))
        return infidelity(batch.maps, np.stack([self.effects[place] for place in places]), squares)

    def _faithfulness(self, batch: ExplainedBatch, share: int) -> dict[str, Tensor]:
        """Return drop, increase and gain where `share` per cent of the pixels are kept."""
        measured = faithfulness(
            self.probabilities,
            *batch[:3],
            share / 100,
            self.fill.to(batch.images),
            self._at_once(batch),
            batch.probability,
        )
        return {
            f"average_drop_{share}": measured.drop,
            f"increase_{share}": measured.increase,
            f"average_gain_{share}": measured.gain,
        }

    def _adcc(self, explainer: Explainer, batch: ExplainedBatch) -> dict[str, Tensor]:
        """Return complexity, coherency and ADCC. ADCC masks with the mean colour, whatever the fill is."""
        images, maps, classes, probability = batch[:4]
        drop = faithfulness(self.probabilities, images, maps, classes, 1.0, 0.0, self._at_once(batch), probability).drop
        maps_of_masked = explainer(images * maps[:, None], classes.tolist())
        parts = {"complexity": complexity(maps), "coherency": coherency(maps, maps_of_masked)}
        return {**parts, "adcc": adcc(drop, parts["coherency"], parts["complexity"])}

    def _at_once(self, batch: ExplainedBatch) -> int:
        return whole_images(self.batch_size, batch.images.device)

"""PxAP: precision and recall of a map's pixels against the object's mask, at every threshold and over all images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import as_array, check_maps
from deconvviz.metrics.localisation import THRESHOLDS, Masks, as_masks
from deconvviz.metrics.metric import register
from deconvviz.types import Floats

register("pxap", "PxAP", True, "fraction", "Choe et al. 2020")


def pixel_counts(maps: Tensor, masks: Masks) -> tuple[Floats, Floats]:
    """Count the pixels of each map between neighbouring thresholds, on the object and beside it.

    Each image is counted by itself, so that the counts of several batches may be put together for `PixelCurves`.

    Args:
        maps: [N, H, W] in 0..1.
        masks: see `localisation.Masks`; each image has an object.

    Returns:
        Pixels on the object and beside it, float64 [N, 1000] each: entry t counts the values from THRESHOLDS[t] to
        below the next one; the last one counts 1 too.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor in 0..1, or masks do not fit or are empty.
    """
    check_maps(maps)
    inside = as_masks(masks, tuple(maps.shape))
    levels = np.searchsorted(THRESHOLDS, as_array(maps), side="right") - 1
    counts = [
        [np.bincount(level[mask], minlength=len(THRESHOLDS)) for mask in (object_, ~object_)]
        for level, object_ in zip(levels, inside, strict=True)
    ]
    on_object, beside = np.array(counts, np.float64).transpose(1, 0, 2)
    return on_object, beside


@dataclass(frozen=True)
class PixelCurves:
    """How pixels at or above each threshold agree with the objects, over all N images together.

    Attributes:
        on_object: float64 [N, T], pixels on the object between neighbouring thresholds; see `pixel_counts`.
        beside: float64 [N, T], the same beside the object.

    >>> curves = PixelCurves(np.array([[0.0, 2.0]]), np.array([[2.0, 0.0]]))  # two thresholds; the object is brighter
    >>> curves.precision, curves.recall, curves.pxap
    (array([0.5, 1. ]), array([1., 1.]), 1.0)
    """

    on_object: Floats
    beside: Floats

    def __post_init__(self) -> None:
        if self.on_object.shape != self.beside.shape or self.on_object.ndim != 2 or not self.on_object.sum():
            shapes = f"{list(self.on_object.shape)} and {list(self.beside.shape)}"
            raise DataError(f"counts {shapes} given; expected two of [N, thresholds], with pixels on an object")

    @property
    def true_positives(self) -> Floats:
        """Pixels on the objects at or above each threshold, float64 [T]."""
        return _above(self.on_object.sum(0))

    @property
    def false_positives(self) -> Floats:
        """Pixels beside the objects at or above each threshold, float64 [T]: where the map marks too much."""
        return _above(self.beside.sum(0))

    @property
    def precision(self) -> Floats:
        """Share of the marked pixels that lie on the objects, float64 [T]; 1 where none is marked."""
        marked = self.true_positives + self.false_positives
        return np.divide(self.true_positives, marked, out=np.ones_like(marked), where=marked > 0)

    @property
    def recall(self) -> Floats:
        """Share of the objects' pixels that are marked, float64 [T]."""
        return np.asarray(self.true_positives / self.on_object.sum())

    @property
    def dice(self) -> Floats:
        """2 TP / (2 TP + FP + FN) at each threshold, float64 [T]."""
        positives = self.true_positives
        return np.asarray(2 * positives / (positives + self.false_positives + self.on_object.sum()))

    @property
    def pxap(self) -> float:
        """The area under precision over recall: the sum over thresholds of precision x the recall that it adds."""
        return float(self.precision @ -np.diff(np.append(self.recall, 0)))

    def shares(self) -> Floats:
        """Return what each image adds to PxAP, float64 [N]: PxAP plus the image's influence on it.

        Their mean is PxAP exactly, and their standard error is that of PxAP over images: the infinitesimal jackknife.
        With one image the value is the average precision of its pixels.

        Source: Jaeckel 1972; Efron 1981.
        """
        own = [_above(counts) for counts in (self.on_object, self.beside)]
        precision, total = self.precision, self.on_object.sum()
        marked = np.maximum(self.true_positives + self.false_positives, 1)
        change_of_precision = (own[0] - precision * (own[0] + own[1])) / marked
        added = self.on_object.sum(0)
        influence = (change_of_precision @ added + self.on_object @ precision) / total
        influence -= self.pxap * self.on_object.sum(1) / total
        return np.asarray(self.pxap + len(self.on_object) * influence)


def _above(counts: Floats) -> Floats:
    """Return how many pixels [..., T] are at or above each threshold."""
    return np.asarray(counts[..., ::-1].cumsum(-1)[..., ::-1])

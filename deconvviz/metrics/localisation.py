"""Does the map lie on the object: pointing game, energy inside, intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import as_array, as_values, check_maps
from deconvviz.metrics.metric import register
from deconvviz.types import Box

register("pointing_game", "Pointing game", True, "0 or 1", "Zhang et al. 2018, Excitation Backprop")
register("energy", "Energy-based pointing game", True, "fraction", "Wang et al. 2020, Score-CAM")
register("iou", "IoU", True, "fraction", "Zhou et al. 2016, CAM")
register("best_iou", "IoU at the best threshold", True, "fraction", "Choe et al. 2020, of the idea")

Boxes = Sequence[Sequence[Box | Sequence[int]]]
"""A list of boxes an image, each in the order of `Box`: top, left, bottom, right."""
Masks = NDArray[np.bool_] | Boxes
"""The object's pixels, bool [N,H,W], or the boxes around it, a list an image."""

THRESHOLDS = np.arange(1000) / 1000


def pointing_game(maps: Tensor, masks: Masks, tolerance: float = 15) -> Tensor:
    """Return 1 where the maximum of a map lies on the object or nearer to it than `tolerance`, else 0.

    Args:
        maps: finite [N,H,W]; of several maxima the first in row-major order counts.
        masks: see Masks; each image has an object.
        tolerance: in pixels, between centres, itself excluded as in TorchRay; 0 or 1 asks for the object itself.

    Returns:
        float64 [N]. Published values average over the hits of each class, then over the classes.

    Raises:
        DataError: maps that are no maps, masks that do not fit or are empty, a negative tolerance.

    Source: Zhang et al. 2018, section 4.1.
    """
    check_maps(maps, unit=False)
    if not 0 <= tolerance < float("inf"):
        raise DataError(f"tolerance {tolerance:g} given; expected 0 pixels or more")
    hits = []
    for values, mask in zip(as_array(maps), as_masks(masks, tuple(maps.shape)), strict=True):
        y, x = divmod(int(values.argmax()), values.shape[1])
        rows, columns = mask.nonzero()
        nearest = int(((rows - y) ** 2 + (columns - x) ** 2).min())
        hits.append(float(nearest == 0 or nearest < tolerance**2))
    return as_values(hits)


def energy(maps: Tensor, masks: Masks) -> Tensor:
    """Return the share of each map's sum that lies on the object, float64 [N]; 0 for a map of zeros. Higher is better.

    Args:
        maps: [N,H,W] in 0..1.
        masks: see Masks; a box is indexed by rows and then columns.

    Raises:
        DataError: maps that are no maps or leave 0..1, masks that do not fit or are empty.

    Source: Wang et al. 2020, Score-CAM, section 4.3.
    """
    check_maps(maps)
    values, inside = as_array(maps), as_masks(masks, tuple(maps.shape))
    total = values.sum((1, 2))
    return as_values((values * inside).sum((1, 2)) / np.where(total > 0, total, 1))


def iou(maps: Tensor, masks: Masks, threshold: float) -> Tensor:
    """Return intersection over union of the object and the pixels above `threshold`, strictly; float64 [N].

    Args:
        maps: [N,H,W] in 0..1.
        masks: see Masks.
        threshold: in 0..1; CAM's paper takes .2.

    Raises:
        DataError: as `energy`; a threshold outside 0..1.

    Source: Zhou et al. 2016, section 3.2, for the threshold.
    """
    return best_iou(maps, masks, [threshold])


def best_iou(maps: Tensor, masks: Masks, thresholds: Sequence[float] | NDArray[np.float64] = THRESHOLDS) -> Tensor:
    """Return each map's largest IoU over the thresholds, float64 [N], see `iou`. Higher is better.

    It is an upper bound: every image has its own best threshold.

    Raises:
        DataError: as `iou`; no threshold, or thresholds that do not ascend.
    """
    check_maps(maps)
    cuts, inside = as_thresholds(thresholds), as_masks(masks, tuple(maps.shape))
    found = []
    for values, mask in zip(as_array(maps), inside, strict=True):
        level = np.searchsorted(cuts, values)  # how many thresholds a pixel exceeds
        # pixels above threshold t are those of level > t: counts from the top level down to 1
        every, on = (np.bincount(part, minlength=len(cuts) + 1) for part in (level.ravel(), level[mask]))
        lit, shared = every[:0:-1].cumsum(), on[:0:-1].cumsum()
        found.append(float((shared / (lit + mask.sum() - shared)).max()))
    return as_values(found)


def as_thresholds(thresholds: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return thresholds as float64 [T]; raises DataError unless they ascend strictly within 0..1."""
    cuts = np.asarray(thresholds, np.float64)
    if cuts.ndim != 1 or not len(cuts) or not (cuts[0] >= 0 and cuts[-1] <= 1 and (np.diff(cuts) > 0).all()):
        given = cuts.tolist() if cuts.size < 10 else f"{cuts.size} values"
        raise DataError(f"thresholds {given} given; expected one or more, ascending, 0 to 1")
    return cuts


def as_masks(masks: Masks, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return masks or boxes as bool [N,H,W]; raises DataError where they do not fit `shape` or one is empty."""
    if isinstance(masks, np.ndarray):
        if masks.dtype != bool or masks.shape != shape:
            raise DataError(f"masks: {masks.dtype} {list(masks.shape)} given; expected bool {list(shape)}, as the maps")
        filled = masks
    else:
        filled = np.zeros(shape, bool)
        for mask, boxes in zip(filled, as_boxes(masks, shape), strict=True):
            for top, left, bottom, right in boxes:
                mask[top:bottom, left:right] = True
    empty = np.flatnonzero(~filled.any((1, 2)))
    if len(empty):
        raise DataError(f"masks: image {empty[0]} has no object pixel; leave out the images without an object")
    return filled


def as_boxes(boxes: Boxes, shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return each image's boxes as int64 [n,4], n >= 1; raises DataError where one is empty or leaves the image."""
    count, height, width = shape
    if len(boxes) != count:
        raise DataError(f"boxes of {len(boxes)} images given; expected {count}, one list an image")
    found = []
    for number, some in enumerate(boxes):
        table = np.asarray(some)
        if table.ndim != 2 or table.shape[1] != 4 or not len(table) or table.dtype.kind not in "iu":
            raise DataError(f"boxes of image {number}: {some!r} given; expected a list of (top, left, bottom, right)")
        top, left, bottom, right = table.T
        if (
            not ((top >= 0) & (left >= 0) & (top < bottom) & (left < right)).all()
            or ((bottom > height) | (right > width)).any()
        ):
            raise DataError(
                f"boxes of image {number}: {table.tolist()} given; expected (top, left, bottom, right), half-open, "
                f"not empty, within {height} x {width}"
            )
        found.append(table.astype(np.int64))
    return found

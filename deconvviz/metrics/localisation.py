"""Whether a map lies on the object: pointing game, energy inside, and intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.lengths import Length
from deconvviz.metrics.inputs import as_array, as_values, check_maps
from deconvviz.metrics.metric import register
from deconvviz.types import Box, Floats, Ints, Mask
from deconvviz.words import counted

register("pointing_game", "Pointing game", True, "0 or 1", "Zhang et al. 2018, Excitation Backprop")
register("energy", "Energy-based pointing game", True, "fraction", "Wang et al. 2020, Score-CAM")
register("iou", "IoU", True, "fraction", "Zhou et al. 2016, CAM")
register("best_iou", "IoU at the best threshold", True, "fraction", "Choe et al. 2020, of the idea")

Boxes = Sequence[Sequence[Box | Sequence[int]]]
"""For each image the list of its boxes, in the order of `Box`: top, left, bottom, right; the last two exclusive."""
Masks = Mask | Boxes
"""The object's pixels, bool [N, H, W], or for each image the list of boxes around its objects."""

TOLERANCE = Length(15)  # of the pointing game
THRESHOLDS = np.arange(1000) / 1000  # 0 to 0.999


def pointing_game(maps: Tensor, masks: Masks, tolerance: float | None = None) -> Tensor:
    """Return 1 where the maximum of a map lies on the object or nearer to it than `tolerance`, else 0.

    Args:
        maps: finite [N, H, W]; of several maxima the first in row-major order counts.
        masks: see Masks; each image has an object.
        tolerance: in pixels, between the centres of pixels; a distance of exactly the tolerance is a miss, as in
            TorchRay. 0 or 1 asks for the object itself. By default the paper's 15 px of 224, as a share of the shorter
            side of the maps.

    Returns:
        float64 [N]. Published values average over the images of each class, then over the classes.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor, masks do not fit or are empty, or the tolerance is negative.

    Source: Zhang et al. 2018, section 4.1.

    >>> import torch
    >>> maps = torch.tensor([[[0.1, 0.2, 0.9]]])
    >>> [pointing_game(maps, [[Box(0, 0, 1, 1)]], tolerance).item() for tolerance in (2, 3)]  # 2 pixels away
    [0.0, 1.0]
    """
    check_maps(maps, unit=False)
    tolerance = TOLERANCE.exactly(*maps.shape[1:]) if tolerance is None else tolerance
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
    """Return the share of each map's sum that lies on the object; higher is better.

    Args:
        maps: [N, H, W] in 0..1.
        masks: see Masks; each image has an object.

    Returns:
        float64 [N]; 0 for a map of zeros.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor in 0..1, or masks do not fit or are empty.

    Source: Wang et al. 2020, Score-CAM, section 4.3.

    >>> import torch
    >>> energy(torch.tensor([[[0.5, 0.25, 0.25]]]), [[Box(0, 0, 1, 2)]]).item()
    0.75
    """
    check_maps(maps)
    values, inside = as_array(maps), as_masks(masks, tuple(maps.shape))
    total = values.sum((1, 2))
    return as_values((values * inside).sum((1, 2)) / np.where(total > 0, total, 1))


def iou(maps: Tensor, masks: Masks, threshold: float) -> Tensor:
    """Return the intersection over union (IoU) of the object with the pixels above a threshold, float64 [N].

    Args:
        maps: [N, H, W] in 0..1.
        masks: see Masks; each image has an object.
        threshold: in 0..1; a pixel of exactly this value is not above it. CAM's paper takes 0.2.

    Raises:
        DataError: as for `energy`, or the threshold is outside of 0..1.

    Source: Zhou et al. 2016, section 3.2, for the threshold.

    >>> import torch
    >>> iou(torch.tensor([[[0.1, 0.4, 0.9]]]), [[Box(0, 0, 1, 2)]], threshold=0.2).item()  # 1 of 3 pixels
    0.3333333333333333
    """
    return best_iou(maps, masks, [threshold])


def best_iou(maps: Tensor, masks: Masks, thresholds: Sequence[float] | Floats = THRESHOLDS) -> Tensor:
    """Return the largest `iou` of each map over thresholds, float64 [N]; higher is better.

    It is an upper bound: every image has its own best threshold.

    Args:
        maps: [N, H, W] in 0..1.
        masks: see Masks; each image has an object.
        thresholds: ascending, in 0..1.

    Raises:
        DataError: as for `iou`, or there is no threshold, or the thresholds do not ascend.
    """
    check_maps(maps)
    cuts, inside = as_thresholds(thresholds), as_masks(masks, tuple(maps.shape))
    best = []
    for values, mask in zip(as_array(maps), inside, strict=True):
        level = np.searchsorted(cuts, values)  # how many thresholds a pixel exceeds
        # pixels above threshold t are those of level > t: counts from the top level down to 1
        all_pixels, on_object = (np.bincount(part, minlength=len(cuts) + 1) for part in (level.ravel(), level[mask]))
        above, shared = all_pixels[:0:-1].cumsum(), on_object[:0:-1].cumsum()
        best.append(float((shared / (above + mask.sum() - shared)).max()))
    return as_values(best)


def as_thresholds(thresholds: Sequence[float] | Floats) -> Floats:
    """Return thresholds as float64 [T]; raises DataError unless they ascend strictly within 0..1."""
    cuts = np.asarray(thresholds, np.float64)
    if cuts.ndim != 1 or not len(cuts) or not (cuts[0] >= 0 and cuts[-1] <= 1 and (np.diff(cuts) > 0).all()):
        text = cuts.tolist() if cuts.size < 10 else f"{cuts.size} values"
        raise DataError(f"thresholds {text} given; expected one or more, ascending, 0 to 1")
    return cuts


def as_masks(masks: Masks, shape: tuple[int, ...]) -> Mask:
    """Return masks, or what boxes cover, as bool [N, H, W].

    Args:
        masks: see Masks.
        shape: (N, H, W), that of the maps.

    Raises:
        DataError: the masks or boxes do not fit the shape, or an image has no object.
    """
    if isinstance(masks, np.ndarray):
        if masks.dtype != bool or masks.shape != shape:
            raise DataError(f"masks: {masks.dtype} {list(masks.shape)} given; expected bool {list(shape)}, as the maps")
        filled = masks
    else:
        filled = np.zeros(shape, bool)
        for mask, boxes in zip(filled, as_boxes(masks, shape), strict=True):
            for box in boxes:
                Box(*box).of(mask)[:] = True
    empty = np.flatnonzero(~filled.any((1, 2)))
    if len(empty):
        raise DataError(f"masks: image {empty[0]} has no object pixel; leave out the images without an object")
    return filled


def as_boxes(boxes: Boxes, shape: tuple[int, ...]) -> list[Ints]:
    """Return the boxes of each image as int64 [n, 4], n >= 1: top, left, bottom, right.

    Args:
        boxes: see Boxes.
        shape: (N, H, W), that of the maps.

    Raises:
        DataError: an image has no box, or a box is empty or leaves the image.
    """
    count, height, width = shape
    if len(boxes) != count:
        raise DataError(f"boxes of {counted(len(boxes), 'image')} given; expected {count}, one list an image")
    tables = []
    for number, boxes_of_image in enumerate(boxes):
        table = np.asarray(boxes_of_image)
        if table.ndim != 2 or table.shape[1] != 4 or not len(table) or table.dtype.kind not in "iu":
            raise DataError(
                f"boxes of image {number}: {boxes_of_image!r} given; expected a list of (top, left, bottom, right)"
            )
        top, left, bottom, right = table.T
        if (
            not ((top >= 0) & (left >= 0) & (top < bottom) & (left < right)).all()
            or ((bottom > height) | (right > width)).any()
        ):
            raise DataError(
                f"boxes of image {number}: {table.tolist()} given; expected (top, left, bottom, right), half-open, "
                f"not empty, within {height} x {width}"
            )
        tables.append(table.astype(np.int64))
    return tables

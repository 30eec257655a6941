"""MaxBoxAcc: how well boxes around the high values of a map agree with the object's boxes, at the best threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.measure import label, regionprops
from skimage.morphology import max_tree
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import as_array, as_values, check_maps
from deconvviz.metrics.localisation import THRESHOLDS, Boxes, as_boxes, as_thresholds
from deconvviz.metrics.metric import register
from deconvviz.types import Box, Floats, Ints

register("max_box_acc", "MaxBoxAcc", True, "0 or 1", "Choe et al. 2020")
register("max_box_acc_v2", "MaxBoxAccV2", True, "fraction", "Choe et al. 2020, extended version")


@dataclass(frozen=True)
class BoxAccuracy:
    """How well boxes fit the objects, at every threshold; papers report `v1.mean()` and `v2.mean()`.

    Attributes:
        thresholds: float64 [T].
        largest: float64 [N, T], IoU of the box around the largest component; 0 where nothing exceeds the threshold.
        best: float64 [N, T], the best IoU of the boxes around all components.
        v1: float64 [N], 1 where largest >= delta at the threshold that is best for the whole dataset, else 0.
        v2: float64 [N], the share of the deltas for which best >= delta, each at the threshold that is best for it.
        threshold_v1: the threshold of `v1`; the first one where several are best.
        thresholds_v2: the threshold for each delta of `v2`.
    """

    thresholds: Tensor
    largest: Tensor
    best: Tensor
    v1: Tensor
    v2: Tensor
    threshold_v1: float
    thresholds_v2: tuple[float, ...]


def boxes_of(map_: Tensor, threshold: float, largest: bool = False) -> list[Box]:
    """Return the boxes around the connected components of the pixels above a threshold.

    Diagonal neighbours are connected. A pixel of exactly the threshold is not above it.

    Args:
        map_: [H, W], finite.
        threshold: in the map's units; on a min-max normalised map it is a share of the maximum.
        largest: return only the component with the most pixels; of several the first in row-major order.

    Returns:
        The boxes in the order of the components' first pixels; an empty list where nothing is above the threshold.

    Raises:
        DataError: the map is not a finite [H, W] tensor.

    >>> boxes_of(torch.tensor([[0.9, 0.0, 0.7], [0.0, 0.8, 0.0]]), 0.5)
    [Box(top=0, left=0, bottom=2, right=3)]
    """
    check_maps(map_[None], unit=False)
    components = label(as_array(map_[None])[0] > threshold, connectivity=2)  # type: ignore[no-untyped-call, unused-ignore]
    regions = regionprops(components)  # type: ignore[no-untyped-call, unused-ignore]
    if largest and regions:
        regions = [max(regions, key=lambda region: region.area)]  # max takes the first of equal ones
    return [Box(*map(int, region.bbox)) for region in regions]


def max_box_accuracy(
    maps: Tensor,
    boxes: Boxes,
    deltas: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: Sequence[float] | Floats = THRESHOLDS,
    delta: float = 0.5,
) -> BoxAccuracy:
    """Measure MaxBoxAcc (V1: the largest component, one delta) and MaxBoxAccV2 (any component, mean over deltas).

    The release (wsolevaluation) differs in this: it cuts maps to 8 bits; its boxes are (x, y, x + w, y + h), which is
    half-open, but its IoU adds 1 to each side as for closed boxes, so that every box is one row and one column larger
    than here; and its largest component is the one whose contour has the largest area, with its holes, where here
    pixels are counted.

    Args:
        maps: [N, H, W] in 0..1, min-max normalised, so that a threshold is a share of the maximum.
        boxes: for each image the list of its objects' boxes; the box that fits best counts.
        deltas: IoUs that a box must reach, for V2.
        thresholds: ascending, in 0..1; by default the release's 1000.
        delta: IoU that a box must reach, for V1.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor in 0..1, the boxes do not fit it, a delta is not in (0, 1],
            or the thresholds do not ascend.

    Source: Choe et al. 2020, section 3; V2: its extended version.

    >>> maps = torch.tensor([[[1.0, 0.9, 0.1, 0.0]] * 3])
    >>> accuracy = max_box_accuracy(maps, [[Box(0, 0, 3, 2)]], thresholds=[0.05, 0.5], delta=0.7)
    >>> accuracy.best.numpy().round(2), accuracy.v1.item(), accuracy.threshold_v1
    (array([[0.67, 1.  ]]), 1.0, 0.5)
    """
    return box_accuracy(*box_fits(maps, boxes, thresholds), deltas, thresholds, delta)


def box_fits(maps: Tensor, boxes: Boxes, thresholds: Sequence[float] | Floats = THRESHOLDS) -> tuple[Floats, Floats]:
    """Return the IoUs of the boxes around components with the objects' boxes, at every threshold.

    Each image is measured by itself, so the results of several batches may be put together for `box_accuracy`.

    Args:
        maps: [N, H, W] in 0..1, min-max normalised.
        boxes: for each image the list of its objects' boxes.
        thresholds: ascending, in 0..1.

    Returns:
        `BoxAccuracy.largest` and `BoxAccuracy.best`, float64 [N, T] each.

    Raises:
        DataError: as for `max_box_accuracy`.
    """
    check_maps(maps)
    cuts, truth = as_thresholds(thresholds), as_boxes(boxes, tuple(maps.shape))
    ious_by_image = [
        _ious(np.searchsorted(cuts, values), objects, len(cuts))
        for values, objects in zip(as_array(maps), truth, strict=True)
    ]
    largest, best = (np.stack(ious) for ious in zip(*ious_by_image, strict=True))
    return largest, best


def box_accuracy(
    largest: Floats,
    best: Floats,
    deltas: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: Sequence[float] | Floats = THRESHOLDS,
    delta: float = 0.5,
) -> BoxAccuracy:
    """Return the accuracies of a whole dataset.

    Args:
        largest: float64 [N, T], from `box_fits`.
        best: float64 [N, T], from `box_fits`.
        deltas: IoUs that a box must reach, for V2.
        thresholds: the T thresholds.
        delta: IoU that a box must reach, for V1.

    Raises:
        DataError: there is no delta, or a delta is not in (0, 1].
    """
    cuts = as_thresholds(thresholds)
    for value in (*deltas, delta):
        if not 0 < value <= 1:
            raise DataError(f"delta {value:g} given; expected more than 0 and at most 1")
    if not len(deltas):
        raise DataError("no deltas given; expected one or more, such as 0.3, 0.5, 0.7")
    hits_v1, cut_v1 = _hits(largest, delta)
    hits_v2, cuts_v2 = zip(*(_hits(best, value) for value in deltas), strict=True)
    return BoxAccuracy(
        thresholds=torch.from_numpy(cuts.copy()),
        largest=torch.from_numpy(largest),
        best=torch.from_numpy(best),
        v1=as_values(hits_v1),
        v2=as_values(np.mean(hits_v2, axis=0)),
        threshold_v1=float(cuts[cut_v1]),
        thresholds_v2=tuple(float(cuts[cut]) for cut in cuts_v2),
    )


def box_ious(a: Ints, b: Ints) -> Floats:
    """Return the IoU of each of some boxes with each of others.

    Args:
        a: int64 [n, 4], top, left, bottom, right.
        b: int64 [m, 4].

    Returns:
        float64 [n, m].

    >>> box_ious(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [1, 1, 3, 3]]))  # 2 of 4, and 1 of 7 pixels
    array([[0.5       , 0.14285714]])
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared), np.float64)


def _hits(ious: Floats, delta: float) -> tuple[Floats, int]:
    """Return which images reach delta, float64 [N], at the first threshold where most do, and the threshold's index.

    Both are compared in float32, in which files keep IoUs: one of exactly 0.7 reaches 0.7 there, too.
    """
    reached = ious.astype(np.float32) >= np.float32(delta)
    at = int(reached.sum(0).argmax())
    return reached[:, at].astype(np.float64), at


def _ious(level: Ints, truth: Ints, count: int) -> tuple[Floats, Floats]:
    """Return the IoU of the largest component, and the best IoU of all components, at every threshold.

    A component tree holds the components of all thresholds at once: each is a component at the thresholds from its
    parent's level to its own.

    Args:
        level: int64 [H, W], how many thresholds each pixel exceeds.
        truth: int64 [n, 4], the objects' boxes.
        count: T, the number of thresholds.

    Returns:
        float64 [T] each.
    """
    nodes, low, high, area, first = _components(level)
    ious = box_ious(nodes, truth).max(1)
    largest, best = np.zeros(count), np.zeros(count)
    for order, values in ((np.lexsort((-first, area)), largest), (np.argsort(ious), best)):
        for node in order[high[order] > low[order]].tolist():
            values[low[node] : high[node]] = ious[node]  # a later node is larger, or better, and overwrites
    return largest, best


def _components(level: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return the nodes of the component tree of `level`: boxes [n, 4], and [n] each low, high, area and first pixel.

    A node is a component at the thresholds low .. high - 1.
    """
    if min(level.shape) < 3:  # skimage needs three rows and columns; those that are added exceed no threshold
        level = np.pad(level, ((0, 2), (0, 2)))
    tree = max_tree(level, connectivity=2)  # type: ignore[no-untyped-call, unused-ignore]
    parent, order = (part.ravel().astype(np.int64) for part in tree)
    flat, root = level.ravel(), int(order[0])
    represents = (flat[parent] != flat) | (np.arange(flat.size) == root)  # one pixel stands for each node
    nodes = np.flatnonzero(represents)
    number = np.zeros(flat.size, np.int64)
    number[nodes] = np.arange(len(nodes))
    member = number[np.where(represents, np.arange(flat.size), parent)]
    rows, columns = np.divmod(np.arange(flat.size), level.shape[1])
    top, left, first = (np.full(len(nodes), flat.size) for _ in range(3))
    bottom, right, area = (np.zeros(len(nodes), np.int64) for _ in range(3))
    for ends, values in ((top, rows), (left, columns), (first, np.arange(flat.size))):
        np.minimum.at(ends, member, values)
    for ends, values in ((bottom, rows + 1), (right, columns + 1)):
        np.maximum.at(ends, member, values)
    np.add.at(area, member, 1)
    above, high = number[parent[nodes]], flat[nodes].astype(np.int64)
    by_level = np.argsort(-high, kind="stable")
    by_level = by_level[nodes[by_level] != root]
    for group in np.split(by_level, np.flatnonzero(np.diff(high[by_level])) + 1):  # the highest level first
        for ends in (top, left, first):
            np.minimum.at(ends, above[group], ends[group])
        for ends in (bottom, right):
            np.maximum.at(ends, above[group], ends[group])
        np.add.at(area, above[group], area[group])
    low = np.where(nodes == root, 0, high[above])
    return np.stack([top, left, bottom, right], 1), low, high, area, first

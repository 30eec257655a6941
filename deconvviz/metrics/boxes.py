"""MaxBoxAcc: do the boxes around what a map lights up agree with the object's, at the best threshold."""

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
    """How well boxes fit, at every threshold; `v1.mean()` and `v2.mean()` are what papers report.

    Attributes:
        thresholds: float64 [T].
        largest: float64 [N,T], IoU of the largest component's box; 0 where nothing exceeds the threshold.
        best: float64 [N,T], the best IoU of all components' boxes.
        v1: float64 [N], 1 where largest >= delta at the threshold that is best for the whole dataset.
        v2: float64 [N], the share of deltas with best >= delta, each at its own best threshold.
        threshold_v1, thresholds_v2: those thresholds, the first where several are best; one, and one a delta.
    """

    thresholds: Tensor
    largest: Tensor
    best: Tensor
    v1: Tensor
    v2: Tensor
    threshold_v1: float
    thresholds_v2: tuple[float, ...]


def boxes_of(map: Tensor, threshold: float, largest: bool = False) -> list[Box]:
    """Return the boxes around the connected components of the pixels above `threshold`, strictly.

    Args:
        map: [H,W], finite.
        threshold: in the map's units; on a min-max normalised map it is the share of the maximum.
        largest: only the component with the most pixels, the first in row-major order of several.

    Returns:
        A box each, in the order of the components' first pixels; none where nothing
        is above. Diagonal neighbours are connected.

    Raises:
        DataError: `map` is not a finite [H, W] tensor.
    """
    check_maps(map[None], unit=False)
    components = label(as_array(map[None])[0] > threshold, connectivity=2)  # type: ignore[no-untyped-call, unused-ignore]
    found = regionprops(components)  # type: ignore[no-untyped-call, unused-ignore]
    if largest and found:
        found = [max(found, key=lambda region: region.area)]  # max takes the first of equal ones
    boxes = []
    for region in found:
        boxes.append(Box(*(int(edge) for edge in region.bbox)))
    return boxes


def max_box_accuracy(
    maps: Tensor,
    boxes: Boxes,
    deltas: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: Sequence[float] | Floats = THRESHOLDS,
    delta: float = 0.5,
) -> BoxAccuracy:
    """Measure MaxBoxAcc (V1: the largest component, one delta) and MaxBoxAccV2 (any component, mean over deltas).

    Args:
        maps: [N,H,W] in 0..1, min-max normalised, which makes a threshold the share of the maximum.
        boxes: (top, left, bottom, right) of each image's objects, half-open; the best of them counts.
        deltas: what an IoU must reach, for V2.
        thresholds: ascending in 0..1; the release's 1000 by default.
        delta: what an IoU must reach, for V1.

    The release (wsolevaluation) differs in this: maps are cut to 8 bits; a box found is (x, y, x + w, y + h), which
    is half-open, but the IoU adds 1 to each side as for closed boxes, so that every box is one row and one column
    larger than here; "largest" is the contour's area, holes and all, where here pixels are counted.

    Raises:
        DataError: maps, boxes, deltas or thresholds that are none.

    Source: Choe et al. 2020, section 3; V2: its extended version.
    """
    return box_accuracy(*box_fits(maps, boxes, thresholds), deltas, thresholds, delta)


def box_fits(maps: Tensor, boxes: Boxes, thresholds: Sequence[float] | Floats = THRESHOLDS) -> tuple[Floats, Floats]:
    """Return the IoUs that `BoxAccuracy` calls largest and best, float64 [N,T] each; arguments as `max_box_accuracy`.

    Images are measured by themselves, so those of several batches may be put together for `box_accuracy`.
    """
    check_maps(maps)
    cuts, truth = as_thresholds(thresholds), as_boxes(boxes, tuple(maps.shape))
    rows = [_ious(np.searchsorted(cuts, m), own, len(cuts)) for m, own in zip(as_array(maps), truth, strict=True)]
    largest, best = (np.stack(column) for column in zip(*rows, strict=True))
    return largest, best


def box_accuracy(
    largest: Floats,
    best: Floats,
    deltas: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: Sequence[float] | Floats = THRESHOLDS,
    delta: float = 0.5,
) -> BoxAccuracy:
    """Return the accuracies of a whole dataset's IoUs, as `box_fits` gives them; raises DataError for no deltas."""
    cuts = as_thresholds(thresholds)
    for value in (*deltas, delta):
        if not 0 < value <= 1:
            raise DataError(f"delta {value:g} given; expected more than 0 and at most 1")
    if not len(deltas):
        raise DataError("no deltas given; expected one or more, such as 0.3, 0.5, 0.7")
    one, many = _hits(largest, delta), [_hits(best, value) for value in deltas]
    return BoxAccuracy(
        torch.from_numpy(cuts.copy()),
        torch.from_numpy(largest),
        torch.from_numpy(best),
        as_values(one[0]),
        as_values(np.mean([hits for hits, _ in many], axis=0)),
        float(cuts[one[1]]),
        tuple(float(cuts[at]) for _, at in many),
    )


def box_ious(a: Ints, b: Ints) -> Floats:
    """Return the IoU of half-open boxes [n,4] with [m,4], float64 [n,m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(some[:, 2:] - some[:, :2]).prod(1) for some in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared), np.float64)


def _hits(ious: Floats, delta: float) -> tuple[Floats, int]:
    """Return who reaches delta, float64 [N], at the first threshold where most do, and its index."""
    reached = ious >= delta
    at = int(reached.sum(0).argmax())
    return reached[:, at].astype(np.float64), at


def _ious(level: Ints, truth: Ints, count: int) -> tuple[Floats, Floats]:
    """Return for thresholds 0 .. count - 1 the IoU of the largest component and the best of all, [count] each.

    `level` [H,W] says how many thresholds a pixel exceeds; a component tree then holds the components of all
    thresholds at once, each for the thresholds [low, high) between its parent's level and its own.
    """
    nodes, low, high, area, first = _components(level)
    ious = box_ious(nodes, truth).max(1)
    largest, best = np.zeros(count), np.zeros(count)
    for order, found in ((np.lexsort((-first, area)), largest), (np.argsort(ious), best)):
        for at in order[high[order] > low[order]].tolist():
            found[low[at] : high[at]] = ious[at]  # what comes later is larger, or better, and overwrites
    return largest, best


def _components(level: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return boxes [n,4], low, high, area and first pixel [n] of the nodes of the component tree of `level`."""
    tree = max_tree(level, connectivity=2)  # type: ignore[no-untyped-call, unused-ignore]
    parent, order = (part.ravel().astype(np.int64) for part in tree)
    flat, root = level.ravel(), int(order[0])
    own = (flat[parent] != flat) | (np.arange(flat.size) == root)  # one pixel stands for each node
    nodes = np.flatnonzero(own)
    number = np.zeros(flat.size, np.int64)
    number[nodes] = np.arange(len(nodes))
    member = number[np.where(own, np.arange(flat.size), parent)]
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

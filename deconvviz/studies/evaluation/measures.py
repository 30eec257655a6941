"""The groups of metrics that `evaluate` knows: what each measures of a batch of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.cam.engine import whole_images
from deconvviz.cam.explain import Explainer
from deconvviz.data.truth import bounds
from deconvviz.errors import DataError
from deconvviz.metrics import (
    adcc,
    best_iou,
    box_fits,
    coherency,
    complexity,
    deletion,
    energy,
    faithfulness,
    insertion,
    iou,
    pointing_game,
    road_combined,
)

SHARES = (100, 50, 15)  # percent of the pixels kept
GROUPS = ("faithfulness", "adcc", "curves", "road", "localisation")
CURVES = ("deletion", "insertion")
BOXES = ("max_box_acc", "max_box_acc_v2")  # of all images together: found when these are put together
LIT = 0.2  # of a map's maximum: what counts as lit for the IoU, as in CAM's paper
Array = NDArray[np.float64]


def columns_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics of these groups; raises DataError for an unknown one, or none."""
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or not groups:
        raise DataError(f"metrics {unknown[0] if unknown else 'none'!r} given; expected some of {', '.join(GROUPS)}")
    of_group = {
        "faithfulness": [
            f"{name}_{share}" for share in SHARES for name in ("average_drop", "increase", "average_gain")
        ],
        "adcc": ["complexity", "coherency", "adcc"],
        "curves": list(CURVES),
        "road": ["road_combined"],
        "localisation": ["pointing_game", "energy", "iou", "best_iou", *BOXES],
    }
    return tuple(name for group in GROUPS if group in groups for name in of_group[group])


@dataclass(frozen=True)
class Measured:
    """Of one batch, by name: columns [N], curves [N, S + 1], and the boxes' IoU at each threshold [N, T]."""

    columns: dict[str, Tensor]
    curves: dict[str, Array] = field(default_factory=dict)
    fits: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Measures:
    """What is measured, and how.

    groups: of GROUPS; scores: images [N, C, H, W] -> probabilities; fill: [C], what masked pixels become; steps: of the
    curves; batch_size: images scored at once.
    """

    groups: Sequence[str]
    scores: Callable[[Tensor], Tensor]
    fill: Tensor
    steps: int
    batch_size: int

    def measured(
        self,
        explainer: Explainer,
        x: Tensor,
        maps: Tensor,
        classes: Tensor,
        before: Tensor,
    ) -> Measured:
        """Measure maps [N, H, W] in 0..1 of `classes` on images x; `before`: the classes' probabilities [N]."""
        found: dict[str, Tensor] = {}
        fill, batch = self.fill.to(x), whole_images(self.batch_size, x.device)
        if "faithfulness" in self.groups:
            for share in SHARES:
                one = faithfulness(self.scores, x, maps, classes, share / 100, fill, batch, before)
                found |= {f"average_drop_{share}": one.drop, f"increase_{share}": one.increase}
                found[f"average_gain_{share}"] = one.gain
        if "adcc" in self.groups:
            drop = faithfulness(self.scores, x, maps, classes, 1.0, 0.0, batch, before).drop  # ADCC masks to the mean
            again = explainer(x * maps[:, None], classes.tolist())
            found |= {"complexity": complexity(maps), "coherency": coherency(maps, again)}
            found["adcc"] = adcc(drop, found["coherency"], found["complexity"])
        if "road" in self.groups:
            found["road_combined"] = road_combined(self.scores, x, maps, classes, batch_size=batch).score
        curves: dict[str, Array] = {}
        if "curves" in self.groups:
            walks = {
                "deletion": deletion(self.scores, x, maps, classes, self.steps, fill, batch),
                "insertion": insertion(self.scores, x, maps, classes, self.steps, None, batch),
            }
            found |= {name: curve.auc for name, curve in walks.items()}
            curves = {name: curve.probabilities.numpy() for name, curve in walks.items()}
        return Measured(found, curves)

    def located(self, maps: Tensor, masks: NDArray[np.bool_]) -> Measured:
        """Measure where maps [N, H, W] lie against the objects' masks, bool [N, H, W]; none is empty."""
        found = {
            "pointing_game": pointing_game(maps, masks, tolerance=0),
            "energy": energy(maps, masks),
            "iou": iou(maps, masks, LIT),
            "best_iou": best_iou(maps, masks),
        }
        largest, best = box_fits(maps, [[bounds(mask)] for mask in masks])
        return Measured(found, fits={"largest": largest, "best": best})

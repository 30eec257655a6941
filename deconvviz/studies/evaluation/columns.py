"""The columns of an evaluation: the metrics of each group, and what else is noted about every map."""

from __future__ import annotations

from collections.abc import Sequence

from deconvviz.choices import METRIC_GROUPS
from deconvviz.errors import DataError

SHARES = (100, 50, 15)  # per cent of the pixels that are kept, as in L-CAM's tables
CURVES = ("deletion", "insertion")
BOX_ACCURACIES = ("max_box_acc", "max_box_acc_v2")  # their threshold is chosen on all images together
BOX_FITS = ("largest", "best")  # the box of the largest component, and the best box of all components
PIXEL_COUNTS = ("on_object", "beside")  # of the pixels between neighbouring thresholds
PXAP = "pxap"  # of all images together; an image has what it adds
SALIENCY = ("saliency_metric", "best_saliency_metric")  # the first at the threshold that is best for all images
CONSTANT = "constant"  # whether the map is the same everywhere, 0 or 1
SECONDS = "seconds"
COSTS = ("forward_passes", "backward_passes", SECONDS)  # of one image

COLUMNS_BY_GROUP = {
    "faithfulness": tuple(
        f"{metric}_{share}" for share in SHARES for metric in ("average_drop", "increase", "average_gain")
    ),
    "adcc": ("complexity", "coherency", "adcc"),
    "curves": CURVES,
    "road": ("road_combined",),
    "localisation": ("pointing_game", "energy", "iou", "best_iou", *BOX_ACCURACIES, PXAP),
    "crop": SALIENCY,
    "infidelity": ("infidelity",),
    "sensitivity": ("max_sensitivity",),
    "sparseness": ("sparseness",),
    "random-logit": ("random_logit",),
}


def metric_columns(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics of these groups, in the order of METRIC_GROUPS; none of no group.

    Raises:
        DataError: a group that does not exist.

    >>> metric_columns(["curves", "adcc"])
    ('complexity', 'coherency', 'adcc', 'deletion', 'insertion')
    """
    unknown = [name for name in groups if name not in METRIC_GROUPS]
    if unknown:
        raise DataError(f"metrics {unknown[0]!r} given; expected some of {', '.join(METRIC_GROUPS)}")
    return tuple(name for group in METRIC_GROUPS if group in groups for name in COLUMNS_BY_GROUP[group])


def columns_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Return all columns of an evaluation by these groups: the metrics, whether the map is constant, and the costs.

    Raises:
        DataError: a group that does not exist.

    >>> columns_of(["road"])
    ('road_combined', 'constant', 'forward_passes', 'backward_passes', 'seconds')
    """
    return (*metric_columns(groups), CONSTANT, *COSTS)

"""How well maps explain: from a score function and maps, never from what made the maps.

Every metric gives one float64 value an image, [N] on the CPU, as a fraction; the mean is the caller's. `METRICS` names
them with the direction in which they are better. What is wrong with an input is a DataError.
"""

from deconvviz.metrics.boxes import BoxAccuracy, box_accuracy, box_fits, boxes_of, max_box_accuracy
from deconvviz.metrics.curves import Curve, deletion, gaussian_blur, insertion
from deconvviz.metrics.faithfulness import Faithfulness, adcc, coherency, complexity, faithfulness, kept
from deconvviz.metrics.inputs import Scores
from deconvviz.metrics.localisation import best_iou, energy, iou, pointing_game
from deconvviz.metrics.metric import METRICS, Metric
from deconvviz.metrics.road import Road, RoadCombined, impute, road, road_combined
from deconvviz.metrics.sanity import hog_similarity, randomised, spearman, ssim

__all__ = [
    "METRICS",
    "BoxAccuracy",
    "Curve",
    "Faithfulness",
    "Metric",
    "Road",
    "RoadCombined",
    "Scores",
    "adcc",
    "best_iou",
    "box_accuracy",
    "box_fits",
    "boxes_of",
    "coherency",
    "complexity",
    "deletion",
    "energy",
    "faithfulness",
    "gaussian_blur",
    "hog_similarity",
    "impute",
    "insertion",
    "iou",
    "kept",
    "max_box_accuracy",
    "pointing_game",
    "randomised",
    "road",
    "road_combined",
    "spearman",
    "ssim",
]

"""How well maps explain a network's decision, measured from a score function and the maps alone.

Every metric returns one float64 value for each image, [N] on the CPU, as a fraction; a mean over images is left to the
caller. `METRICS` lists the metrics with the direction in which they are better. A wrong input raises DataError.
"""

from deconvviz.metrics.boxes import BoxAccuracy, box_accuracy, box_fits, boxes_of, max_box_accuracy
from deconvviz.metrics.curves import Curve, deletion, gaussian_blur, insertion
from deconvviz.metrics.faithfulness import Faithfulness, adcc, coherency, complexity, faithfulness, strongest_pixels
from deconvviz.metrics.inputs import Scores
from deconvviz.metrics.localisation import best_iou, energy, iou, pointing_game
from deconvviz.metrics.metric import METRICS, Metric
from deconvviz.metrics.road import Imputation, Road, RoadCombined, impute, road, road_combined
from deconvviz.metrics.sanity import hog_similarity, randomised, spearman, ssim

__all__ = [
    "METRICS",
    "BoxAccuracy",
    "Curve",
    "Faithfulness",
    "Imputation",
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
    "max_box_accuracy",
    "pointing_game",
    "randomised",
    "road",
    "road_combined",
    "spearman",
    "ssim",
    "strongest_pixels",
]

"""How well maps explain a network's decision, measured from a score function and the maps alone.

Every metric returns one float64 value for each image, [N] on the CPU, in its unit; a mean over images is left to the
caller. `METRICS` lists the metrics with the direction in which they are better. A wrong input raises DataError.
"""

from deconvviz.metrics.boxes import BoxAccuracy, box_accuracy, box_fits, boxes_of, max_box_accuracy
from deconvviz.metrics.crop import saliency_metric, tightest_box
from deconvviz.metrics.curves import Curve, deletion, gaussian_blur, insertion
from deconvviz.metrics.faithfulness import Faithfulness, adcc, coherency, complexity, faithfulness, strongest_pixels
from deconvviz.metrics.infidelity import effects_of_squares, infidelity, random_squares
from deconvviz.metrics.inputs import Scores
from deconvviz.metrics.localisation import best_iou, energy, iou, pointing_game
from deconvviz.metrics.metric import METRICS, Metric
from deconvviz.metrics.movement import moves
from deconvviz.metrics.pixels import PixelCurves, pixel_counts
from deconvviz.metrics.road import Imputation, Road, RoadCombined, impute, road, road_combined
from deconvviz.metrics.robustness import max_sensitivity
from deconvviz.metrics.sanity import hog_similarity, other_classes, random_logit, randomised, spearman, ssim
from deconvviz.metrics.sparseness import sparseness

__all__ = [
    "METRICS",
    "BoxAccuracy",
    "Curve",
    "Faithfulness",
    "Imputation",
    "Metric",
    "PixelCurves",
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
    "effects_of_squares",
    "energy",
    "faithfulness",
    "gaussian_blur",
    "hog_similarity",
    "impute",
    "infidelity",
    "insertion",
    "iou",
    "max_box_accuracy",
    "max_sensitivity",
    "moves",
    "other_classes",
    "pixel_counts",
    "pointing_game",
    "random_logit",
    "random_squares",
    "randomised",
    "road",
    "road_combined",
    "saliency_metric",
    "sparseness",
    "spearman",
    "ssim",
    "strongest_pixels",
    "tightest_box",
]

"""The metrics that need all images at once: those at the threshold that is best for all, and PxAP."""

from __future__ import annotations

import numpy as np

from deconvviz.metrics import PixelCurves, box_accuracy
from deconvviz.metrics.localisation import THRESHOLDS
from deconvviz.results.tables import write_csv
from deconvviz.studies.evaluation.columns import BOX_ACCURACIES, BOX_FITS, PIXEL_COUNTS, PXAP, SALIENCY
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.types import Mask, Pathlike

EVERY = 10  # thresholds: of 1000, each tenth is written
THRESHOLD_COLUMNS = (
    "method",
    "threshold",
    "precision",
    "recall",
    "dice",
    "true_positive",
    "false_positive",
    "true_negative",
    "false_negative",
)


def set_values_of_all(evaluation: Evaluation) -> None:
    """Set what needs all images at once: MaxBoxAcc and the saliency metric at their best thresholds, and PxAP."""
    if "localisation" in evaluation.config["metrics"]:
        _set_box_accuracies(evaluation)
        if PXAP in evaluation.columns:  # older files lack it
            _set_pxap(evaluation)
    if "crop" in evaluation.config["metrics"]:
        _set_saliency(evaluation)


def _set_pxap(evaluation: Evaluation) -> None:
    """Set what each image adds to PxAP."""
    for method in evaluation.values:
        curves, measured = pixel_curves(evaluation, method)
        if curves is not None:
            evaluation.column(method, PXAP)[measured] = curves.shares()


def _set_saliency(evaluation: Evaluation) -> None:
    """Set the saliency metric at the threshold where its mean is lowest, and at each image's own best one."""
    for method in evaluation.values:
        table = evaluation.crops[method].astype(np.float64)
        measured = ~np.isnan(table[:, 0])
        if measured.any():
            best = int(table[measured].mean(0).argmin())
            for column, values in zip(SALIENCY, (table[measured, best], table[measured].min(1)), strict=True):
                evaluation.column(method, column)[measured] = values


def _set_box_accuracies(evaluation: Evaluation) -> None:
    """Set MaxBoxAcc at the threshold that is best for the images that are measured."""
    for method in evaluation.values:
        largest, best = (evaluation.fits[f"{method}/{kind}"].astype(np.float64) for kind in BOX_FITS)
        measured = ~np.isnan(largest[:, 0])
        if measured.any():
            accuracy = box_accuracy(largest[measured], best[measured])
            for column, values in zip(BOX_ACCURACIES, (accuracy.v1, accuracy.v2), strict=True):
                evaluation.column(method, column)[measured] = values.numpy()


def pixel_curves(evaluation: Evaluation, method: str) -> tuple[PixelCurves | None, Mask]:
    """Return the precision and recall of a method's pixels over thresholds, and which images they are of, bool [N].

    The curves are None where no image's object is known, or the file is older than they are.
    """
    keys = [f"{method}/{kind}" for kind in PIXEL_COUNTS]
    if not all(key in evaluation.fits for key in keys):
        return None, np.zeros(len(evaluation.names), bool)
    counts = [evaluation.fits[key].astype(np.float64) for key in keys]
    measured = ~np.isnan(counts[0][:, 0])
    return (PixelCurves(*(part[measured] for part in counts)) if measured.any() else None), measured


def save_thresholds_csv(evaluation: Evaluation, path: Pathlike) -> None:
    """Write precision, recall, Dice and what is marked rightly and wrongly, a row for each method and threshold.

    Nothing is written where no object is known. Every tenth threshold is written: 0, 0.01, ... 0.99.
    """
    rows = []
    for method in evaluation.values:
        curves, _ = pixel_curves(evaluation, method)
        if curves is None:
            continue
        pixels, on_object = curves.on_object.sum() + curves.beside.sum(), curves.on_object.sum()
        hits, false = curves.true_positives / pixels, curves.false_positives / pixels
        missed = on_object / pixels - hits
        shares = np.stack([hits, false, 1 - hits - false - missed, missed], 1)
        values = np.column_stack([THRESHOLDS, curves.precision, curves.recall, curves.dice, shares])
        rows += [(method, *row) for row in values[::EVERY].tolist()]
    if rows:
        write_csv(path, "pixel thresholds", THRESHOLD_COLUMNS, rows)

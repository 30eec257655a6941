"""Check of what a decision depends on: the object, or what is around it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

from deconvviz.choices import Severity
from deconvviz.data.pictures import tile
from deconvviz.studies.diagnosis.finding import (
    TILE_SIDE,
    CheckRun,
    Evidence,
    Finding,
    Measured,
    Skipped,
    TileSet,
    graded,
    verb,
)
from deconvviz.studies.diagnosis.measures.outside import Outside, object_masks, outside_object, shown
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Mask, Pixels

TIMES = (1.0, 2.0, 4.0)  # the gradient outside the object / on it; 1 is that of a score that does not know the object
ENOUGH = 5  # images whose object is known


@check("outside-object", "Scores that depend on what is around the object", needs=("truth",))
def outside_object_check(subject: Subject) -> CheckRun:
    """How large the gradient of the score is outside the object, against on it, at each layer with rows and columns.

    The score is that of the image's class, or of the decision where the class is not known. The size of its gradient
    at a place is summed over the channels. The value is that of a place outside the object divided by that of a place
    on it, means over the places of an image, median over at most 100 images whose object is known, in the worst layer.
    A layer whose maps are averaged right away has the same gradient everywhere, and is left out.

    Severity: a note from 1, where the object counts for no more than the rest; a warning from 2, serious from 4.

    Source: Feng et al. 2022, arXiv 2112.04934 (Model Doctor): its space constraint is the gradient outside the object.
    That 1 is the limit is derived; 2 and 4 are this package's.
    """
    if subject.scores < 2:
        return CheckRun.not_made("the network does not return a score for each class")
    known = len(object_masks(subject)[0])
    if known < ENOUGH:
        return CheckRun.not_made(
            f"the object is known, and not all of the image, in {known} images; {ENOUGH} are needed"
        )
    layers = [layer for layer in outside_object(subject) if not layer.flat and not np.isnan(layer.ratio)]
    unit = "times the gradient on the object, the worst layer"
    if not layers:
        return CheckRun(
            measured=Measured(value=None, unit=unit),
            skipped=Skipped(reason="every layer with rows and columns is averaged right away"),
        )
    findings = []
    for layer in layers:
        severity = graded(layer.ratio, TIMES)
        findings += [] if severity is None else [_depends(subject, layer, severity)]
    return CheckRun(findings=tuple(findings), measured=Measured(value=max(layer.ratio for layer in layers), unit=unit))


def _depends(subject: Subject, layer: Outside, severity: Severity) -> Finding:
    count = int((~np.isnan(layer.ratios)).sum())
    more = int((layer.ratios > 1).sum())
    return Finding(
        check="outside-object",
        severity=severity,
        layer=layer.layer,
        channels=(),
        what=f"At layer {layer.layer} the gradient of the score is {layer.ratio:.2g} times as large outside the object "
        f"as on it (median of {count} images; {more} {verb(more, 'is', 'are')} above 1), and "
        f"{100 * np.nanmean(layer.shares):.0f} % of it lies outside.",
        value=layer.ratio,
        threshold=TIMES[0],
        unit="times the gradient on the object",
        source="derived: a score that does not know where the object is has the same gradient everywhere",
        remedy="See what lies there (deconvviz cam). Vary the background of the training images, or forbid the "
        "gradient there (deconvviz train --with model-doctor --option beta=1).",
        evidence=_evidence(subject, layer),
    )


def _evidence(subject: Subject, layer: Outside) -> Evidence:
    """Show images and the size of the gradient, both with the outline of the object."""
    places, masks = object_masks(subject)
    pictures, sets = [], []
    for n, size in zip(shown(len(places)), layer.maps, strict=True):
        mask, level = masks[n], size / max(float(size.max()), 1e-30)
        grey = tile(np.repeat((level * 255).astype(np.uint8)[..., None], 3, 2), max(mask.shape))
        grey = grey[: mask.shape[0], : mask.shape[1]]
        pictures += [_outlined(picture, mask) for picture in (subject.picture(int(places[n])), grey)]
        sets.append(TileSet(tiles=2, label=f"image {subject.indices[places[n]]}: {layer.ratios[n]:.2g} times"))
    return Evidence(
        kind="tiles",
        arrays={"pictures": np.stack([tile(picture, TILE_SIDE * 2) for picture in pictures])},
        labels=("image", "gradient") * len(sets),
        x="Images, and the size of the score's gradient at each place, white the largest of the image; the outline is "
        "that of the object. Below each pair: outside the object against on it.",
        sets=tuple(sets),
    )


def _outlined(picture: Pixels, mask: Mask) -> Pixels:
    """Return a picture with the border of a mask, inside it: orange, which is neither black nor white."""
    border = mask & ~binary_erosion(mask, iterations=max(1, mask.shape[0] // 112))
    copy = np.array(picture)
    copy[border] = (230, 120, 0)
    return copy

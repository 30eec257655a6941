"""The columns of the tables of generators; the rest is in `results.columns`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

DIRECTION = "direction text |  | The score whose direction it is."
FORM = "form text |  | `plain`, or `conditional`: free of the other directions."
SCORE = "score text |  | The score that is measured; names are those of the scorer's outputs."
UNIT = "unit integer |  | From 0."
OF_IMAGE = "of the image"

LATENTS: Mapping[str, TableSchema] = {
    "latent directions": TableSchema(
        what="A row for each direction, plain and conditional, and each score.",
        written_by="`deconvviz latent`, as directions.csv; `LatentViews.save_csv` and `LatentViews.to_frame`",
        columns=_columns(
            DIRECTION,
            FORM,
            SCORE,
            "accuracy number | 0..1 | Of the linear classifier of high and low samples, on samples of its own.",
            "monotonic number | -1..1 | Mean rank correlation of the direction's own score with the step.",
            "cosine number | -1..1 | Between the plain directions of both scores.",
            "moved number | deviations | How much the score rises from end to end of the walk.",
        ),
    ),
    "latent walks": TableSchema(
        what="A row for each image along a direction and each score.",
        written_by="`deconvviz latent`, as walks.csv",
        columns=_columns(
            DIRECTION,
            FORM,
            "row integer |  | The sample where the walk begins, from 0.",
            "step number | length in z | How far along the direction.",
            SCORE,
            "value number | logit | The score before any softmax.",
        ),
    ),
    "latent codes": TableSchema(
        what="A row for each place of z.",
        written_by="`deconvviz latent`, as codes.csv",
        columns=_columns(
            "place integer |  | From 0.",
            "change number | 0..1 | Mean absolute change of a pixel when it goes from end to end.",
        ),
    ),
    "latent axes": TableSchema(
        what="A row for each principal axis of a layer and each place of z.",
        written_by="`deconvviz latent`, as axes.csv",
        columns=_columns(
            "axis integer |  | From 0, the largest variance first.",
            "explained number | 0..1 | Share of the layer's variance along it.",
            "linear number | 0..1 | Share of the variance along it that a linear function of z explains.",
            "place integer |  | Of z, from 0.",
            "value number | as z | The direction's value there; the direction has length 1.",
        ),
    ),
    "generator units": TableSchema(
        what="A row for each unit of a layer and each part; one for each unit where there are no parts.",
        written_by="`deconvviz latent`, as units.csv",
        columns=_columns(
            UNIT,
            "change number | 0..1 | Mean absolute change of a pixel when the unit is 0.",
            "largest number | of the layer | Its largest activity.",
            "samples text |  | The nine samples in which it is most active, with spaces between them.",
            "part text? |  | Name of the part. Empty without a segmenter.",
            "iou number? | 0..1 | Of where the unit fires and where the part is.",
            "chance number? | 0..1 | Largest IoU of any unit with the part in another image.",
        ),
    ),
    "unit effects": TableSchema(
        what="A row for each unit that was switched off and on, and each part.",
        written_by="`deconvviz latent`, as effects.csv",
        columns=_columns(
            UNIT,
            "part text |  | Name of the part.",
            f"removed number | {OF_IMAGE} | Mean of what goes from the part's area when the unit is 0.",
            f"removed_low number | {OF_IMAGE} | Lower end of its 95 % interval.",
            f"removed_high number | {OF_IMAGE} | Upper end.",
            "level number | of the layer | The value at which the unit counts as on.",
            f"inserted number | {OF_IMAGE} | Mean area with the unit on everywhere less that with it off.",
            f"inserted_low number | {OF_IMAGE} | Lower end of its 95 % interval.",
            f"inserted_high number | {OF_IMAGE} | Upper end.",
        ),
    ),
}

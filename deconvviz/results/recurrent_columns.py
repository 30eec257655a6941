"""The columns of the tables of recurrent networks; the rest is in `results.columns`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

LAYER = "layer text |  | Number of the layer from 0; `.backwards` is the second direction."
UNIT = "unit integer |  | From 0."

RECURRENTS: Mapping[str, TableSchema] = {
    "tracking": TableSchema(
        what="A row for each unit and property, the best units of a layer first.",
        written_by="`deconvviz recurrent`, as tracking.csv; `RecurrentViews.save_csv` and `RecurrentViews.to_frame`",
        columns=_columns(
            LAYER,
            "property text |  | position, quotes, depth, or the name of the user's column.",
            UNIT,
            "correlation number | -1..1 | Pearson's, of the unit's activity with the property.",
            "p number | 0..1 | Share of rotated properties with which some unit of the layer correlates as much.",
            "chance number | 0..1 | 95 % quantile of the largest correlation of any unit with a rotated property.",
        ),
    ),
    "token responses": TableSchema(
        what="A row for each token that occurs and each unit.",
        written_by="`deconvviz recurrent`, as responses.csv",
        columns=_columns(
            LAYER,
            "token text |  | Spaces and line ends are ␣ and ⏎.",
            "count integer | steps | How often it occurs.",
            UNIT,
            "mean number | -2..2 | Mean change of the hidden state when the token is read.",
            "q09 number | -2..2 | 9 % quantile of the change.",
            "q25 number | -2..2 | 25 % quantile.",
            "q75 number | -2..2 | 75 % quantile.",
            "q91 number | -2..2 | 91 % quantile.",
            "token_group integer |  | Group of the token; -1 where it occurs too seldom.",
            "unit_group integer |  | Group of the unit; -1 where it takes no part.",
        ),
    ),
    "gates": TableSchema(
        what="A row for each gate of each unit.",
        written_by="`deconvviz recurrent`, as gates.csv",
        columns=_columns(
            LAYER,
            "gate text |  | input, forget, output; reset, update.",
            UNIT,
            "shut number | 0..1 | Share of steps at which it is below 0.1.",
            "open number | 0..1 | Share of steps at which it is above 0.9.",
        ),
    ),
    "passages": TableSchema(
        what="A row for each of the passages in which a unit is most active, the strongest first.",
        written_by="`deconvviz recurrent`, as passages.csv",
        columns=_columns(
            LAYER,
            UNIT,
            "rank integer |  | From 1.",
            "activity number | -1..1 | Largest of the passage: tanh of the cell state, or the hidden state.",
            "sequence integer |  | From 0.",
            "step integer | steps | Of the largest activity, from the beginning of the sequence.",
            "text text |  | The tokens around it.",
        ),
    ),
    "units together": TableSchema(
        what="The chosen range of each layer, and a row for each other range where its units are on, the best first.",
        written_by="`deconvviz recurrent`, as together.csv",
        columns=_columns(
            LAYER,
            "rank integer |  | 0 is the chosen range.",
            "sequence integer |  | From 0.",
            "first integer | steps | First step, from the beginning of the sequence.",
            "last integer | steps | Last step.",
            "units text |  | Units that are on over the whole chosen range, with spaces between them.",
            "on integer | units | How many of them are on over this range.",
            "others integer? | units | How many further units are. Empty for the chosen range.",
            "text text |  | Its tokens.",
        ),
    ),
    "token relevance": TableSchema(
        what="A row for each step that took part in an output, in their order.",
        written_by="`deconvviz recurrent`, as relevance.csv",
        columns=_columns(
            "number integer |  | Of the output that is explained, from 0.",
            "output text |  | Its name.",
            "score number | logit | Its value before any softmax.",
            "read_at integer | steps | The step at which it is read, from the beginning of the sequence.",
            "sequence integer |  | From 0.",
            "step integer | steps | From the beginning of the sequence.",
            "token text |  | Spaces and line ends are ␣ and ⏎.",
            "relevance number | of the score | What the step adds to the score; below zero it speaks against it.",
        ),
    ),
    "caption": TableSchema(
        what="A row for each word of a caption and each part that it rests on: the image, and the words before.",
        written_by="`deconvviz recurrent` with `--image`, as caption.csv; `Caption.save_csv` and `Caption.to_frame`",
        columns=_columns(
            "place integer |  | Of the word in the caption, from 0.",
            "word text |  | The word.",
            "probability number | 0..1 | That the network gives it there.",
            "score number | logit | Its value before the softmax.",
            "of text |  | What the relevance is of: `image`, or a word before.",
            "of_place integer |  | Its place; -1 is the image.",
            "relevance number | of the score | What it adds to the score.",
        ),
    ),
}

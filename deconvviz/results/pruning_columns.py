"""What the tables of prunings hold; see `results.columns`, which has the rest."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

PRUNINGS: Mapping[str, TableSchema] = {
    "pruning": TableSchema(
        what="A row for each layer with weights: what is left of it.",
        written_by="`deconvviz prune`, `PruningStudy.save_csv` and `PruningStudy.to_frame`",
        columns=_columns(
            "layer text |  | Name of the layer.",
            "goes_with text? |  | The first of the layers whose filters go together with its own; empty where the "
            "layer is not pruned.",
            "filters integer? | filters | Before; empty where the layer is not pruned.",
            "kept integer? | filters | That stay.",
            "multiply_adds_before integer | products | Multiplications, each with an addition, for one image.",
            "multiply_adds_after integer | products | The same after the pruning; those of the masked network are "
            "counted as if it were slim.",
            "parameters_before integer | numbers | Of the layer.",
            "parameters_after integer | numbers | After the pruning.",
        ),
    ),
    "pruned filters": TableSchema(
        what="A row for each filter of the layers that were pruned.",
        written_by="`deconvviz prune` and `PruningStudy.save_filters_csv`",
        columns=_columns(
            "layer text |  | Name of the layer.",
            "channel integer |  | Number of the filter, from 0.",
            "unit integer |  | What goes together: filters of one group with one number.",
            "score number | that of the criterion | By the criterion; the lowest go first.",
            "kept flag |  | Whether it stays.",
        ),
    ),
    "sensitivity": TableSchema(
        what="A row for each group of layers and each share of its filters that goes, alone.",
        written_by="`deconvviz prune --sensitivity` and `PruningStudy.save_sensitivity_csv`",
        columns=_columns(
            "layer text |  | Name of the first layer of the group.",
            "removed number | share, 0..1 | Of its filters.",
            "accuracy number | share, 0..1 | Of the images, without fine-tuning.",
            "lost number | share, -1..1 | Accuracy of the whole network minus this one.",
            "lost_low number | share, -1..1 | Lower end of its 95 % interval (Bonett and Price 2012).",
            "lost_high number | share, -1..1 | Upper end.",
        ),
    ),
}

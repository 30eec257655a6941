"""What the files of prunings hold; the rest is in `results.declarations`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.analysis_declarations import CONFIG
from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

PRUNINGS: Mapping[str, FileSchema] = {
    "pruning": FileSchema(
        version=1,
        what="Which filters were taken out of a network, and what it costs and finds without them.",
        written_by="`deconvviz prune` and `dv.prune`",
        read_by="`dv.PruningStudy.load`",
        settings={
            **CONFIG,
            "config.keep": "share of the filters of each convolution that stays; null where only some layers are.",
            "config.measured_by": "`labels`, or `decisions`: right is then what the whole network decides.",
            "config.shares": "of the filters that go where a group is pruned alone.",
            "state": "JSON: `groups`, name of each group -> its layers; `layers` with weights; `totals` of parameters "
            "and notes; `pictures`, layer -> whether its pictures show weights.",
        },
        arrays=_arrays(
            "indices i images | 0 | int64: the images that are measured on, indices into the dataset.",
            "correct b forms images |  | bool: whether each image is right. Rows: the whole network, the pruned one, "
            "and after fine-tuning, as far as they are measured.",
            "multiply_adds i 2 layers | 0 | int64: multiplications for one image of each layer, before and after.",
            "parameters i 2 layers | 0 | int64: parameters of each layer, before and after.",
            "seconds f 2 repeats | 0, finite | float64: of a forward pass, the whole and the pruned network in turn.",
            "groups/*/scores f units* |  | float64: of each unit by the criterion; the lowest go first.",
            "groups/*/kept b units* |  | bool: whether the unit stays.",
            "groups/*/layers/* i channels* | 0 | int64: the unit of each channel of a layer.",
            "groups/*/sensitivity b shares images | ? | bool: whether each image is right where this group alone is "
            "pruned, by each share.",
            "pictures/*/channels i shown* | 0, ? | int64: filters of which there are pictures.",
            "pictures/*/kept b shown* | ? | bool: whether the filter stayed.",
            "pictures/*/tiles u8 shown* k* height* width* 3 | ? | uint8: its weights, or its strongest patches.",
        ),
    ),
}

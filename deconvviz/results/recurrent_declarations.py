"""What the files of the views of recurrent networks hold; the rest is in `results.declarations`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.analysis_declarations import CONFIG
from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

RECURRENTS: Mapping[str, FileSchema] = {
    "recurrent": FileSchema(
        version=1,
        what="What the units of a recurrent network do over some sequences, and which tokens made its outputs.",
        written_by="`deconvviz recurrent`, `dv.recurrent` and `RecurrentViews.save`",
        read_by="`dv.RecurrentViews.load`",
        settings={
            **CONFIG,
            "config.recurrent": "LSTM, GRU or RNN.",
            "config.vocabulary": "the tokens in the order of their numbers; empty where steps are vectors.",
            "config.layers": "names of the layers; `.backwards` is the second direction.",
            "config.tracked": "names of the properties, by whose places arrays are numbered.",
            "config.chance": "for each layer and property the 95 % quantile of the largest correlation by chance.",
            "state": "JSON: `relevance`, what is explained in each array of that name; `skipped`, view -> why it is "
            "not there.",
        },
        arrays=_arrays(
            "ids i steps | -1 | int64: number of each token; -1 where steps are vectors.",
            "lengths i sequences | 1 | int64: steps of each sequence.",
            "layers/*/counts i tokens* | 0 | int64: how often each token occurs.",
            "layers/*/mean f tokens* units* |  | float64: mean change of a unit's hidden state when it reads a token; "
            "NaN where the token does not occur.",
            "layers/*/quantiles f 4 tokens* units* |  | float64: the 9, 25, 75 and 91 % quantiles of these changes.",
            "layers/*/token_groups i tokens* | -1 | int64: group of each token; -1 where it takes no part.",
            "layers/*/unit_groups i units* | -1 | int64: group of each unit; -1 where it takes no part.",
            "layers/*/gates/* f units* 2 | 0, finite, ? | float64: shares of steps at which the gate is shut (below "
            "0.1) and open (above 0.9).",
            "layers/*/tracked/*/correlation f units* | finite, ? | float64: of each unit's activity with the property.",
            "layers/*/tracked/*/p f units* | 0, finite, ? | float64: share of rotated properties with which some unit "
            "correlates as much.",
            "layers/*/top_values f units* k |  | float32: largest activities of each unit in different passages; "
            "minus infinity where there are fewer.",
            "layers/*/top_steps i units* k | -1 | int64: their steps, counted over all sequences; -1 there.",
            "layers/*/together/on i on* | 0, ? | int64: units that are on over the whole chosen range.",
            "layers/*/together/ranges i ranges* 2 | 0, ? | int64: first step of another range and the step behind it.",
            "layers/*/together/shared i ranges* | 0, ? | int64: how many of the units are on over each.",
            "layers/*/together/others i ranges* | 0, ? | int64: how many further units are.",
            "layers/*/together/chosen i 2 | 0, ? | int64: the chosen range, likewise.",
            "layers/*/activity f shown units* | finite | float32: activity of the first steps.",
            "relevance/*/values f explained* | finite, ? | float64: relevance of each step, in units of the score.",
        ),
    ),
    "recording": FileSchema(
        version=1,
        what="Which recurrent network read which sequences, by which a folder is known again; it has no arrays.",
        written_by="`deconvviz recurrent` and `dv.recurrent`",
        read_by="the same command, which resumes",
        settings=CONFIG,
        arrays=(),
    ),
}

"""What the files of the views of generators hold; the rest is in `results.declarations`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.analysis_declarations import CONFIG
from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

LATENTS: Mapping[str, FileSchema] = {
    "latent": FileSchema(
        version=1,
        what="What the codes, directions, axes and units of a generator change in its images.",
        written_by="`deconvviz latent`, `dv.latent` and `LatentViews.save`",
        read_by="`dv.LatentViews.load`",
        settings={
            **CONFIG,
            "state": "JSON: `name`, `size` (of z), `samples`, `classes` (of the scorer), `skipped` (view -> why it is "
            "not there), and `directions_named`, `axes_named`, `units_named`: names of scores, layers and parts.",
        },
        arrays=_arrays(
            "first u8 images H W C |  | uint8: images of the first samples.",
            "sweeps/change f d | 0, finite | float64: mean absolute change of a pixel when a place of z is swept.",
            "sweeps/values f S | finite | float64: the values of a swept place.",
            "sweeps/places i P | 0 | int64: the places that are drawn.",
            "sweeps/images u8 P S H W C |  | uint8: their images.",
            "sweeps/categories u8 K R most H W C |  | uint8: images for each category of a categorical code.",
            "sweeps/sizes i K | 2 | int64: how many categories each categorical code has.",
            "sweeps/counts i K most classes | 0 | int64: classes that the scorer gives to images of a category.",
            "sweeps/information f codes | 0, finite | float64: mutual information of category and class in nats.",
            "sweeps/chance f codes | 0, finite | float64: 95 % quantile of it with the classes permuted.",
            "directions/vectors f A d | finite, ? | float64: directions of length 1.",
            "directions/conditional f A d | finite, ? | float64: free of the other ones; zeros where nothing is left.",
            "directions/accuracy f A | 0, finite, ? | float64: of the classifier of high and low samples.",
            "directions/deviation f A | 0, finite, ? | float64: of each score over the samples.",
            "directions/steps f S | finite, ? | float64: how far along a direction.",
            "directions/images u8 2 A rows S H W C | ? | uint8: images along plain and conditional directions.",
            "directions/scores f 2 A rows S A | finite, ? | float64: the scores of these images.",
            "directions/monotonic f 2 A | finite, ? | float64: rank correlation of the own score with the step.",
            "axes/vectors f p d | finite | float64: principal axes of a layer as directions of z.",
            "axes/explained f p | 0, finite | float64: share of the layer's variance.",
            "axes/linear f p | 0, finite | float64: share of the variance along it that z explains linearly.",
            "axes/steps f S | finite | float64: how far along an axis.",
            "axes/images u8 p S H W C |  | uint8: images along the axes.",
            "units/iou f U M | 0, finite, ? | float64: of where a unit fires and where a part is.",
            "units/chance f M | 0, finite, ? | float64: largest IoU of any unit with the part in another image.",
            "units/change f U | 0, finite, ? | float64: mean absolute change of a pixel without the unit.",
            "units/top_values f U 9 | ? | float32: largest activities; minus infinity where there are fewer samples.",
            "units/top_samples i U 9 | -1, ? | int64: in which samples.",
            "units/chosen i E | 0, ? | int64: units that were switched off and on.",
            "units/levels f E | finite, ? | float64: the value that counts as on.",
            "units/removed f E M 3 | finite, ? | float64: what of a part's area goes without it, and the interval.",
            "units/inserted f E M 3 | finite, ? | float64: area with the unit on less that with it off, likewise.",
            "units/images u8 E 9 H W C | ? | uint8: images in which the unit is most active.",
            "units/edited u8 E shown 3 H W C | ? | uint8: as they are, with the unit off, and with it on.",
        ),
    ),
    "latent-job": FileSchema(
        version=1,
        what="Which generator and scorer a folder is about, by which it is known again; it has no arrays.",
        written_by="`deconvviz latent` and `dv.latent`",
        read_by="the same command, which resumes",
        settings=CONFIG,
        arrays=(),
    ),
}

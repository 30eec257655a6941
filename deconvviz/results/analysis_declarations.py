"""What the files of an atlas, of dissections, relevance and pictures hold; the rest is in `results.declarations`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

CONFIG = {
    "config": "JSON: what decides the result, such as the fingerprints of network and images, the layers and the "
    "preprocessing. Files are resumed and joined only where it is equal.",
    "sources": "JSON: where model, weights and images were, the command, the versions that computed, and a digest of "
    "the network's architecture without its weights. It only informs.",
    "state": "JSON: how far the result is.",
}

ANALYSES: Mapping[str, FileSchema] = {
    "relevance": FileSchema(
        version=1,
        what="Which channels of some layers made a network's decisions, and the images in which each weighed most.",
        written_by="`deconvviz relevance`, `deconvviz merge`, `dv.relevance` and `dv.merge_relevance`",
        read_by="`dv.load_relevance`",
        settings={
            **CONFIG,
            "state": "JSON: `done`, the images that are done, and `total`.",
            "sources.outputs": "names of the network's outputs. Absent where they are unknown.",
            "sources.left_out": "name -> reason of each image that could not be used. Absent where there is none.",
        },
        arrays=_arrays(
            "layers/*/shares/total f classes channels* | finite | float64: sum of the channel's shares over the "
            "decisions for each class.",
            "layers/*/shares/squares f classes channels* | 0, finite | float64: sum of their squares.",
            "layers/*/shares/decided i classes | 0 | int64: decisions for each class.",
            "layers/*/relevance/values f channels* k |  | float32: the channel's largest shares in a decision, in "
            "0..1, one for each image, the largest first. Minus infinity where fewer than k images have one above 0.",
            "layers/*/relevance/images i channels* k | -1 | int64: index into the store of each of these images; -1 "
            "where there are fewer.",
            "layers/*/relevance/positions i channels* k 2 | -1 | int64: (y, x) on the layer's map of the unit with the "
            "largest relevance.",
            "layers/*/activation/values f channels* k |  | float32: the largest activations, as in a mined file.",
            "layers/*/activation/images i channels* k | -1 | int64: their images.",
            "layers/*/activation/positions i channels* k 2 | -1 | int64: (y, x) of these activations.",
            "layers/*/fired i channels* | 0 | int64: number of images in which the channel is above zero somewhere.",
            "layers/*/total f channels* |  | float64: sum over the images of the channel's mean over its map.",
            "layers/*/maximum f channels* |  | float32: largest activation over all images.",
            "layers/*/broken i channels* | 0 | int64: activations that were NaN or infinite; they count nowhere.",
            "layers/*/seen i | 0 | int64: number of images.",
            "layers/*/left_out i | 0 | int64: images whose relevance is not finite; they have no share.",
            "layers/*/parts f 5 | finite | float64: sums over the images, in units of the score: the scores; the "
            "relevance of the layer's channels; what passes the layer by; what biases keep; the rest.",
        ),
    ),
    "visualisation": FileSchema(
        version=1,
        what="Pictures that channels, classes or directions would like best.",
        written_by="`deconvviz visualise`, with `--save`, and `Visualisation.save`",
        read_by="`dv.Visualisation.load`",
        settings={
            **CONFIG,
            "config.layer": "the layer; empty where a class was made large.",
            "config.objective": "what was made large.",
            "config.size": "(height, width) of the pictures in pixels.",
            "config.variants": "pictures of each channel, which stand together.",
        },
        arrays=_arrays(
            "channels i pictures | 0 | int64: the channel, class or row of the directions.",
            "pictures f pictures height width colours | finite | float32: in 0..1, the share of the way from black to "
            "white.",
            "values f pictures |  | float64: the objective for the finished picture, in units of the layer's values.",
            "strongest f pictures |  | float64: the largest value on the channel's map for the finished picture; of "
            "other objectives than a channel's mean the objective.",
            "mined f pictures |  | float64: the channel's largest activation that was mined; NaN where none is known.",
            "curve f steps pictures |  | float64: the objective at each step, for the moved and turned picture.",
            "opacity f pictures rows columns | 0, finite | float32: in 0..1, how much the objective looked at each "
            "pixel; rows and columns are 0 where it was not measured.",
        ),
    ),
    "inversion": FileSchema(
        version=1,
        what="What some layers of one or several networks still know of an image.",
        written_by="`deconvviz invert`, with `--save`, and `Inversion.save`",
        read_by="`dv.Inversion.load`",
        settings={**CONFIG, "config.networks": "the name and the layers of each network, in their order."},
        arrays=_arrays(
            "networks/*/original f height* width* colours* | finite | float32: the image as the network sees it, 0..1.",
            "networks/*/pictures f layers* height* width* colours* | finite | float32: what was found from each layer.",
            "networks/*/errors f layers* |  | float64: squared distance of the layer's values over the squared size of "
            "the image's.",
        ),
    ),
    "dissection": FileSchema(
        version=1,
        what="Which concepts the channels of some layers detect, as counts from which the table of names follows.",
        written_by="`deconvviz dissect`, `dv.dissect` and `deconvviz merge-dissections`",
        read_by="`dv.Dissection.load`",
        settings={
            **CONFIG,
            "state": "JSON: `stage`, the pass (quantiles or counts); `done` images of it and `total`; `images` that "
            "were counted; `concepts`, [kind, name] each; `classes` of the images.",
        },
        arrays=_arrays(
            "shown i concepts places | 0 | int32: pictures that have a concept at a place; the places are the pixels "
            "that are looked at, row by row.",
            "class_counts i classes | 0 | int64: images of each class.",
            "layers/*/values f channels* top |  | float32: largest activations of each channel, as in a mined file.",
            "layers/*/images i channels* top | -1 | int64: index of their images.",
            "layers/*/positions i channels* top 2 | -1 | int64: (y, x) on the layer's map.",
            "layers/*/labels i channels* top | -1 | int64: classes of these images; -1 where unknown.",
            "layers/*/histogram i channels* bins | 0, ? | int64: all values by their bins, in the first pass only.",
            "layers/*/thresholds f channels* | ? | float32: just below the quantile, in the layer's units.",
            "layers/*/fires i channels* places* | 0 | int32: pictures in which the channel is above it at a place.",
            "layers/*/both i channels* concepts* | 0 | int64: pixels at which it is, and the concept too.",
            "layers/*/example_channels i examples* | 0, ? | int64: channels that have pictures.",
            "layers/*/example_pictures u8 examples* pictures height width 3 | ? | uint8: their strongest images.",
            "layers/*/example_above b examples* pictures height width | ? | bool: where the channel is above.",
        ),
    ),
    "decisions": FileSchema(
        version=1,
        what="What a network decides about some images and why, for the pages of an atlas.",
        written_by="`deconvviz atlas`",
        read_by="the pages",
        settings={**CONFIG, "state": "JSON: `done`, the images that are explained, and `names` of the outputs."},
        arrays=_arrays(
            "images i decisions | 0 | int64: index into the store, ascending.",
            "targets i decisions targets | 0 | int64: the outputs that are explained, the most probable first; the "
            "label's output takes the last place if it is not among them.",
            "probabilities f decisions targets | 0, finite | float64: of the targets, in 0..1.",
            "label_output i decisions | -1 | int64: the output of the image's label; -1 where it is unknown.",
            "maps u8 decisions methods targets height width |  | uint8: each map from its own minimum, 0, to its "
            "maximum, "
            "255; 0 where it is constant.",
            "occlusion/probability f decisions targets rows columns | ? | float32: of a target while a grey square "
            "covers "
            "each window.",
            "occlusion/square i 2 | 1, ? | int64: height and width of the square in pixels.",
            "occlusion/places i windows 4 | ? | int64: (top, left, bottom, right) of each window in pixels, row by "
            "row.",
            "because/channels i decisions targets reasons | -1, ? | int64: of the layer `config.because.layer`, the "
            "five channels with the largest shares above zero in the target's score, the largest first; in the last "
            "place that with the smallest below zero; -1 where there is none.",
            "because/shares f decisions targets reasons | finite, ? | float64: the relevance of each over the sum of "
            "the absolute relevance of all channels of the layer, in -1..1; 0 where there is none.",
        ),
    ),
    "invariance of filters": FileSchema(
        version=1,
        what="How invariant each filter of the layers of an atlas is.",
        written_by="`deconvviz atlas --invariance`",
        read_by="the same command",
        settings=CONFIG,
        arrays=_arrays(
            "*/invariance/* f ... | ? | float64: `LAYER/invariance/KIND` [channels], the score of each filter "
            "under a kind of transform: 1 where nothing changes, 0 where a transformed image is as far away as "
            "another one; "
            "NaN where it is not defined."
        ),
    ),
    "occlusion of filters": FileSchema(
        version=1,
        what="How filters of the layers of an atlas respond while a square covers their strongest image.",
        written_by="`deconvviz atlas --occlusion`",
        read_by="the same command",
        settings={**CONFIG, "state": "JSON: `done`, the images that are measured, and `total`, those to measure."},
        arrays=_arrays(
            "*/occlusion/image i channels* | -1, ? | int64: the strongest image, an index into the store; -1 where the "
            "filter is not measured.",
            "*/occlusion/values f channels* windows | ? | float32: sum of the filter's map while the square covers "
            "each "
            "window, row by row; NaN where it is not measured.",
            "*/occlusion/* f ... | ? | float32: `LAYER/occlusion/whole` [channels], the sum without a square.",
        ),
    ),
    "ranges of filters": FileSchema(
        version=1,
        what="Images from the whole range of the filters of the layers of an atlas, and how alike they are.",
        written_by="`deconvviz atlas`",
        read_by="the same command",
        settings=CONFIG,
        arrays=_arrays(
            "*/range/quantiles f filters* 9 | 0, ? | float64: where an image stands among those that were sampled, in "
            "0..1; NaN where fewer were sampled.",
            "*/range/images i filters* n* | -1, ? | int64: index into the store of the images at these quantiles, then "
            "of the weakest ones, the weakest first; -1 where there are fewer.",
            "*/range/values f filters* n* | ? | float64: the filter's maximum on each of them; NaN there.",
            "*/range/positions i filters* n* 2 | -1, ? | int64: (y, x) on the layer's map of the filter's strongest "
            "unit, of the middle where all units are equal; -1 there.",
            "*/range/likeness_of_top f filters* | ? | float64: mean cosine of each of the strongest images with the "
            "others, between the values of all other channels at the filter's strongest unit, less their means; NaN "
            "where there are fewer than two.",
            "*/range/likeness_of_upper f filters* | ? | float64: the same of the images of the upper range with the "
            "strongest ones; NaN where there are none.",
        ),
    ),
    "wanted pictures": FileSchema(
        version=1,
        what="The pictures that filters of a layer would like best, as tiles.",
        written_by="`deconvviz atlas --wanted`",
        read_by="the same command",
        settings=CONFIG,
        arrays=_arrays("pictures u8 filters 1 height width 3 | ? | uint8: those of the first filters that are made."),
    ),
    "silenced filters": FileSchema(
        version=1,
        what="How probable each class is on the strongest images of filters, with each of them and without it.",
        written_by="`deconvviz atlas --off`",
        read_by="the same command",
        settings={**CONFIG, "state": "JSON: `done`, the images that are measured, and `total`, those to measure."},
        arrays=_arrays(
            "*/off/* f channels* outputs | 0, ? | float64: `LAYER/off/before` and `LAYER/off/after`, the sums of the "
            "probabilities over the strongest images of the filter that are measured."
        ),
    ),
    "gallery": FileSchema(
        version=1,
        what="A layer as an atlas shows it. Pictures are tiles: those of a filter stand side by side in one image "
        "file.",
        written_by="`deconvviz atlas`",
        read_by="`deconvviz.results.tiles.load_gallery`",
        settings={
            **CONFIG,
            "state": "JSON: `rule` of the projections, and `why` it was chosen; `switches`, whether the "
            "deconvnet has some; `rectified`, whether the layer's values come from rectifiers; `pooled`, whether the "
            "network has max pooling; `channels` and `dead`, how "
            "many filters the whole layer has, and how many of them are dead; `off_names`, the names of the outputs in "
            "`off/classes`.",
        },
        arrays=_arrays(
            "channels i filters | 0 | int64: the filters that are shown.",
            "values f filters k | ? | float32: their largest activations, strongest first; 0 where there is none above "
            "zero.",
            "images i filters k | -1, ? | int64: index into the store of each of these images; -1 where there is none.",
            "positions i filters k 2 | -1, ? | int64: (y, x) on the layer's map.",
            "boxes i filters k 4 | ? | int64: (top, left, bottom, right) of the pixels that the unit sees.",
            "windows i filters k 4 | ? | int64: the same of the part that is shown.",
            "fired i filters | 0, ? | int64: images in which the filter is above zero somewhere.",
            "firing_rate f filters | 0, ? | float64: their share, in 0..1.",
            "maximum f filters | ? | float32: largest activation over all images.",
            "mean_activation f filters | ? | float64: mean over images and positions.",
            "dead u8 filters | ? | uint8: 1 where the filter is above zero in no image, else 0.",
            "*/data u8 bytes* | ? | uint8: the image files of `patches`, `projections` and other tiles, one for each "
            "filter, one after the other.",
            "*/offsets i tiles* | 0, ? | int64: where each file begins, and where the last one ends.",
            "*/shape i 5 | 0, ? | int64: (filters, tiles of a filter, height, width, 3).",
            "filters u8 filters height width 3 | ? | uint8: the weights of a layer that reads the image, as pictures.",
            "duplicate_of i filters | -1, ? | int64: the channel that behaves the same; -1 where there is none.",
            "neighbours i filters neighbours | -1, ? | int64: the channels that behave most alike, the most alike "
            "first.",
            "similarity f filters neighbours | ? | float32: correlation with each of them over the images, in -1..1.",
            "top_class i filters | -1, ? | int64: most frequent class of the k images; -1 where it is unknown.",
            "top_class_share f filters | ? | float64: its share of them, in 0..1.",
            'invariance/* f filters | ? | float64: score under a kind of transform, as in the file "invariance of '
            'filters".',
            'occlusion/* n ... | ? | any: as in the file "occlusion of filters", for the filters that are shown.',
            "relevance/images i filters k | -1, ? | int64: index into the store of the images in whose decisions the "
            "filter had the largest shares of its layer's relevance, as in a relevance file; -1 where there are fewer.",
            "relevance/shares f filters k | 0, ? | float32: these shares, in 0..1, the largest first; 0 there.",
            "range/quantiles f filters 9 | 0, ? | float64: where an image stands among those that were sampled, in "
            "0..1; NaN where fewer were sampled.",
            "range/images i filters n | -1, ? | int64: index into the store of the images at these quantiles, then of "
            "the weakest ones, the weakest first; -1 where there are fewer.",
            "range/values f filters n | ? | float32: the filter's maximum on each of them; NaN there.",
            "range/windows i filters n 4 | ? | int64: (top, left, bottom, right) of the part that is shown; -1 there.",
            "range/likeness f filters 2 | ? | float64: likeness of the upper range to the strongest images, and of "
            'these among each other, as in the file "ranges of filters".',
            "range/counts i filters bins | 0, ? | int64: images whose maximum lies in each bin, as in a mined file.",
            "range/sampled i 1 | 0, ? | int64: number of images that were sampled.",
            "off/classes i filters 3 | -1, ? | int64: the outputs whose mean probability over the filter's images "
            "falls most without it; -1 where no further one falls.",
            "off/* f filters 3 | ? | float32: `off/before` and `off/after`, these probabilities, in 0..1; NaN there.",
            "* n ... | ? | any: `evolution/epochs` int64 [E]; `evolution/channels` int64 [G]; `evolution/values` "
            "float32 "
            "[G, E], the largest activation after each epoch.",
        ),
    ),
    "tiles of a gallery": FileSchema(
        version=1,
        what="Patches and projections of a block of filters, until the gallery of their layer is written.",
        written_by="`deconvviz atlas --ray`",
        read_by="the same command",
        settings=CONFIG,
        arrays=_arrays(
            "boxes i filters k 4 | ? | int64: as in a gallery.",
            "windows i filters k 4 | ? | int64: as in a gallery.",
            "*/data u8 bytes* | ? | uint8: as in a gallery.",
            "*/offsets i tiles* | 0, ? | int64: as in a gallery.",
            "*/shape i 5 | 0, ? | int64: as in a gallery.",
        ),
    ),
    "resembling images": FileSchema(
        version=1,
        what="The training images that the images of an atlas's decisions resemble.",
        written_by="`deconvviz atlas`, with `--examples`",
        read_by="`deconvviz atlas`",
        settings={
            **CONFIG,
            "config.layer": "the embedding, the mean of whose channels is compared.",
            "state": "JSON: `names` and `classes` of the nearest images, a list for each image.",
        },
        arrays=_arrays(
            "images i images | 0 | int64: the images of the store that are explained.",
            "nearest i images k | 0 | int64: the nearest training images, the nearest first.",
            "cosine f images k | finite | float32: cosine of the embeddings.",
            "pictures u8 images k height width 3 |  | uint8: the training images as the network sees them.",
        ),
    ),
}

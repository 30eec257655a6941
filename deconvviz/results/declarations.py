"""What each kind of HDF5 file holds, declared once: its arrays with types, axes, ranges, and what they mean.

An array is declared as "name type axes | flags | dtype: meaning":

* a star in a name stands for any text, such as the name of a layer;
* types: "i" whole numbers, "f" floating ones, "n" either, "u8" uint8, "b" booleans, "t" text;
* axes: their names, with spaces between. Axes of one name have one length; a name that ends in a star is meant for one
  star's text alone; a number is a fixed length; "..." is any number of axes;
* flags: the least value; "finite" for numbers that must not be NaN or infinite; "?" for an array that may be absent;
* dtype: as it is written; meaning: a sentence with unit and order, for docs/files.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

_CONFIG = {
    "config": "JSON: what decides the result, such as the fingerprints of network and images, the layers and the "
    "preprocessing. Files are resumed and joined only where it is equal.",
    "sources": "JSON: where model, weights and images were, the command, the versions that computed, and a digest of "
    "the network's architecture without its weights. It only informs.",
    "state": "JSON: how far the result is.",
}


FILES: Mapping[str, FileSchema] = {
    "mined": FileSchema(
        version=1,
        what="The k images that activate each channel of some layers most, and what figures need of them.",
        written_by="`deconvviz mine` and `dv.mine`; `deconvviz grid` adds to it",
        read_by="`dv.load_mined`",
        settings={
            **_CONFIG,
            "state": "JSON: `done`, the images that were mined, and `total`, the images to mine.",
            "sources.receptive_fields": "layer -> [size, stride, offset] of a unit's receptive field, (rows, columns) "
            "each in pixels; with `sources.image_size`, (height, width) of the network's input. Absent in older files.",
            "sources.left_out": "name -> reason of each image that could not be used. Absent where there is none.",
        },
        arrays=_arrays(
            "layers/*/values f channels* k |  | float32: the largest activations of each channel, one for each image, "
            "strongest first; in units of the layer's output. Minus infinity where fewer than k images were mined.",
            "layers/*/images i channels* k | -1 | int64: index into the store of each of these images; -1 where there "
            "are fewer. Of equal values the image with the lower index comes first.",
            "layers/*/positions i channels* k 2 | -1 | int64: (y, x), row and column of the activation on the layer's "
            "map, from 0.",
            "layers/*/fired i channels* | 0 | int64: number of images in which the channel is above zero somewhere.",
            "layers/*/total f channels* |  | float64: sum over the images of the channel's mean over its map.",
            "layers/*/maximum f channels* |  | float32: largest activation over all images.",
            "layers/*/broken i channels* | 0 | int64: number of values that were NaN or infinite; they count nowhere.",
            "layers/*/seen i | 0 | int64: number of images that were mined.",
            "projections/*_box i 4 | 0, ? | int64: (top, left, bottom, right) in pixels of the part of the image that "
            "the unit sees; bottom and right are outside of it.",
            "projections/*_need i 4 | ? | int64: the smallest such box that keeps 90 % of the unit's activation.",
            "projections/* f ... | ? | float16: `projections/LAYER/RULE/CHANNEL/RANK` [C, h, w], the projection of one "
            "entry on the pixels of its box, in units of its largest absolute value; "
            "`projections/LAYER/map/CHANNEL/RANK` "
            "[rows, columns], the channel's map on that image in units of the entry's value.",
            "figures/* n ... | ? | any: about a layer, for its figure: `crop_RULE` int64 [1], the side of a patch in "
            "pixels; `need_RULE` float64 [units, 2], the side that each unit needs and the share of its activation "
            "that "
            "the layer's side keeps; `kept/RULE` float64 [units, 2], what the strongest 5 and 10 % of the pixels bring "
            "back, by which `auto` chooses; `switches` int64 [1], 1 where the deconvnet has some; `rectified` "
            "int64 [1], 1 where the layer's values come from rectifiers; `receptive_field` int64 [2], rows and "
            "columns; "
            "`filters` float32 [F, h, w, C], the weights of a layer that reads the image, else empty.",
        ),
    ),
    "evaluation": FileSchema(
        version=2,
        what="How well methods explain a network, image by image.",
        written_by="`deconvviz evaluate` and `dv.evaluate`",
        read_by="`dv.Evaluation.load`",
        settings={
            **_CONFIG,
            "state.columns": 'names of the columns of `values`, in their order; the table "evaluation of images" below '
            "says what each is.",
            "state.names": "names of the images, in their order.",
            "state.classes": "names of the images' classes.",
        },
        arrays=_arrays(
            "explained i images | -1 | int64: the output that is explained; -1 until the image is measured.",
            "probability f images |  | float64: of that output, in 0..1.",
            "labels i images | -1 | int64: class of each image; -1 where it is unknown.",
            "pictures u8 shown height width 3 |  | uint8: the first few images, as figures show them: red, green, "
            "blue.",
            "values/* f images columns | ? | float64: of a method; NaN until the image is measured.",
            "curves/* f images steps | ? | float64: `METHOD/deletion` and `METHOD/insertion`: the probability of the "
            "explained output after each step, from none to all of the pixels.",
            "fits/* f images thresholds | ? | float32: `METHOD/largest` and `METHOD/best`: intersection over union "
            "with "
            "the true boxes at each threshold of the map.",
            "maps/* f shown height width | ? | float32: a method's maps of the first few images, in 0..1.",
        ),
    ),
    "relevance": FileSchema(
        version=1,
        what="Which channels of some layers made a network's decisions, and the images in which each weighed most.",
        written_by="`deconvviz relevance`, `deconvviz merge`, `dv.relevance` and `dv.merge_relevance`",
        read_by="`dv.load_relevance`",
        settings={
            **_CONFIG,
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
    "lesions": FileSchema(
        version=1,
        what="What a network loses when a filter or a layer is silenced, as sums over the images.",
        written_by="`deconvviz lesion` and `dv.lesion`",
        read_by="`dv.Lesions.load`",
        settings={
            **_CONFIG,
            "state": "JSON: `right`, the images that the intact network classifies correctly; `loss`, "
            "the sum of its log-losses in nats; `images` that are done and `total`.",
        },
        arrays=_arrays(
            "layer i lesions | 0 | int64: index into `config.layers`.",
            "channel i lesions | -1 | int64: the channel that is silenced; -1 for all of the layer.",
            "lost i lesions | 0 | int64: images that were classified correctly and now are not.",
            "gained i lesions | 0 | int64: images that are classified correctly only with the lesion.",
            "rise f lesions | finite | float64: sum over the images of the rise of the log-loss, in nats.",
            "squares f lesions | 0, finite | float64: sum of the squares of these rises.",
            "means/* f channels* | finite, ? | float64: mean of each channel over images and positions, which takes "
            "its "
            "place; only where that was asked for.",
        ),
    ),
    "decisions": FileSchema(
        version=1,
        what="What a network decides about some images and why, for the pages of an atlas.",
        written_by="`deconvviz atlas`",
        read_by="the pages",
        settings={**_CONFIG, "state": "JSON: `done`, the images that are explained, and `names` of the outputs."},
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
    "ablation": FileSchema(
        version=1,
        what="Which validation images each variant of a network classifies correctly; its trainings are beside it.",
        written_by="`deconvviz ablate` and `dv.ablate`",
        read_by="the same command, which resumes",
        settings=_CONFIG,
        arrays=_arrays("* b images | ? | bool: of a variant: whether each validation image is classified correctly."),
    ),
    "atlas": FileSchema(
        version=1,
        what="The settings of an atlas, by which its folder is known again; it has no arrays.",
        written_by="`deconvviz atlas`",
        read_by="the same command, which resumes",
        settings=_CONFIG,
        arrays=(),
    ),
    "invariance of filters": FileSchema(
        version=1,
        what="How invariant each filter of the layers of an atlas is.",
        written_by="`deconvviz atlas --invariance`",
        read_by="the same command",
        settings=_CONFIG,
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
        settings={**_CONFIG, "state": "JSON: `done`, the images that are measured."},
        arrays=_arrays(
            "*/occlusion/image i channels* | -1, ? | int64: the strongest image, an index into the store; -1 where the "
            "filter is not measured.",
            "*/occlusion/values f channels* windows | ? | float32: sum of the filter's map while the square covers "
            "each "
            "window, row by row; NaN where it is not measured.",
            "*/occlusion/* f ... | ? | float32: `LAYER/occlusion/whole` [channels], the sum without a square.",
        ),
    ),
    "silenced filters": FileSchema(
        version=1,
        what="How probable each class is on the strongest images of filters, with each of them and without it.",
        written_by="`deconvviz atlas --off`",
        read_by="the same command",
        settings={**_CONFIG, "state": "JSON: `done`, the images that are measured."},
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
            **_CONFIG,
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
        settings=_CONFIG,
        arrays=_arrays(
            "boxes i filters k 4 | ? | int64: as in a gallery.",
            "windows i filters k 4 | ? | int64: as in a gallery.",
            "*/data u8 bytes* | ? | uint8: as in a gallery.",
            "*/offsets i tiles* | 0, ? | int64: as in a gallery.",
            "*/shape i 5 | 0, ? | int64: as in a gallery.",
        ),
    ),
    "features": FileSchema(
        version=1,
        what="The values of layers for many images, one row an image.",
        written_by="`deconvviz probe` and `dv.stream_features`",
        read_by="`dv.Features`",
        settings={
            **{name: _CONFIG[name] for name in ("config", "sources")},
            "lists": "BLAKE2 digest of labels, classes and config.",
        },
        arrays=_arrays(
            "labels i images | -1 | int64: class of each image; -1 where it is unknown.",
            "classes t classes |  | text: the class names.",
            "done i 1 | 0 | int64: number of rows that are written.",
            "layers/* f images width* | ? | float32 or float16: the values of a layer, flattened in the order channel, "
            "row, column, or pooled.",
            "digests/* u8 images 16 | ? | uint8: BLAKE2 digest of each row, checked when it is read. Absent in older "
            "files.",
        ),
    ),
    "snapshots": FileSchema(
        version=1,
        what="The weights of a network at some epochs of its training.",
        written_by="`deconvviz train --snapshots FILE`, `dv.SnapshotRecorder` and the Lightning callback",
        read_by="`dv.Snapshots`",
        settings={
            **{name: _CONFIG[name] for name in ("config", "sources")},
            "history": "JSON: a record of metrics for every epoch.",
            "epochs": "JSON: the epochs whose weights are kept.",
            "epochs/NNNNN.sha256": "digest of an epoch's tensors.",
        },
        arrays=_arrays(
            "epochs/* n ... | ? | any: `epochs/NNNNN/NAME`: a tensor of the state dict, in its own shape and dtype."
        ),
    ),
    "deconvviz-images": FileSchema(
        version=2,
        what="A store of images, or one shard of it: `pack --shards N` writes N such files, "
        "`shard-00003-of-00008.h5` and so on, to a folder that reads as one store, in the order of their names.",
        written_by="`deconvviz pack` and `dv.pack`",
        read_by="`dv.ImageStore.open`",
        settings={
            "format": "deconvviz-images",
            "kind": "`encoded`: the image files as they were; `raw`: 8-bit colours of one size; `arrays`: images of "
            "any "
            "number of channels.",
            "dtype": "of `arrays`: uint8, uint16 or float32.",
            "channels": "of `arrays`: C.",
            "fingerprint": "SHA-256 over names, labels and image bytes, these by their digests, so that shards and a "
            "single file of the same images have the same one; the docstring of "
            "`deconvviz.data.store_file.fingerprint_of` is the recipe. Files of versions before 0.2 have one over the "
            "whole bytes.",
            "configuration": "JSON: the command line, the source and the settings that made the file. That of a shard "
            "has an entry `shard`: `index` from 0, the number of shards `of`, and `plan`, a digest of all that is "
            "packed, which is equal in shards that belong together.",
            "lists": "BLAKE2 digest of all lists and settings, checked when the file is opened.",
        },
        arrays=_arrays(
            "names t images |  | text: path of each image, relative to what was packed.",
            "labels i images | -1 | int64: index into `classes`; -1 where it is unknown.",
            "sizes i images 2 | 1 | int64: height and width in pixels.",
            "classes t classes |  | text: the class names.",
            "skipped t skipped 2 |  | text: name and reason of each image that could not be read.",
            "bytes u8 bytes | ? | uint8: of `encoded` the image files one after the other; of `arrays` the values of "
            "the "
            "images, [H, W, C] each, little-endian.",
            "offsets i offsets | 0, ? | int64: where each image begins in `bytes`, and where the last one ends.",
            "images u8 images side side 3 | ? | uint8: of `raw`: the pixels, red, green, blue.",
            "digests u8 images 16 | ? | uint8: BLAKE2 digest of each image's bytes, checked when it is read. Absent in "
            "older files.",
        ),
    ),
}
"""Kind of file -> what it holds."""

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

from deconvviz.results.analysis_declarations import ANALYSES
from deconvviz.results.analysis_declarations import CONFIG as _CONFIG
from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays
from deconvviz.results.latent_declarations import LATENTS
from deconvviz.results.pruning_declarations import PRUNINGS
from deconvviz.results.recurrent_declarations import RECURRENTS
from deconvviz.results.training_declarations import TRAININGS

FILES: Mapping[str, FileSchema] = {
    "mined": FileSchema(
        version=2,
        what="The k images that activate each channel of some layers most, and what figures need of them.",
        written_by="`deconvviz mine` and `dv.mine`; `deconvviz grid` adds to it",
        read_by="`dv.load_mined`",
        settings={
            **_CONFIG,
            "state": "JSON: `done`, the images that were mined, and `total`, the images to mine.",
            "sources.receptive_fields": "layer -> [size, stride, offset] of a unit's receptive field, (rows, columns) "
            "each in pixels; with `sources.image_size`, (height, width) of the network's input. Absent in older files.",
            "sources.directions": "name of directions -> the layer that they read. Absent where there are none.",
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
            "layers/*/counts i channels* 225 | 0, ? | int64: histogram of the channel's largest activation on each "
            "image. Bins are a quarter of an octave wide on both sides of zero; "
            "`deconvviz.studies.mining.spread.edges` returns their edges. Absent in files of schema 1, as are the next "
            "two.",
            "layers/*/sampled i sampled* | 0, ? | int64: index into the store of each image of a random sample of at "
            "most 1000, ascending.",
            "layers/*/maxima f channels* sampled* | ? | float32: the channel's largest activation on each of them; "
            "minus infinity where it is not mined yet.",
            "directions/*/weights f directions* inputs* | finite, ? | float64: of directions that were mined: the "
            "weights of the channels of the layer that they read.",
            "directions/*/bias f directions* | finite, ? | float64: what is added to each reading.",
            "projections/*_box i 4 | 0, ? | int64: (top, left, bottom, right) in pixels of the part of the image that "
            "the unit sees; bottom and right are outside of it.",
            "projections/*_need i 4 | ? | int64: the smallest such box that keeps 90 % of the unit's activation.",
            "projections/* f ... | ? | float16: `projections/LAYER/RULE/CHANNEL/RANK` [C, h, w], the projection of one "
            "entry on the pixels of its box, in units of its largest absolute value; "
            "`projections/LAYER/map/CHANNEL/RANK` "
            "[rows, columns], the channel's map on that image in units of the entry's value.",
            "wanted/* f ... | finite, ? | float16: `wanted/LAYER/CHANNEL` [h, w, C] in 0..1, the picture that the "
            "channel would like best, as `deconvviz grid --wanted` made it.",
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
            "fits/* f images thresholds | ? | float32, at each threshold of the map: `METHOD/largest` and "
            "`METHOD/best`, intersection over union with the true boxes; `METHOD/on_object` and `METHOD/beside`, "
            "pixels from this threshold to below the next one.",
            "crops/* f images crop_thresholds | ? | float32: of a method, the saliency metric where pixels above 0, "
            "0.05, ... 0.95 are cropped.",
            "maps/* f shown height width | ? | float32: a method's maps of the first few images, in 0..1.",
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
    "ablation": FileSchema(
        version=1,
        what="Which validation images each variant of a network classifies correctly; its trainings are beside it.",
        written_by="`deconvviz ablate` and `dv.ablate`",
        read_by="the same command, which resumes",
        settings=_CONFIG,
        arrays=_arrays("* b images | ? | bool: of a variant: whether each validation image is classified correctly."),
    ),
    "networks on few images": FileSchema(
        version=1,
        what="How well networks do that were trained as a whole on the few images of a split.",
        written_by="`deconvviz probe`, with `--scratch` or `--fine-tune`, and `dv.transfer`",
        read_by="the same command, which resumes",
        settings=_CONFIG,
        arrays=_arrays(
            "*/accuracy f per_class splits | ? | float64: of a start: mean over the classes of the share of a class's "
            "test images that are classified correctly; NaN where the network is not trained yet.",
        ),
    ),
    "atlas": FileSchema(
        version=1,
        what="The settings of an atlas, by which its folder is known again; it has no arrays.",
        written_by="`deconvviz atlas`",
        read_by="the same command, which resumes",
        settings=_CONFIG,
        arrays=(),
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
        version=3,
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
            "images_fingerprint": "of a store with several labels an image, the fingerprint without them; "
            "`fingerprint` is then over it and these, as `deconvviz.data.store_file.fingerprint_with` says.",
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
            "label_names t several | ? | text: of a store with several labels an image (`pack --labels`), their names, "
            "sorted. `labels` and `classes` are then those of the folders, which readers leave aside.",
            "targets u8 images several | ? | uint8: of such a store, 1 where the image has the label and 0 elsewhere. "
            "Of an image whose labels are unknown all are 0.",
        ),
    ),
    **ANALYSES,
    **TRAININGS,
    **PRUNINGS,
    **RECURRENTS,
    **LATENTS,
}
"""Kind of file -> what it holds."""

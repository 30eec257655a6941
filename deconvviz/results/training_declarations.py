"""What the files of comparisons, attacks, maps under attack and ensembles hold; the rest is in `declarations`."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.analysis_declarations import CONFIG
from deconvviz.results.file_schemas import FileSchema
from deconvviz.results.file_schemas import arrays_of as _arrays

_MAPS_OF_ATTACKS = (
    "maps/before f fools kept height width | 0, finite, ? | float16: the map of each interpreter before, in 0..1.",
    "maps/after f epsilons fools kept height width | 0, finite, ? | float16: that after the attack.",
    "maps/plain f epsilons fools kept height width | 0, finite, ? | float16: that after an attack that does not care "
    "for maps: PGD towards the same class, or noise.",
    "maps/similarity f epsilons fools 4 images | finite, ? | float64: of the map after to the one before: mean "
    "absolute and root mean square difference, overlap of the strongest tenth, structural similarity.",
    "maps/plain_similarity f epsilons fools 4 images | finite, ? | float64: the same of the attack that does not care.",
    "maps/plain_after i epsilons images | -1, ? | int64: the class that the network finds after it.",
    "maps/flat_energy f epsilons images | 0, finite, ? | float64: share of the squared change where the edge's weight "
    "is below 0.1.",
    "maps/plain_flat_energy f epsilons images | 0, finite, ? | float64: the same of the attack that does not care.",
    "maps/edges f shown height width | 0, finite, ? | float16: the edges' weights of the images of the figure.",
    "countered/before i countermeasures images | -1, ? | int64: the class that is found behind each countermeasure in "
    "the unchanged image.",
    "countered/after i epsilons countermeasures images | -1, ? | int64: that in the attacked image.",
    "countered/agreement_before f pairs images | finite, ? | float64: Spearman's correlation of the maps of each two "
    "methods, of the unchanged image.",
    "countered/agreement_after f epsilons pairs images | finite, ? | float64: of the attacked image.",
)

TRAININGS: Mapping[str, FileSchema] = {
    "comparison": FileSchema(
        version=2,
        what="Two networks of one architecture side by side, before and after a change.",
        written_by="`deconvviz compare` and `Comparison.save`",
        read_by="`dv.Comparison.load`",
        settings={
            **CONFIG,
            "config.networks": "what both networks are called.",
            "state": "JSON: `layers` in their order; `changes`, the findings that came, went, grew or shrank; `names` "
            "of the images, `class_names`, and whether both networks are `identical`.",
        },
        arrays=_arrays(
            "layers/*/partner i channels* | 0 | int64: the filter after that each filter before is matched with.",
            "layers/*/correlation f channels* | finite | float64: the correlation of both, -1..1.",
            "layers/*/same f channels* | finite | float64: that with the filter after of the same number.",
            "layers/*/best_before f channels* | finite | float64: the largest of each filter before with any after.",
            "layers/*/best_after f channels* | finite | float64: the largest of each filter after with any before.",
            "layers/*/alive_before b channels* |  | bool: whether the response of a filter before varies.",
            "layers/*/alive_after b channels* |  | bool: the same of each filter after.",
            "layers/*/sharpness_before f channels* | 0, finite | float64: Gini index over the images, before.",
            "layers/*/sharpness_after f channels* | 0, finite | float64: the same of each filter after.",
            "layers/*/sharpness_error f channels* | 0 | float64: standard error of the change to the partner; NaN "
            "where there are fewer than three images.",
            "layers/*/weight_cosine f channels* |  | float64: cosine between the weights of one number; may be NaN.",
            "layers/*/shown i shown* | 0 | int64: filters before whose pairs have pictures.",
            "layers/*/tiles_before u8 shown* k* side* side* 3 |  | uint8: their strongest patches.",
            "layers/*/tiles_after u8 shown* k* side* side* 3 |  | uint8: those of their partners.",
            "decisions/images i images | 0, ? | int64: the images, by their indices.",
            "decisions/targets i images | -1, ? | int64: output of each image's class; -1 where it is unknown.",
            "decisions/predicted i 2 images | 0, ? | int64: the class that each network names.",
            "decisions/confidence f 2 images | 0, finite, ? | float64: the probability that it gives it.",
            "decisions/loss f 2 images | ? | float64: log-loss of the image's class in nats; may be NaN.",
            "explained/images i explained | 0, ? | int64: places of images among those that were looked at.",
            "explained/targets i explained | 0, ? | int64: the class that both networks' maps explain.",
            "explained/pictures u8 explained height width 3 | ? | uint8: the images.",
            "explained/maps f 2 explained height width | finite, ? | float32: the maps in 0..1.",
        ),
    ),
    "comparing": FileSchema(
        version=1,
        what="The settings of a comparison, by which its folder is known again; it has no arrays.",
        written_by="`deconvviz compare` and `dv.compare`",
        read_by="the same command, which resumes",
        settings=CONFIG,
        arrays=(),
    ),
    "compared responses": FileSchema(
        version=1,
        what="Sums over the images that both networks of a comparison have seen.",
        written_by="`deconvviz compare` and `dv.compare`",
        read_by="the same command, which resumes",
        settings={**CONFIG, "state": "JSON: `done`, the images that are done, and the `places` of each layer."},
        arrays=_arrays(
            "layers/*/totals f 2 channels* | finite | float64: sums of the responses, before and after.",
            "layers/*/squares f 2 channels* | 0, finite | float64: sums of their squares.",
            "layers/*/products f channels* channels* | finite | float64: sums of the products, before with after.",
            "layers/*/maxima f 2 done channels* | finite | float32: largest response of each filter to each image.",
            "decisions/predicted i 2 done | 0, ? | int64: the class that each network names.",
            "decisions/confidence f 2 done | 0, finite, ? | float64: the probability that it gives it.",
            "decisions/loss f 2 done | ? | float64: log-loss of the image's class in nats; may be NaN.",
        ),
    ),
    "compared findings": FileSchema(
        version=1,
        what="What the diagnosis of one of two networks found, layer by layer; it has no arrays.",
        written_by="`deconvviz compare` and `dv.compare`",
        read_by="the same command, which resumes",
        settings={**CONFIG, "state": "JSON: the `rows` of the findings, and the checks that were `made`."},
        arrays=(),
    ),
    "attack": FileSchema(
        version=2,
        what="What a network makes of attacked images, with each of some epsilons, and the changes of their pixels.",
        written_by="`deconvviz attack` and `dv.attack`",
        read_by="`dv.AttackStudy.load`",
        settings={
            **CONFIG,
            "config.epsilons": "how far a pixel might go, as shares of the way from black to white, rising.",
            "state": "JSON: `done`, the images that are attacked, the first ones; `names` of all; `outputs`, the names "
            "of the network's outputs, empty where they are unknown.",
        },
        arrays=_arrays(
            "indices i images | 0 | int64: index into the store.",
            "own i images | -1 | int64: the class that the network shall not find; -1 until the image is attacked.",
            "before i images | -1 | int64: the class that it finds in the unchanged image; -1 until then.",
            "probability_before f images | 0, finite | float64: of the own class in the unchanged image, in 0..1.",
            "after i epsilons images | -1 | int64: the class that it finds in the attacked image; -1 until then.",
            "probability_after f epsilons images | 0, finite | float64: of the own class in the attacked image.",
            "target_probability f epsilons images | 0, finite | float64: of the target there, or of the class that is "
            "found where there is no target.",
            "pixels i epsilons images | 0 | int64: pixels that are changed.",
            "length f epsilons images | 0, finite | float64: Euclidean length of the change, in shares of the way from "
            "black to white.",
            "largest f epsilons images | 0, finite | float64: the largest change of a pixel, likewise.",
            "places i kept | 0 | int64: the images whose changes are kept, as places in `indices`, ascending.",
            "noise f epsilons kept channels height width | finite | float16: the change of each pixel, likewise; the "
            "attacked image is x + noise, cut to within epsilon and to 0..1.",
            "shown i shown | 0 | int64: the images of the figure, as places in `places`.",
            "pictures u8 shown height width 3 |  | uint8: these images as figures show them.",
            "attacked u8 epsilons shown height width 3 |  | uint8: the same of the attacked ones.",
            *_MAPS_OF_ATTACKS,
        ),
    ),
    "maps under attack": FileSchema(
        version=1,
        what="How far the maps of methods move on attacked images, and under noise of the same size.",
        written_by="`deconvviz evaluate --attack FILE` and `dv.maps_under_attack`",
        read_by="`dv.MapsUnderAttack.load`",
        settings={
            **CONFIG,
            "config.attacks": "attack -> the settings of its file, and a digest of its changes.",
            "state": "JSON: `methods` and `attacks` in their order; `names` of the images of each attack; `outputs`, "
            "the names of the network's outputs, empty where they are unknown.",
        },
        arrays=_arrays(
            "values/* f images* 3 5 | 0 | float64: of `ATTACK/METHOD`, how far the map of the own class moved: under "
            "the attack, under noise, and to the map of the class that is found in the attacked image; by 1 - SSIM, "
            "1 - Pearson's correlation, 1 - rank correlation, mean difference, 1 - IoU of the strongest 15 %. NaN "
            "until the image is measured, and in the third row where the class is the same.",
            "indices/* i images* | 0 | int64: index into the dataset, of the images of an attack.",
            "own/* i images* | 0 | int64: the class that the maps explain, found in the unchanged image.",
            "after/* i images* | 0 | int64: the class that is found in the attacked image.",
            "fooled/* b images* |  | bool: whether the attack got the class that it wanted.",
            "pictures/* u8 shown* 2 height* width* 3 |  | uint8: the first few images, unchanged and attacked.",
            "maps/* f shown* 2 height* width* | 0, finite | float32: of `ATTACK/METHOD`, their maps in 0..1.",
        ),
    ),
    "ensemble": FileSchema(
        version=1,
        what="Where several networks, alone and together, have the true class of each image.",
        written_by="`deconvviz ensemble` and `dv.ensemble`",
        read_by="`dv.Ensemble.load`",
        settings={
            **CONFIG,
            "config.networks": "JSON: `name`, `fingerprint` and `preprocess` of each network, in their order.",
            "state": "JSON: `images` that are done, from the first on.",
        },
        arrays=_arrays(
            "ranks i rows images | -1 | int64: how many classes are more probable than the image's own, of equal ones "
            "those that come first. Rows: each network alone, then the first 2, 3, ... together. -1 until the image is "
            "done.",
            "probabilities f rows images |  | float64: of the image's class; NaN until the image is done.",
        ),
    ),
    "ensemble of labels": FileSchema(
        version=1,
        what="What several networks say of each of several labels of each image.",
        written_by="`deconvviz ensemble`, where images have several labels, and `dv.label_ensemble`",
        read_by="`dv.LabelEnsemble.load`",
        settings={
            **CONFIG,
            "config.networks": "JSON: `name`, `fingerprint` and `preprocess` of each network, in their order; "
            "`outputs`, which is `independent` where the network returns probabilities; and `of_labels`, a digest of "
            "the outputs that stand for the labels.",
            "config.labels": "JSON: the names of the labels.",
            "state": "JSON: `images` that are done, from the first on.",
        },
        arrays=_arrays(
            "targets b images labels |  | bool: whether the image has the label.",
            "scores f networks images labels |  | float64: what each network returns for the label: before the "
            "sigmoid, or the probability; NaN until the image is done.",
        ),
    ),
}

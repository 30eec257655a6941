"""What each table holds, declared once: its columns with types, units and meanings.

A column is declared as "name type | unit | meaning". A star in a name stands for any text; types are "text", "integer",
"number", and "flag" for 0 or 1. A column whose type ends in "?" may be absent or empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.analysis_columns import ANALYSES
from deconvviz.results.analysis_columns import LAYER as _LAYER
from deconvviz.results.attack_columns import MAPS_UNDER_ATTACK
from deconvviz.results.latent_columns import LATENTS
from deconvviz.results.pruning_columns import PRUNINGS
from deconvviz.results.recurrent_columns import RECURRENTS
from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

_METRICS = (
    "average_drop_* number? | share, 0..1 | How far the probability falls when only this per cent of the pixels is "
    "kept, "
    "as a share of the probability before; 0 where it rises.",
    "increase_* number? | share, 0..1 | Whether the probability rises then: 0 or 1 for one image.",
    "average_gain_* number? | share, 0..1 | How far the probability rises then, as a share of the room that it had.",
    "complexity number? | share, 0..1 | Mean of the map.",
    "coherency number? | share, 0..1 | How alike the map is to the map of the image masked by it.",
    "adcc number? | share, 0..1 | Harmonic mean of coherency, 1 - complexity and 1 - drop.",
    "deletion number? | share, 0..1 | Area under the curve of the probability while pixels are removed, the strongest "
    "first; lower is better.",
    "insertion number? | share, 0..1 | The same while they are inserted; higher is better.",
    "road_combined number? | probability | ROAD: (least relevant removed - most relevant removed) / 2; higher is "
    "better.",
    "pointing_game number? | share, 0..1 | Whether the map's maximum lies in an object: 0 or 1 for one image.",
    "energy number? | share, 0..1 | Share of the map's sum that lies on the objects, or in their boxes where no more "
    "is known.",
    "iou number? | share, 0..1 | Intersection over union of the object with the pixels above 0.2 of the map's maximum.",
    "best_iou number? | share, 0..1 | The same above the threshold that is best for each map.",
    "max_box_acc number? | share, 0..1 | MaxBoxAcc: share of the images whose box is right at the best threshold.",
    "max_box_acc_v2 number? | share, 0..1 | MaxBoxAccV2, over several overlaps.",
    "pxap number? | share, 0..1 | PxAP of all images together: area under precision over recall of the pixels; of one "
    "image what it adds to it, so that the mean is PxAP.",
    "saliency_metric number? | nats | log(area of the tightest crop, at least 0.05) - log(probability on it), at the "
    "threshold that is best for all images; lower is better.",
    "best_saliency_metric number? | nats | The same at the threshold that is best for each image.",
    "infidelity number? | squared probability | Mean squared error with which the map, at its best scale, foretells "
    "how far the probability falls when squares are removed; lower is better.",
    "max_sensitivity number? | ratio | Largest change of the map, as a share of its length, in 10 draws of noise up to "
    "0.02; lower is better.",
    "sparseness number? | share, 0..1 | Gini index of the map: 0 where it is the same everywhere.",
    "random_logit number? | -1..1 | Structural similarity to the map of another class, drawn at random; lower is "
    "better.",
    "constant number | share, 0..1 | Whether the map is the same everywhere: such a map shows nothing.",
    "forward_passes number | passes | Of one image.",
    "backward_passes number | passes | Of one image.",
    "seconds number | s | Time for one image.",
)

TABLES: Mapping[str, TableSchema] = {
    "winners": TableSchema(
        what="A row for each entry of a mined file: layer by layer, channel by channel, the strongest image first.",
        written_by="`deconvviz mine --csv FILE`, `Mined.save_csv` and `Mined.to_frame`",
        columns=_columns(
            _LAYER,
            "channel integer |  | Number of the filter, from 0.",
            "rank integer |  | 0 for the strongest image.",
            "image integer |  | Index into the store.",
            "name text? |  | Name of the image; empty where the images are not given.",
            "class text? |  | Name of the image's class; empty where it is unknown.",
            "value number | the layer's | The activation.",
            "y integer | positions | Row of the activation on the layer's map, from 0.",
            "x integer | positions | Column of it.",
            "top integer? | px | First row of the unit's receptive field, cut to the image. The box is empty in "
            "files that version 0.1 wrote.",
            "left integer? | px | First column of it.",
            "bottom integer? | px | The row after its last one.",
            "right integer? | px | The column after its last one.",
        ),
    ),
    "evaluation": TableSchema(
        what="A row for each method: means over the images.",
        written_by="`deconvviz evaluate` and `Evaluation.save_csv`",
        columns=_columns(
            "method text |  | Name of the method.",
            "images integer | images | How many were measured.",
            "*_95 number? | as the column before | Half the width of the mean's 95 % interval: 1.96 standard errors; "
            "empty where fewer than two images have a value.",
            *_METRICS,
            "moved_* number? | 0..2 | With `--attack`: how far the map moves under the attack of this name, 1 - rank "
            "correlation; see the table of maps under attack.",
        ),
    ),
    "evaluation of images": TableSchema(
        what="A row for each method and image, in the order of the images.",
        written_by="`deconvviz evaluate`, beside the table of means as `.images.csv`, `Evaluation.save_images_csv` and "
        "`Evaluation.to_frame`",
        columns=_columns(
            "method text |  | Name of the method.",
            "image text |  | Name of the image.",
            "class text? |  | Name of its class; its number where classes have no names, empty where it is unknown.",
            "explained integer |  | The output that is explained; -1 where the image is not measured yet.",
            "probability number | probability | Of that output.",
            *_METRICS,
        ),
    ),
    "sanity": TableSchema(
        what="A row for each method and layer, in the order in which the weights are randomised.",
        written_by="`deconvviz evaluate --sanity cascading`, as `.sanity.csv`; `SanityCheck.save_csv` leaves the "
        "first two out",
        columns=_columns(
            "method text? |  | Name of the method.",
            "how text? |  | `cascading` or `independent` randomisation of the weights, or `labels`.",
            "layer text |  | The layer whose weights were randomised last; `permuted labels` where labels were.",
            "spearman number | -1..1 | Mean rank correlation of the maps before and after.",
            "ssim number | -1..1 | Mean structural similarity of them.",
            "hog number | -1..1 | Mean correlation of their histograms of gradients.",
        ),
    ),
    "agreement": TableSchema(
        what="A row for each metric that needs no truth: how far it ranks methods as the truth does, the best first.",
        written_by="`deconvviz evaluate` of four methods or more with localisation and other metrics, as "
        "`.agreement.csv`, and `Agreement.save_csv`",
        columns=_columns(
            "metric text |  | Name of its column in the table of the evaluation.",
            "truth text |  | The column that it is compared with.",
            "correlation number | -1..1 | Spearman's rank correlation of the methods' means; 1 is the truth's order.",
            "low number? | -1..1 | Lower end of its 95 % interval, by a bootstrap over the images; empty of one image.",
            "high number? | -1..1 | Upper end.",
        ),
    ),
    "pixel thresholds": TableSchema(
        what="A row for each method and threshold of the map, over the pixels of all images together.",
        written_by="`deconvviz evaluate` with localisation, as `.thresholds.csv`",
        columns=_columns(
            "method text |  | Name of the method.",
            "threshold number | share, 0..1 | Pixels at or above it are marked.",
            "precision number | share, 0..1 | Marked pixels that lie on an object.",
            "recall number | share, 0..1 | Objects' pixels that are marked.",
            "dice number | share, 0..1 | 2 TP / (2 TP + FP + FN).",
            "true_positive number | share, 0..1 | Of all pixels: marked, on an object.",
            "false_positive number | share, 0..1 | Of all pixels: marked, beside the objects: too much is marked.",
            "true_negative number | share, 0..1 | Of all pixels: not marked, beside the objects.",
            "false_negative number | share, 0..1 | Of all pixels: not marked, on an object: too little is marked.",
        ),
    ),
    "mistakes": TableSchema(
        what="A row for each image that is classified incorrectly.",
        written_by="`deconvviz evaluate`, where classes and outputs can be matched, as `.wrong.csv`, and "
        "`Mistakes.to_frame`",
        columns=_columns(
            "image text |  | Name of the image.",
            "true text |  | Its class.",
            "predicted text |  | The class that the network finds.",
            "p_true number | probability | Of the true class.",
            "p_predicted number | probability | Of the predicted class.",
            "overlap number | -1..1 | Correlation of the maps of the two classes.",
            "reading text |  | What the overlap says: same place, in part, or different places.",
        ),
    ),
    "confusions": TableSchema(
        what="A row for each pair of classes that are confused, the most frequent first.",
        written_by="`deconvviz evaluate`, beside the table of mistakes, as `.confusions.csv`",
        columns=_columns(
            "true text |  | The class of the images.",
            "predicted text |  | The class that the network finds.",
            "images integer | images | How many.",
            "mean_overlap number | -1..1 | Mean of their overlaps.",
        ),
    ),
    "occlusion": TableSchema(
        what="A row for each image and window, row by row of windows.",
        written_by="`deconvviz occlude`, beside the figure, and `Occlusion.to_frame`",
        columns=_columns(
            "image text |  | Name of the image.",
            "top integer | px | First row of the square.",
            "left integer | px | First column of it.",
            "bottom integer | px | The row after its last one.",
            "right integer | px | The column after its last one.",
            "probability number | probability | Of the class that is followed, with the square there.",
            "top_class text |  | The most probable class then, its number where outputs have no names.",
            "top_probability number | probability | Of that class.",
            "activation number | the layer's | Sum of the map that is watched.",
        ),
    ),
    "invariance": TableSchema(
        what="A row for each kind of transform, image, step and layer.",
        written_by="`deconvviz invariance`, beside the figure, `Invariance.save_csv` and `Invariance.to_frame`",
        columns=_columns(
            "kind text |  | The transform: translate-x, translate-y, scale or rotation.",
            "step number | px, times, degrees | How far: pixels, a factor, or degrees anticlockwise.",
            "image text |  | Name of the image.",
            "output integer |  | The output whose probability is followed.",
            "class text? |  | Its name; empty where it is unknown.",
            "probability number | probability | Of that output.",
            _LAYER,
            "distance number | the layer's | Euclidean distance of the layer's values from those of the untouched "
            "image.",
            "relative_distance number? | share | The same, divided by the mean distance between two images.",
        ),
    ),
    "invariance scores": TableSchema(
        what="A row for each kind of transform and layer.",
        written_by="`deconvviz invariance --depth`, as `.depth.csv`, and `Invariance.save_scores`",
        columns=_columns(
            "kind text |  | The transform.",
            _LAYER,
            "depth integer |  | Its number among the measured layers, from 1.",
            "score number? | share, 0..1 | 1 where nothing changes, 0 where a transformed image is as far away as "
            "another.",
            "low number? | share, 0..1 | Lower end of its 95 % interval over the images.",
            "high number? | share, 0..1 | Upper end of it.",
            "mean_distance number | share | Mean normalised distance over the steps.",
        ),
    ),
    "invariance of filters": TableSchema(
        what="A row for each filter of a layer.",
        written_by="`deconvviz invariance --units LAYER`, as `.units.csv`, and `Invariance.save_units`",
        columns=_columns(
            "filter integer |  | Number of the filter, from 0.",
            "* number | share, 0..1 | A column for each kind of transform: the filter's score.",
        ),
    ),
    "lesions": TableSchema(
        what="A row for each lesion, the largest drop first.",
        written_by="`deconvviz lesion`, `Lesions.save_csv` and `Lesions.to_frame`",
        columns=_columns(
            "rank integer |  | From 1.",
            _LAYER,
            "channel integer? |  | The filter; empty where the whole layer is silenced.",
            "images integer | images | How many were classified.",
            "accuracy_intact number | share, 0..1 | Of the intact network.",
            "accuracy number | share, 0..1 | With the lesion.",
            "drop number | share, -1..1 | The difference.",
            "drop_low number | share, -1..1 | Lower end of its 95 % interval.",
            "drop_high number | share, -1..1 | Upper end of it.",
            "lost integer | images | No longer classified correctly.",
            "gained integer | images | Classified correctly only with the lesion.",
            "log_loss_intact number | nats | Mean log-loss of the intact network.",
            "log_loss number | nats | With the lesion.",
            "log_loss_rise number | nats | The difference.",
            "log_loss_rise_95 number? | nats | Half the width of its 95 % interval; empty where there is one image.",
        ),
    ),
    "fidelity": TableSchema(
        what="A row for each layer, rule and share of the pixels.",
        written_by="`deconvviz fidelity`, `FidelityTable.save_csv` and `FidelityTable.to_frame`",
        columns=_columns(
            _LAYER,
            "rule text |  | The rule or control; a star marks the one that `auto` takes.",
            "share number | % | Of the pixels that a unit sees.",
            "units integer | units | How many count.",
            "left_out integer | units | Those whose activation is not positive.",
            "kept number | share | Median of what the strongest pixels bring back of the activation.",
            "kept_low number? | share | Lower end of its interval; empty where one unit counts.",
            "kept_high number? | share | Upper end of it.",
            "left number | share | Median of what remains without them.",
            "left_low number? | share | Lower end of its interval; empty where one unit counts.",
            "left_high number? | share | Upper end of it.",
            "kept_area number | share | Median of the mean of `kept` over the shares.",
            "kept_area_low number? | share | Lower end of its interval; empty where one unit counts.",
            "kept_area_high number? | share | Upper end of it.",
            "left_area number | share | Median of the mean of `left` over the shares.",
        ),
    ),
    "correspondence": TableSchema(
        what="A row for each part and layer.",
        written_by="`deconvviz correspond`, `Correspondence.save_csv` and `Correspondence.to_frame`",
        columns=_columns(
            "part text |  | Name of the part that is masked.",
            _LAYER,
            "mean number | distance | Mean Hamming distance of the signs; lower is tighter.",
            "standard_error number? | distance | Of that mean.",
            "random_mean number | distance | The same for random masks of equal area.",
            "random_standard_error number? | distance | Of that mean.",
            "p number | probability | One-sided, by permutation.",
            "images integer | images | How many.",
            "sets integer | sets | Of images.",
        ),
    ),
    "evolution": TableSchema(
        what="A row for each layer, filter and epoch.",
        written_by="`deconvviz evolve`, beside the figure, and `Evolution.to_frame`",
        columns=_columns(
            _LAYER,
            "channel integer |  | The filter, from 0.",
            "epoch integer | epochs | From 1; 0 before the training.",
            "activation number | the layer's | The largest over the images.",
            "image text |  | Name of the image.",
            "y integer | positions | Row of it on the layer's map.",
            "x integer | positions | Column of it.",
            "image_changed flag |  | Whether the image is another one than after the epoch before.",
        ),
    ),
    "evolution of layers": TableSchema(
        what="A row for each layer and epoch.",
        written_by="`deconvviz evolve`, as `.layers.csv`",
        columns=_columns(
            _LAYER,
            "epoch integer | epochs | From 1; 0 before the training.",
            "top*_already_final number | share, 0..1 | Share of the strongest images that are those of the last epoch.",
            "projection_similarity number | -1..1 | Mean cosine of projections with those of the last epoch.",
            "rule text |  | Of the projections.",
        ),
    ),
    "probes": TableSchema(
        what="A row for each layer, of each network where there are several; networks that were trained as a whole "
        "have one row, with numbers in the columns of softmax only.",
        written_by="`deconvviz probe`, `save_csv` and `to_frame` of `ProbeResult` and `Transfer`",
        columns=_columns(
            "network text? |  | Name of the network.",
            _LAYER,
            "values integer? | values | Length of the layer's feature vector; empty for all layers.",
            "*_deviation number? | share, 0..1 | Standard deviation of the accuracy over the splits.",
            "* number? | share, 0..1 | PROBE_COUNT: mean accuracy of a class with so many training images of each.",
        ),
    ),
    "ablation": TableSchema(
        what="A row for each variant, in the order in which they were asked for.",
        written_by="`deconvviz ablate`, `VariantTable.save_csv` and `VariantTable.to_frame`",
        columns=_columns(
            "name text |  | Of the variant, such as no-3-4.",
            "parameters integer | parameters | How many.",
            "epochs integer | epochs | Of its training.",
            "training_error number | share, 0..1 | Top-1 error on the training images.",
            "training_top5_error number? | share, 0..1 | Top-5 error; empty with at most 5 classes.",
            "validation_error number | share, 0..1 | Top-1 error on the validation images.",
            "validation_top5_error number? | share, 0..1 | Top-5 error; empty with at most 5 classes.",
            "difference number? | share, -1..1 | Validation error less that of the full network.",
            "low number? | share, -1..1 | Lower end of its 95 % interval.",
            "high number? | share, -1..1 | Upper end of it.",
            "seconds number | s | Duration of the training.",
            "paper_* number? | share, 0..1 | The error that table 3 of the paper reports.",
        ),
    ),
    "findings": TableSchema(
        what="A row for each layer of each finding, the most severe finding first.",
        written_by="`deconvviz diagnose`, as `findings.csv`, `Diagnosis.save_csv` and `Diagnosis.to_frame`",
        columns=_columns(
            "finding integer |  | Number of the finding, from 1; one that is about several layers has a row for each.",
            "severity text |  | note, warning or serious, that of the worst layer.",
            "check text |  | Name of the check.",
            _LAYER,
            "layer_severity text |  | note, warning or serious, of this layer.",
            "channels text? |  | Numbers of the filters with spaces between; empty where the layer as a whole is "
            "meant.",
            "value number | see unit | What was measured.",
            "threshold number | see unit | The limit that it passed.",
            "unit text |  | What value and threshold count.",
            "what text |  | What was found, in sentences.",
            "source text |  | Where the threshold comes from.",
            "remedy text |  | What to try.",
        ),
    ),
    "neighbours": TableSchema(
        what="A row for each class.",
        written_by="`deconvviz diagnose`, as `classes.csv`",
        columns=_columns(
            "class text |  | Name of the class.",
            "images integer | images | How many.",
            "right integer | images | Classified correctly.",
            "neighbour text |  | The class that they are most often taken for.",
            "taken_for_it integer | images | How many are.",
            "probability number | probability | Mean of the neighbour's.",
            "layer text |  | Where the filters are that both share.",
            "shared_filters text? |  | Their numbers with spaces between.",
        ),
    ),
    "explainer search": TableSchema(
        what="A row for each setting of a trained explainer.",
        written_by="`deconvviz train-cam ` where several values of a setting are given, as `.search.csv`",
        columns=_columns(
            "average_drop_* number | share, 0..1 | As in the table of an evaluation.",
            "increase_* number | share, 0..1 | As in the table of an evaluation.",
            "best flag |  | Whether it is the best setting.",
            "* text |  | A column for each option that was searched: its value.",
        ),
    ),
    "explainer training": TableSchema(
        what="A row for each phase and epoch of the training of an explainer.",
        written_by="`deconvviz train-cam`, beside the explainer",
        columns=_columns(
            "phase text |  | Of the training.",
            "epoch integer | epochs | From 1.",
            "seconds number? | s | So far.",
            "* number? |  | A column for each term of the loss, their sum `loss`, and `right`, the share of the "
            "images that "
            "are classified correctly; `validation_` is before those on images that were held out.",
        ),
    ),
    **ANALYSES,
    **MAPS_UNDER_ATTACK,
    **PRUNINGS,
    **RECURRENTS,
    **LATENTS,
}
"""Kind of table -> what it holds."""

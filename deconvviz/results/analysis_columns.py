"""What the tables of dissections, relevance, pictures and others hold; see `results.columns`, which has the rest."""

from __future__ import annotations

from collections.abc import Mapping

from deconvviz.results.table_schemas import TableSchema
from deconvviz.results.table_schemas import columns_of as _columns

LAYER = "layer text |  | Name of the layer."

ANALYSES: Mapping[str, TableSchema] = {
    "history": TableSchema(
        what="A row for each epoch of a training.",
        written_by="`deconvviz train --csv FILE`, `Trained.save_csv` and `Trained.to_frame`",
        columns=_columns(
            "epoch integer |  | Number of the epoch, from 1.",
            "lr number | 1 | Learning rate in it.",
            "loss number | nats | Mean cross-entropy, or binary cross-entropy, over the epoch's training steps.",
            "accuracy number? | share, 0..1 | Of the training images, as they were during the epoch.",
            "validation_loss number? | nats | Mean over the held-out images, after the epoch.",
            "validation_accuracy number? | share, 0..1 | Of the held-out images.",
            "validation_top5 number? | share, 0..1 | Of the held-out images those whose class is among the first five.",
            "validation_map number? | share, 0..1 | Mean average precision over the labels, of images with several.",
            "average_precision_* number? | share, 0..1 | Average precision of a label on the held-out images.",
            "seconds number? | s | Duration of the epoch.",
            "* number? |  | A term or a figure of an addition, after whose name it is called; see its description in "
            "`deconvviz train --list`.",
        ),
    ),
    "compared filters": TableSchema(
        what="A row for each filter of a network before a change: its partner after it, and what became of it.",
        written_by="`deconvviz compare`, `Comparison.save_csv` and `Comparison.to_frame`",
        columns=_columns(
            LAYER,
            "filter integer |  | Number of the filter before the change, from 0.",
            "partner integer |  | Number of the filter after it that it is matched with, one to one.",
            "correlation number | -1..1 | Pearson correlation of the responses of both, over images and places.",
            "same_number number | -1..1 | That with the filter after of the same number.",
            "best_before number | -1..1 | Largest correlation of the filter before with any filter after.",
            "best_after number | -1..1 | Largest correlation of the partner with any filter before.",
            "alive_before flag |  | Whether the response of the filter before varies.",
            "alive_after flag |  | Whether that of the partner does.",
            "sharpness_before number | share, 0..1 | Gini index of the filter's largest responses to the images.",
            "sharpness_after number | share, 0..1 | That of the partner.",
            "sharpness_error number? | share, 0..1 | Standard error of the difference of both, over the images; "
            "empty where there are fewer than three.",
            "weight_cosine number? | -1..1 | Cosine between the weights of the filters of this number; empty where the "
            "layer has none of its own.",
            "status text |  | gone, new, sharper, blunter or kept; see `LayerComparison`.",
        ),
    ),
    "changed findings": TableSchema(
        what="A row for each finding of the diagnosis that a change of the network made, mended, or made stronger or "
        "weaker.",
        written_by="`deconvviz compare` and `Comparison.save_changes`",
        columns=_columns(
            "change text |  | new, worse, gone or better.",
            "check text |  | Name of the check.",
            "kind text? |  | Which of the check's findings it is.",
            "layer text? |  | Name of the layer; empty where the finding is about the images.",
            "severity text |  | After the change, or before it where the finding is gone.",
            "before text? |  | Severity and value before; empty where nothing was found.",
            "after text? |  | Severity and value after; empty where nothing was found.",
        ),
    ),
    "relevance": TableSchema(
        what="A row for each layer, class and channel: the 20 channels with the largest shares, of either sign, in the "
        "decisions for each class.",
        written_by="`deconvviz relevance --csv FILE`, `Relevance.save_csv` and `Relevance.to_frame`",
        columns=_columns(
            LAYER,
            "target integer |  | Number of the class whose score is shared out.",
            "class text |  | Its name, or its number where it has none.",
            "images integer | images | Decisions for this class.",
            "channel integer |  | Number of the filter, from 0.",
            "share number | -1..1 | Mean share of the channel in the relevance of its layer; below zero it speaks "
            "against the class.",
            "share_95 number? | as share | Half the width of the mean's 95 % interval: 1.96 standard errors. Empty for "
            "a single image.",
        ),
    ),
    "names": TableSchema(
        what="For each channel that ever fires a row for the best concept of each kind, layer by layer.",
        written_by="`deconvviz dissect`, `Dissection.save_csv` and `Dissection.to_frame`",
        columns=_columns(
            LAYER,
            "channel integer |  | Number of the filter, from 0.",
            "name text |  | The concept, such as wheel.",
            "kind text |  | part, object, colour, texture or class.",
            "named flag |  | Whether the channel is named after it.",
            "iou number? | share, 0..1 | Intersection over union with the concept's pixels; empty for a class.",
            "iou_chance number? | share, 0..1 | The same with the masks of other pictures.",
            "share number? | share, 0..1 | Of the channel's pixels those in the concept; for a class, of its strongest "
            "images those of the class.",
            "share_chance number? | share, 0..1 | The same with the masks of other pictures; for a class, its share of "
            "all images.",
            "p number? | probability | Of a class among the strongest images, Fisher's exact test, times channels of "
            "the layer times classes (Bonferroni).",
            "threshold number | the layer's | Above it the channel fires.",
        ),
    ),
    "concept scores": TableSchema(
        what="How often the scores of classes rise along directions of concepts: a row a concept, layer and class.",
        written_by="`deconvviz dissect --concept NAME=FOLDER`, `ConceptScores.save_csv` and `ConceptScores.to_frame`",
        columns=_columns(
            LAYER,
            "concept text |  | Name of the concept.",
            "class text? |  | Name of the class; empty for all images, each with its own class.",
            "images integer | images | Whose gradients were taken.",
            "score number | share, 0..1 | Of the images those on which the score rises, a mean over random sets.",
            "score_spread number | share, 0..1 | Its standard deviation over the sets.",
            "chance number | share, 0..1 | The same along directions between random sets.",
            "p number | probability | Welch's two-sided t-test between both, times the number of rows (Bonferroni).",
        ),
    ),
    "pairs": TableSchema(
        what="A row for each pair of images and method. s is the cosine of the two embeddings.",
        written_by="`deconvviz pair --csv FILE`, `PairStudy.save_csv` and `PairStudy.to_frame`",
        columns=_columns(
            "image_a text |  | Name of the first image.",
            "image_b text |  | Name of the second image.",
            "similarity number | cosine | s of the whole images.",
            "method text |  | Name of the method.",
            "simultaneous_insertion number? | cosine | SI: area under the curve of s while the strongest pixels are "
            "inserted into both blurred images; higher is better.",
            "simultaneous_deletion number? | cosine | SD: the same while they are deleted; lower is better.",
            "conditional_insertion number? | cosine | CI: as SI with one image changed and the other whole, mean over "
            "both.",
            "conditional_deletion number? | cosine | CD: as SD with one image changed, mean over both.",
            "simultaneous_drop number? | share, 0..1 | SAD: how far s falls when both images are masked by their maps, "
            "as a share of s; empty where s is not above 0.",
            "simultaneous_increase number? | share, 0..1 | SIC: whether s rises then: 0 or 1.",
            "conditional_drop number? | share, 0..1 | CAD: as SAD with one image masked, mean over both.",
            "conditional_increase number? | share, 0..1 | CIC: as SIC with one image masked, mean over both: 0, 0.5 or "
            "1.",
            "max_sensitivity number? | share | MS: the largest change of a map over its size, when the images change "
            "by noise; mean over both; lower is better.",
            "forward_passes number | passes | Of one image.",
            "backward_passes number | passes | Of one image.",
            "seconds number | s | Time for the maps of one pair.",
        ),
    ),
    "visualisation": TableSchema(
        what="A row for each picture, in the order in which the channels were given.",
        written_by="`deconvviz visualise`, `Visualisation.save_csv` and `Visualisation.to_frame`",
        columns=_columns(
            "layer text? |  | Empty where a class was made large.",
            "channel integer |  | Of the layer; the class, or the row of the directions.",
            "variant integer |  | Which of the pictures of its channel, from 0.",
            "objective text |  | What was made large: channel, unit, class, direction, cosine or dream.",
            "value number | of the layer | The objective for the finished picture.",
            "strongest number | of the layer | The largest value on the channel's map; of other objectives the value.",
            "mined number? | of the layer | The channel's largest activation that was mined.",
        ),
    ),
    "inversion": TableSchema(
        what="A row for each network and layer, in the order in which they were given.",
        written_by="`deconvviz invert`, `Inversion.save_csv` and `Inversion.to_frame`",
        columns=_columns(
            "network text |  | What it is called in the figure.",
            LAYER,
            "error number | share | Squared distance of the layer's values over the squared size of the image's.",
            "pixel_error number | share of the range | Root mean squared difference of the pixels.",
        ),
    ),
    "examples": TableSchema(
        what="A line for each training image of each row of the figure, the first first.",
        written_by="`deconvviz examples`, `Examples.save_csv` and `Examples.to_frame`",
        columns=_columns(
            "row text |  | How the images were chosen: nearest, nearest of class, nearest of other class, tracin for, "
            "tracin against, influence for, influence against, prototypes or criticisms.",
            "rank integer |  | Place in the row, from 1.",
            "image text |  | Name of the training image.",
            "index integer |  | Its number in the training images, from 0.",
            "class text |  | Its class.",
            "value number | of the row | Cosine, TracIn, change of the loss in nats, mean kernel or witness.",
        ),
    ),
    "suspects": TableSchema(
        what="A line for each training image, the most suspicious first.",
        written_by="`deconvviz examples --self`, `Suspects.save_csv` and `Suspects.to_frame`",
        columns=_columns(
            "rank integer |  | Place, from 1.",
            "image text |  | Name of the training image.",
            "index integer |  | Its number in the training images, from 0.",
            "class text |  | Its class, which may be wrong.",
            "predicted text |  | The class that the network predicts.",
            "probability number | 0..1 | Of its class.",
            "self_influence number | of the method | Its influence on itself.",
        ),
    ),
    "tree": TableSchema(
        what="A line for each node of the tree over a network's classes: leaves first, in the order of the outputs, "
        "then inner nodes as they were joined; the root is the last.",
        written_by="`deconvviz tree`, `ClassTree.save_csv` and `ClassTree.to_frame`",
        columns=_columns(
            "node integer |  | Number of the node; of a leaf, of its output.",
            "name text? |  | Of a leaf; empty for an inner node.",
            "left integer? |  | The first node that was joined; empty for a leaf.",
            "right integer? |  | The second one.",
            "height number | distance of weights | At which they were joined; 0 for a leaf.",
            "leaves integer | classes | Below the node.",
            "decisions integer? | images | Whose path comes through the node; empty where no images were given.",
            "correct number? | 0..1 | Share of them that take the branch of their own class, of those whose class is "
            "below the node; empty for a leaf, and where no images came.",
        ),
    ),
    "attack": TableSchema(
        what="A row for each epsilon of an attack.",
        written_by="`deconvviz attack` and `AttackStudy.save_csv`",
        columns=_columns(
            "method text |  | Name of the attack.",
            "epsilon number | share, 0..1 | How far a pixel might go, of the way from black to white.",
            "levels number | 255ths | The same in 255ths.",
            "images integer | images | Attacked images.",
            "accuracy_before number | share, 0..1 | Of them those in which the network finds their own class.",
            "accuracy number | share, 0..1 | The same after the attack.",
            "accuracy_low number | share, 0..1 | Lower end of its 95 % interval (Wilson 1927).",
            "accuracy_high number | share, 0..1 | Upper end.",
            "attackable integer | images | In which their own class was found before, and which is not the target.",
            "fooled number? | share, 0..1 | Of these, those for which the attack got what it wanted.",
            "fooled_low number? | share, 0..1 | Lower end of its 95 % interval (Wilson 1927).",
            "fooled_high number? | share, 0..1 | Upper end.",
            "pixels_changed number? | share, 0..1 | Mean share of the pixels that are changed, over images that fool.",
            "pixels_changed_95 number? | share, 0..1 | Half the width of the mean's 95 % interval.",
            "length number? | shares | Mean Euclidean length of the change, over images that fool.",
            "length_95 number? | shares | Half the width of the mean's 95 % interval.",
            "l1:* number? | 0..1 | Mean absolute difference of an interpreter's map after to that before, over images "
            "that fool.",
            "l2:* number? | 0..1 | Root of their mean square difference.",
            "iou:* number? | share, 0..1 | Overlap of the strongest tenth of the pixels of both.",
            "ssim:* number? | -1..1 | Structural similarity of both.",
            "l1_95:* number? | 0..1 | Half the width of the mean's 95 % interval.",
            "l2_95:* number? | 0..1 | The same of l2.",
            "iou_95:* number? | share, 0..1 | The same of iou.",
            "ssim_95:* number? | -1..1 | The same of ssim.",
            "plain_*:* number? | as without `plain_` | The same of an attack that does not care for maps: PGD towards "
            "the same class, or noise.",
            "flat_energy number? | share, 0..1 | Mean share of the squared change where the edge's weight is below .1.",
            "plain_flat_energy number? | share, 0..1 | The same of the attack that does not care for maps.",
            "accuracy_before:* number? | share, 0..1 | Accuracy of the unchanged images behind a countermeasure.",
            "accuracy:* number? | share, 0..1 | That of the attacked images.",
            "agreement_before number? | -1..1 | How far explanation methods agree on images that fool, before: mean "
            "Spearman correlation of each two maps.",
            "agreement number? | -1..1 | The same after the attack.",
            "agreement_roc_auc number? | 0..1 | Area under the ROC curve of `attacked` told by a low agreement.",
        ),
    ),
    "attack of images": TableSchema(
        what="A row for each epsilon and image of an attack.",
        written_by="`deconvviz attack`, `AttackStudy.save_images_csv` and `AttackStudy.to_frame`",
        columns=_columns(
            "method text |  | Name of the attack.",
            "epsilon number | share, 0..1 | How far a pixel might go, of the way from black to white.",
            "image text |  | Name of the image.",
            "own_class text |  | The class that the network shall not find.",
            "class_before text |  | The class that it finds in the unchanged image.",
            "class_after text |  | The class that it finds in the attacked image.",
            "fooled flag |  | Whether the attack got what it wanted, of an image in which the own class was found.",
            "probability_before number | 0..1 | Of the own class.",
            "probability_after number | 0..1 | Of the own class, after the attack.",
            "pixels_changed integer | pixels | How many.",
            "length number | shares | Euclidean length of the change, in shares of the way from black to white.",
            "largest number | shares | Largest change of a pixel.",
        ),
    ),
    "class channels": TableSchema(
        what="A row for each class: which channels of the last maps drive its score.",
        written_by="`deconvviz diagnose`, as `class-channels.csv`",
        columns=_columns(
            "class text |  | Name of the class.",
            "images integer | images | How many were sent back to the layer.",
            "right integer | images | Of the class, classified correctly; where none is, the others were sent back.",
            "layer text |  | The last layer with rows and columns.",
            "filters integer | channels | How many it has.",
            "leans_on integer | channels | How many the class leans on.",
            "strongest_share number | share, 0..1 | Of the strongest channel in the strength of all for the class.",
            "channels text? |  | Numbers of those that the class leans on, the strongest first, with spaces between.",
            "nearest text |  | The class that its images are most often, or most nearly, taken for.",
            "taken_for_it integer | images | How many are.",
            "shared text? |  | Those of `channels` that the nearest class leans on too.",
            "overlap number? | share, 0..1 | Of the channels that either leans on, those that both do; empty where "
            "there are no images of the nearest class.",
            "wrong integer | images | Wrong decisions that were sent back.",
            "foreign number? | share, 0..1 | Of the evidence for them, what comes from other channels, a mean; empty "
            "where there are none.",
        ),
    ),
    "explanation drift": TableSchema(
        what="A row for each image: where a bump explainer sees two networks look.",
        written_by="`ExplanationDrift.save_csv`",
        columns=_columns(
            "image text |  | Name of the image.",
            "row_first number | px | Row of the first network's bump, from the upper edge of the image.",
            "column_first number | px | Its column, from the left edge.",
            "sigma_first number | px | Its width.",
            "row_second number | px | Row of the other network's bump.",
            "column_second number | px | Its column.",
            "sigma_second number | px | Its width.",
            "distance number | 0..1 | Hellinger distance of both as normal distributions.",
            "shift number | share | Distance of the centres, in shares of the shorter side.",
        ),
    ),
    "ensemble": TableSchema(
        what="A row for each network alone, in their order, then one for the first 2, 3, ... together; the last is "
        "all.",
        written_by="`deconvviz ensemble`, `Ensemble.save_csv` and `Ensemble.to_frame`",
        columns=_columns(
            'networks text |  | Name of the network, "the first N", or "all N".',
            "count integer | networks | How many decide.",
            "images integer | images | How many were classified.",
            "error number | share, 0..1 | Images whose class is not the most probable.",
            "error_top5 number? | share, 0..1 | Images whose class is not among the five most probable; empty where "
            "there are no more than five.",
            "log_loss number | nats | Mean of -log p of the image's class.",
            "gain number | share, -1..1 | `error` less that of all together.",
            "gain_low number | share, -1..1 | Lower end of its 95 % interval.",
            "gain_high number | share, -1..1 | Upper end of it.",
            "gain_top5 number? | share, -1..1 | The same of `error_top5`.",
            "gain_top5_low number? | share, -1..1 | Lower end of its 95 % interval.",
            "gain_top5_high number? | share, -1..1 | Upper end of it.",
        ),
    ),
    "ensemble of labels": TableSchema(
        what="For each network alone, in their order, then for the first 2, 3, ... together, the last of which is all: "
        "a row for the mean over the labels, then one for each label.",
        written_by="`deconvviz ensemble` on images with several labels, `LabelEnsemble.save_csv` and "
        "`LabelEnsemble.to_frame`",
        columns=_columns(
            'networks text |  | Name of the network, "the first N", or "all N".',
            "count integer | networks | How many decide.",
            "images integer | images | How many were ranked.",
            "label text? |  | Name of the label; empty in the row of the mean over labels.",
            "positives integer? | images | How many have the label; empty in the row of the mean.",
            "average_precision number? | share, 0..1 | Of the label, or its mean over the labels; empty where no image "
            "has the label.",
            "gain number? | share, -1..1 | That of all together less `average_precision`.",
            "gain_low number? | share, -1..1 | Lower end of its 95 % interval, by a paired bootstrap over the images.",
            "gain_high number? | share, -1..1 | Upper end of it.",
        ),
    ),
    "pretraining": TableSchema(
        what="A row for each epoch of a training without labels.",
        written_by="`deconvviz pretrain`, beside the weights",
        columns=_columns(
            "epoch integer | epochs | From 1.",
            "loss number | nats | Mean over the epoch's images.",
            "embedding_rank number | directions | Effective rank of the embeddings of some images after the epoch.",
            "embedding_spread number | 0..1 | Their standard deviation after they were scaled to length 1.",
            "projection_rank number | directions | The same of the projections, which the loss looks at.",
            "projection_spread number | 0..1 | The same of the projections.",
            "collapsed flag |  | Whether a rank, or the projections' spread, is below its limit.",
            "seconds number | s | Of the epoch.",
            "* number |  | A column for each term of the loss; `masked_` is before those of the add-on.",
        ),
    ),
    "matches": TableSchema(
        what="A row for each place of the first image's maps whose best match in the second image matches it in turn.",
        written_by="`deconvviz pair --matches FILE.csv`, `Matches.save_csv` and `Matches.to_frame`",
        columns=_columns(
            "image_a text |  | Name of the first image.",
            "image_b text |  | Name of the second image.",
            "row_a number | pixels | Middle of the place in the first image, as the network sees it, from the top.",
            "column_a number | pixels | From the left.",
            "row_b number | pixels | Middle of the place in the second image.",
            "column_b number | pixels | From the left.",
            "cosine number | -1..1 | Of the channels at both places.",
            "weight number | of the layer, squared | The product of these channels, by which the rows are in order.",
        ),
    ),
}

"""deconvviz evaluate"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import EXPLAINED, MASK_FILLS, METRIC_GROUPS, RANDOMISATIONS
from deconvviz.cli.cluster import ray_options
from deconvviz.cli.explaining import CAM_NOTE, DISPLAY_NOTE, RANGE_NOTE, MethodOptions, method_options, own_methods
from deconvviz.cli.inputs import matched_outputs, names_of, open_model, output_names, remote_model
from deconvviz.cli.options import (
    Command,
    ModelOptions,
    classes_option,
    figure_options,
    limit_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, save_figure, sources
from deconvviz.errors import require_choice
from deconvviz.run.cluster import RayOptions
from deconvviz.run.options import RunOptions
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.cam.explain import Explainer
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.datasets import Images
    from deconvviz.data.feed import Feed
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.studies.evaluation.options import EvaluationKeywords
    from deconvviz.studies.evaluation.result import Evaluation
    from deconvviz.types import Ints

SANITY_NOTE = (
    "A method whose maps stay similar although the weights are random does not show what the network has learned. The "
    "maps explain the top class of the randomised network itself."
)


@dataclass(frozen=True)
class MetricOptions:
    """What is measured, as it was typed.

    Attributes:
        metrics: names of metric groups, with commas between them.
        truth: path of boxes or masks, or None.
        explain: "top" or "label".
        fill: "mean" or "black".
        steps: of the curves.
    """

    metrics: str
    truth: str | None
    explain: str
    fill: str
    steps: int

    def keywords(self, images: Images) -> EvaluationKeywords:
        """Return the options as arguments of `evaluate`; raises DataError where the truth does not fit the images."""
        from deconvviz.data.truth import open_truth

        groups, truth = names_of(self.metrics), open_truth(self.truth, images)
        return {
            "metrics": groups,
            "fill": self.fill,
            "steps": self.steps,
            "truth": truth if "localisation" in groups else None,
            "explain": self.explain,
        }


def metric_options(command: Command) -> Command:
    """Add --metrics, --truth, --explain, --fill and --steps, handed to the command as `measured`."""
    add_options = option_group(
        "measured",
        MetricOptions,
        click.option(
            "--metrics",
            default=",".join(METRIC_GROUPS[:3]),
            help=f"Groups of metrics, with commas between them: {', '.join(METRIC_GROUPS)}.",
        ),
        click.option(
            "--truth",
            metavar="CSV|FOLDER",
            help="Where the objects are, for localisation: boxes (columns image, left, top, right, bottom) or a folder "
            "of masks (IMAGE.png). For scenes it is known.",
        ),
        click.option(
            "--explain",
            default="top",
            type=click.Choice(EXPLAINED),
            help="Explain each image's own top class, or the class of its label.",
        ),
        click.option(
            "--fill",
            default="mean",
            type=click.Choice(MASK_FILLS),
            help="What masked pixels become: the mean colour or black.",
        ),
        click.option(
            "--steps", default=28, type=click.IntRange(2), help="Number of steps of the deletion and insertion curves."
        ),
    )
    return add_options(command)


@dataclass(frozen=True)
class SanityOptions:
    """The sanity check, as it was typed.

    Attributes:
        sanity: "cascading" or "independent"; None for no check.
        sanity_images: number of images, the first ones.
    """

    sanity: str | None
    sanity_images: int


sanity_options = option_group(
    "check",
    SanityOptions,
    click.option(
        "--sanity",
        type=click.Choice(RANDOMISATIONS),
        help="Also randomise the network's layers: all of them from the last one on, or one at a time.",
    ),
    click.option("--sanity-images", default=8, type=click.IntRange(1), help="Check the first images only."),
)


@click.command(epilog=CAM_NOTE)
@click.argument("model")
@click.argument("images")
@click.option(
    "-m",
    "--method",
    "methods",
    multiple=True,
    required=True,
    callback=own_methods,
    help="A method; may be given several times.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    help="The table, .csv; beside it that of each image, .images.csv, the figure .png and the values .h5.",
)
@method_options
@metric_options
@sanity_options
@limit_option
@figure_options("Methods in a row of maps.")
@run_options(
    batch_size="Masked images in one pass.",
    default_batch=32,
    precision="Precision of masked images and changed values; gradients are computed in fp32.",
    seed="Seed of the methods that draw masks, noise or orders, and of random weights.",
)
@classes_option
@ray_options
@model_options
def evaluate(
    model: str,
    images: str,
    methods: tuple[str, ...],
    out: str,
    how: MethodOptions,
    measured: MetricOptions,
    check: SanityOptions,
    limit: int | None,
    page: Page,
    run: RunOptions,
    names: str | None,
    cluster: RayOptions | None,
    options: ModelOptions,
) -> None:
    """Measure how well the maps of explanation methods show what a network relies on.

    IMAGES is a packed store, a folder of classes or scenes[:COUNT[:SEED]]. If the command is interrupted, the same
    command resumes from the .h5 file. If it is known which output stands for which class, .wrong.csv lists the images
    that are classified incorrectly, and how similar the first method's maps for the true and the predicted class are;
    .wrong.png shows them, and .confusions.csv has the pairs of classes that are confused.

    \b
    Examples:
      deconvviz evaluate torchvision:resnet18 photos.h5 -l layer4 -m grad-cam -m recipro-cam -o table.csv
      deconvviz evaluate demo scenes:99:7 -l relu5 -m grad-cam -m lrp-zplus --metrics localisation -o scenes.csv
    """
    table = check_table(out)
    for group in names_of(measured.metrics):
        require_choice("metrics", group, METRIC_GROUPS)
    from deconvviz.data.datasets import open_images
    from deconvviz.run.shipping import RemoteImages
    from deconvviz.studies.evaluation.measure import evaluate as measure
    from deconvviz.studies.evaluation.on_ray import EvaluationJob, evaluate_on_ray
    from deconvviz.studies.evaluation.result import Evaluation

    labelled_images = open_images(images)
    keywords: EvaluationKeywords = {**measured.keywords(labelled_images), **run.keywords()}
    opened = open_model(model, options)
    class_names = output_names(opened.loaded, names, opened.network, labelled_images)
    required, outputs = measured.explain == "label" or names is not None, None
    if required or (labelled_images.labels >= 0).any():
        outputs = matched_outputs(labelled_images, opened.network, class_names, required, "mistakes are not listed")
    keywords["outputs"] = outputs
    options_by_method, file = how.by_method(methods), beside(table, ".h5")
    about: dict[str, Any] = {"limit": limit, "sources": sources(opened.loaded)}
    if cluster is None or (file.exists() and Evaluation.load(file).complete):
        subject = opened.network, labelled_images, options_by_method, how.layers, file
        evaluation = measure(*subject, preprocess=opened.preprocess, **about, **keywords)
    else:
        about |= {"model": remote_model(model, options, opened.preprocess), "images": RemoteImages.of(images)}
        job = EvaluationJob(methods=options_by_method, layers=how.layers, options=keywords, **about)
        evaluation = evaluate_on_ray(job, len(labelled_images), file, cluster)
    evaluation.save_csv(table)
    evaluation.save_images_csv(beside(table, ".images.csv"))
    known_names = class_names if len(class_names) == opened.network.outputs else ()
    title = f"Explanations of {opened.network.name}{how.place}"
    _draw(evaluation, table, title, images, opened.preprocess, measured, known_names, page)
    click.echo(f"wrote {table} and {file}\n{evaluation!r}")
    if outputs is not None:
        explainer = _explainer(methods[0], options_by_method[methods[0]], opened, how, run)
        feed = _feed(labelled_images, opened, len(evaluation.names), run)
        _report_mistakes(explainer, feed, opened.network, outputs, class_names, table, run.progress, page.beside())
    if check.sanity:
        feed = _feed(labelled_images, opened, check.sanity_images, run)
        _check_sanity(check.sanity, options_by_method, how, feed, opened, run, table, page.beside())


def _draw(
    evaluation: Evaluation,
    table: pathlib.Path,
    title: str,
    images: str,
    preprocess: Preprocess,
    measured: MetricOptions,
    class_names: Sequence[str],
    page: Page,
) -> None:
    """Write the figure beside the table."""
    from deconvviz.metrics.curves import INSERTION_BLUR
    from deconvviz.studies.evaluation.figure import draw_evaluation, drawn_columns
    from deconvviz.studies.evaluation.metric_groups import directions

    target = "the network's top class" if measured.explain == "top" else "the class of its label"
    fill = "the mean colour" if measured.fill == "mean" else "black"
    window, _ = INSERTION_BLUR.of(*evaluation.pictures.shape[1:3])
    blur = f" The picture of the insertion curve is blurred by a window of {window} px." if evaluation.curves else ""
    shown = {evaluation.columns[number] for number in drawn_columns(evaluation)}
    constant = "constant is the share of maps that are the same everywhere; " if "constant" in shown else ""
    caption = (
        f"{counted(len(evaluation.names), 'image')} of {pathlib.PurePath(images).name}; {target} is explained. "
        f"Masked pixels become {fill}. {RANGE_NOTE} {DISPLAY_NOTE} p is the probability of the class. Curves show "
        "means over the images. Bars show means, and whiskers their 95 % intervals: metrics are fractions, at 100, 50 "
        f"or 15 % of the pixels where so many are kept; {constant}passes and seconds are those of one image."
        f"{blur}{preprocess.shown_words()}"
    )
    figure = draw_evaluation(evaluation, directions(evaluation.columns), title, caption, class_names, page)
    save_figure(figure, beside(table, ".png"), caption)


def _explainer(
    method: str, own_options: Mapping[str, Any], opened: OpenedModel, how: MethodOptions, run: RunOptions
) -> Explainer:
    """Return the explainer of one method, as `evaluate` makes it."""
    from deconvviz.cam.explain import cam
    from deconvviz.cam.registry import METHODS

    settings: dict[str, Any] = {
        "batch_size": run.images_at_once(opened.network.device),
        "precision": run.precision,
        "seed": run.seed,
        "preprocess": opened.preprocess,
        **own_options,
    }
    return cam(method, opened.network, METHODS[method].layers_for(how.layers), **settings)


def _feed(images: Images, opened: OpenedModel, count: int, run: RunOptions) -> Feed:
    """Return some images, spread over the classes, as a feed."""
    from deconvviz.data.datasets import labels_of
    from deconvviz.data.feed import Feed
    from deconvviz.data.sampling import spread

    return Feed(images, opened.preprocess, spread(labels_of(images), count), workers=run.workers)


def _report_mistakes(
    explainer: Explainer,
    feed: Feed,
    network: Network,
    outputs: Ints,
    class_names: Sequence[str],
    table: pathlib.Path,
    progress: bool,
    page: Page,
) -> None:
    """List the images that are classified incorrectly, and draw the maps of the first few."""
    from deconvviz.studies.evaluation.figure import draw_mistakes
    from deconvviz.studies.evaluation.mistakes import find_mistakes

    mistakes = find_mistakes(network, feed, explainer, outputs, class_names, progress=progress)
    mistakes.save_csv(beside(table, ".wrong.csv"), beside(table, ".confusions.csv"))
    click.echo(repr(mistakes))
    if not len(mistakes.maps):
        return
    caption = (
        f"The first {len(mistakes.maps)} of {counted(len(mistakes.records), 'image')} "
        "that are classified incorrectly, of "
        f"{mistakes.labelled}: maps of {explainer.method.name} for the true class and for the predicted one. The "
        "numbers beside the names are probabilities; overlap is the correlation of "
        "the two maps, from 1 (the same place) "
        f"to -1. Each map is scaled to its own range.{feed.preprocess.shown_words()}"
    )
    title = f"Images that {network.name} classifies incorrectly"
    figure = draw_mistakes(mistakes, title, caption, page)
    save_figure(figure, beside(table, ".wrong.png"), caption)


def _check_sanity(
    randomisation: str,
    options_by_method: Mapping[str, Mapping[str, Any]],
    how: MethodOptions,
    feed: Feed,
    opened: OpenedModel,
    run: RunOptions,
    table: pathlib.Path,
    page: Page,
) -> None:
    """Randomise the network's weights, and print and draw how similar each method's maps stay."""
    from deconvviz.studies.evaluation.sanity import explanation_by, sanity_check
    from deconvviz.studies.evaluation.sanity_figure import draw_sanity
    from deconvviz.studies.evaluation.sanity_result import save_sanity_checks

    network = opened.network
    images = feed.tensor(feed.pictures(range(len(feed))), network.device, network.dtype)
    model = opened.loaded.model.to(network.device)
    checks = {}
    for method, own_options in options_by_method.items():
        if "explainer" in own_options:
            click.echo(
                f"note: no sanity check of {method}: a trained explainer belongs to one network's weights", err=True
            )
            continue
        explain = explanation_by(method, network, how.layers, seed=run.seed, **own_options)
        checks[method] = sanity_check(explain, model, images, randomisation, run.seed, run.progress)
        last = checks[method].similarity["spearman"][-1].mean()
        verdict = "passes" if checks[method].passes() else "FAILS"
        click.echo(f"sanity, {randomisation}: {method} {verdict} (rank correlation {last:.2f} after the last layer)")
    if not checks:
        return
    save_sanity_checks(checks, beside(table, ".sanity.csv"))
    count = counted(len(images), "image")
    caption = (
        f"{count}; {randomisation} randomisation, seed {run.seed}. Points are means over the images; 1 is the same "
        f"map. {SANITY_NOTE}"
    )
    figure = draw_sanity(checks, f"Sanity check of {network.name}", caption, page)
    save_figure(figure, beside(table, ".sanity.png"), caption)

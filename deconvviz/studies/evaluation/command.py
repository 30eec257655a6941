"""deconvviz evaluate"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import EXPLAINED, MASK_FILLS, METRIC_GROUPS
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
from deconvviz.studies.evaluation.sanity_command import (
    SanityOptions,
    SanitySubject,
    check_sanity,
    feed_of,
    sanity_options,
)
from deconvviz.studies.evaluation.under_attack_command import AttackSubject, attack_option
from deconvviz.words import at_layers, counted

if TYPE_CHECKING:
    from deconvviz.cam.explain import Explainer
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.datasets import Images
    from deconvviz.data.feed import Feed
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.studies.evaluation.options import EvaluationKeywords
    from deconvviz.studies.evaluation.result import Evaluation
    from deconvviz.studies.evaluation.under_attack_result import MapsUnderAttack
    from deconvviz.types import Ints


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

    def groups(self) -> list[str]:
        """Return the names of the groups, none of "none"; raises a usage error for one that does not exist."""
        groups = [] if self.metrics == "none" else names_of(self.metrics)
        for group in groups:
            require_choice("metrics", group, METRIC_GROUPS)
        return groups

    def keywords(self, images: Images) -> EvaluationKeywords:
        """Return the options as arguments of `evaluate`; raises DataError where the truth does not fit the images."""
        from deconvviz.data.truth import open_truth

        groups, truth = self.groups(), open_truth(self.truth, images)
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
            help=f"Groups of metrics, with commas between them: {', '.join(METRIC_GROUPS)}; or none.",
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
@attack_option
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
    attacks: tuple[str, ...],
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
    .wrong.png shows them, and .confusions.csv has the pairs of classes that are confused. With localisation,
    .thresholds.csv and .thresholds.png have precision, recall and Dice at each threshold of the maps, and, of four
    methods or more, .agreement.csv says how far the other metrics rank them as PxAP does. With --attack, .attack.csv,
    .attack.images.csv and .attack.png say how far each method's maps move on attacked images and under random noise.

    \b
    Examples:
      deconvviz evaluate torchvision:resnet18 photos.h5 -l layer4 -m grad-cam -m recipro-cam -o table.csv
      deconvviz evaluate demo scenes:99:7 -l relu5 -m grad-cam -m lrp-zplus --metrics localisation -o scenes.csv
      deconvviz evaluate demo scenes:99:7 -l relu5 -m grad-cam -m guided --metrics crop,sensitivity -o robust.csv
      deconvviz evaluate demo scenes:99:7 -l relu5 -m grad-cam -m guided --sanity labels -o labels.csv
      deconvviz evaluate demo scenes:200:7 -l relu5 -m grad-cam -m guided --metrics none --attack pgd.h5 -o trust.csv
    """
    table = _table(out, measured, how, methods, attacks)
    from deconvviz.data.datasets import open_images
    from deconvviz.run.shipping import RemoteImages
    from deconvviz.studies.evaluation.measure import evaluate as measure
    from deconvviz.studies.evaluation.on_ray import EvaluationJob, evaluate_on_ray
    from deconvviz.studies.evaluation.result import Evaluation

    labelled_images = open_images(images)
    keywords: EvaluationKeywords = {**measured.keywords(labelled_images), **run.keywords()}
    opened = open_model(model, options)
    class_names = output_names(opened.loaded, names, opened.network, labelled_images)
    required, outputs = measured.explain == "label" or names is not None or check.sanity == "labels", None
    if required or (labelled_images.labels >= 0).any():
        outputs = matched_outputs(labelled_images, opened.network, class_names, required, "mistakes are not listed")
    keywords["outputs"] = outputs
    options_by_method, file = how.by_method(methods), beside(table, ".h5")
    how.say_default_layer(methods, opened.network)
    attacked = AttackSubject(opened, labelled_images, options_by_method, how.layers, limit, run).checked(attacks)
    about: dict[str, Any] = {"limit": limit, "sources": sources(opened.loaded)}
    if cluster is None or (file.exists() and Evaluation.load(file).complete):
        subject = opened.network, labelled_images, options_by_method, how.layers, file
        evaluation = measure(*subject, preprocess=opened.preprocess, **about, **keywords)
    else:
        about |= {"model": remote_model(model, options, opened.preprocess), "images": RemoteImages.of(images)}
        job = EvaluationJob(methods=options_by_method, layers=how.layers, options=keywords, **about)
        evaluation = evaluate_on_ray(job, len(labelled_images), file, cluster)
    _write_tables(evaluation, table, attacked.measured(attacks, table, page.beside()))
    _write_what_is_known(evaluation, table, f"Maps of {opened.name} and the objects", page)
    known_names = class_names if len(class_names) == opened.network.outputs else ()
    title = f"Explanations of {opened.name}{how.place}"
    _draw(evaluation, table, title, images, opened.preprocess, measured, known_names, page)
    click.echo(f"wrote {table}, {beside(table, '.images.csv')} and {file}\n{evaluation!r}")
    if outputs is not None:
        explainer = _explainer(methods[0], options_by_method[methods[0]], opened, how, run)
        feed = feed_of(labelled_images, opened, len(evaluation.names), run)
        _report_mistakes(explainer, feed, opened, outputs, class_names, table, run.progress, page.beside())
    if check.sanity:
        feed = feed_of(labelled_images, opened, check.sanity_images, run)
        checked = SanitySubject(opened, feed, options_by_method, how.layers, run)
        check_sanity(check, checked, labelled_images, outputs, table, page.beside())


def _table(
    out: str, measured: MetricOptions, how: MethodOptions, methods: Sequence[str], attacks: Sequence[str]
) -> pathlib.Path:
    """Return the path of the table; refuses metrics and files that do not exist, before torch is imported."""
    from deconvviz.results.results import require_file

    measured.groups()
    how.require_explainers(methods)
    for path in attacks:
        require_file(path, "attack file")
    return check_table(out)


def _write_tables(evaluation: Evaluation, table: pathlib.Path, moved: MapsUnderAttack | None) -> None:
    """Write the table of means, with columns for how far maps moved under attacks, and that of the images."""
    evaluation.save_csv(table, None if moved is None else {method: moved.columns(method) for method in moved.methods})
    evaluation.save_images_csv(beside(table, ".images.csv"))


def _write_what_is_known(evaluation: Evaluation, table: pathlib.Path, title: str, page: Page) -> None:
    """Write, where objects are known, the pixels at each threshold, and which metrics rank methods as these do."""
    from deconvviz.studies.evaluation.agreement import agreement, rankable
    from deconvviz.studies.evaluation.metric_groups import directions
    from deconvviz.studies.evaluation.of_all_images import pixel_curves, save_thresholds_csv
    from deconvviz.studies.evaluation.thresholds_figure import draw_thresholds

    curves = {method: pixel_curves(evaluation, method)[0] for method in evaluation.values}
    known = {method: of_method for method, of_method in curves.items() if of_method is not None}
    if known:
        save_thresholds_csv(evaluation, beside(table, ".thresholds.csv"))
        count = max(len(of_method.on_object) for of_method in known.values())
        caption = (
            f"{counted(count, 'image')} whose objects are known, all their pixels together. Pixels at or above the "
            "threshold are marked. PxAP is the area under precision over recall. Dice is 2 TP / (2 TP + FP + FN)."
        )
        figure = draw_thresholds(known, title, caption, page.beside())
        save_figure(figure, beside(table, ".thresholds.png"), caption)
    better = directions(evaluation.columns)
    if rankable(evaluation, better):
        ranking = agreement(evaluation, better)
        ranking.save_csv(beside(table, ".agreement.csv"))
        click.echo(repr(ranking))


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
    covering, of_curves, of_metrics = "", "", ""
    if measured.groups():
        covering = f"Masked pixels become {fill}. "
        of_curves = "Curves show means over the images. "
        of_metrics = (
            "metrics are fractions where no unit is named, at 100, 50 or 15 % of the pixels where so many are kept; "
        )
    caption = (
        f"{counted(len(evaluation.names), 'image')} of {pathlib.PurePath(images).name}; {target} is explained. "
        f"{covering}{RANGE_NOTE} {DISPLAY_NOTE} p is the probability of the class. {of_curves}Bars show means, and "
        f"whiskers their 95 % intervals: {of_metrics}{constant}passes and seconds are those of one image."
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


def _report_mistakes(
    explainer: Explainer,
    feed: Feed,
    opened: OpenedModel,
    outputs: Ints,
    class_names: Sequence[str],
    table: pathlib.Path,
    progress: bool,
    page: Page,
) -> None:
    """List the images that are classified incorrectly, and draw the maps of the first few."""
    from deconvviz.studies.evaluation.figure import draw_mistakes
    from deconvviz.studies.evaluation.mistakes import find_mistakes

    mistakes = find_mistakes(opened.network, feed, explainer, outputs, class_names, progress=progress)
    files = beside(table, ".wrong.csv"), beside(table, ".confusions.csv")
    mistakes.save_csv(*files)
    click.echo(f"{mistakes!r}\nwrote {files[0]} and {files[1]}")
    if not len(mistakes.maps):
        return
    caption = (
        f"The first {len(mistakes.maps)} of {counted(len(mistakes.records), 'image')} that are classified "
        f"incorrectly, of {mistakes.labelled}: maps of {explainer.method.name}{at_layers(explainer.layers)} for the "
        "true class and for the predicted one. The numbers beside the names are probabilities; overlap is the "
        "correlation of the two maps, from 1 (the same place) to -1. Each map is scaled to its own range."
        f"{feed.preprocess.shown_words()}"
    )
    title = f"Images that {opened.name} classifies incorrectly"
    figure = draw_mistakes(mistakes, title, caption, page)
    save_figure(figure, beside(table, ".wrong.png"), caption)

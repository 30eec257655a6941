"""deconvviz dissect and merge-dissections"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from deconvviz.cli.following import PICTURE, following
from deconvviz.cli.inputs import matched_outputs, open_model, output_names
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    layers_option,
    limit_option,
    model_options,
    option_group,
    run_options,
    shard_option,
)
from deconvviz.cli.outputs import beside, check_place, check_table, save_figure, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.dissection.naming import NamingRule
    from deconvviz.studies.dissection.result import Dissection
    from deconvviz.types import Ints


@dataclass(frozen=True)
class RuleOptions:
    """When a channel is named, as it was typed; the fields are those of `NamingRule`."""

    iou: float
    share: float
    times: float
    alpha: float

    def rule(self) -> NamingRule:
        """Return the rule."""
        from deconvviz.studies.dissection.naming import NamingRule

        return NamingRule(iou=self.iou, share=self.share, times=self.times, alpha=self.alpha)


rule_options = option_group(
    "naming",
    RuleOptions,
    click.option("--iou", default=0.04, type=FiniteRange(0, 1, True), help="Overlap from which a part is a name."),
    click.option(
        "--share",
        default=0.5,
        type=FiniteRange(0, 1, True),
        help="Share of a channel's pixels from which a colour or a texture is a name.",
    ),
    click.option(
        "--times", default=2.0, type=FiniteRange(1), help="Overlap or share must be so many times that of chance."
    ),
    click.option(
        "--alpha",
        default=0.05,
        type=FiniteRange(0, 1, True, True),
        help="Corrected p value below which a class is a name.",
    ),
)


@click.command()
@click.argument("model")
@click.argument("images")
@layers_option("Name of a layer to dissect; give as many as you like.", required=True)
@click.option("-o", "--out", required=True, help="The table, .csv; OUT.h5 with all counts and OUT.png come beside it.")
@click.option(
    "--truth",
    metavar="CSV|FOLDER",
    help="Where parts are: boxes (columns image, left, top, right, bottom, part) or a folder of masks (IMAGE.png). For "
    "scenes it is known.",
)
@click.option(
    "--concept",
    "concepts",
    metavar="NAME=FOLDER",
    multiple=True,
    help="Examples of a concept, at least 5 pictures: OUT.concepts.csv says for which classes the score rises along "
    "its direction. pip install scikit-learn",
)
@click.option(
    "--quantile",
    default=0.995,
    type=FiniteRange(0.5, 1, max_open=True),
    help="Of a channel's values: its threshold.",
)
@click.option("--top", default=20, type=click.IntRange(4), help="Strongest images among which classes are counted.")
@rule_options
@limit_option
@shard_option("Take each n-th image from the i-th on; join the n files OUT.h5 with `deconvviz merge-dissections`.")
@click.option(
    "--quantiles", metavar="FILE", help="The joined first passes of all shards, for the second pass of this one."
)
@classes_option
@figure_options("Channels beside each other.")
@run_options(
    batch_size="Images in one pass; halved when they do not fit in memory.",
    precision="Number format of the forward passes.",
    workers=DECODING,
    seed="Of the random sets of --concept.",
)
@model_options
def dissect(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    truth: str | None,
    concepts: tuple[str, ...],
    quantile: float,
    top: int,
    naming: RuleOptions,
    limit: int | None,
    shard: tuple[int, int] | None,
    quantiles: str | None,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Find which concept each filter detects, and give the filters names.

    This is network dissection. A filter fires where its map, resized to the picture, is above the 0.995 quantile of its
    values. Parts (--truth), colours and textures name it by where that is, classes by its strongest images. Beside each
    number stands what chance gives.

    IMAGES is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures
    whose parts are known. The same command resumes what was interrupted. `grid`, `atlas` and `diagnose` show the names
    with `--names OUT.csv`.

    \b
    Examples:
      deconvviz dissect demo scenes:2000 -l relu5 -o names.csv
      deconvviz dissect torchvision:squeezenet1_0 photos.h5 -l features.3 -l features.12 -o names.csv
      deconvviz dissect torchvision:squeezenet1_0 photos.h5 -l features.7 --concept striped=stripes/ -o names.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.data.images import ImageStore
    from deconvviz.data.truth import open_truth
    from deconvviz.studies.dissection.measure import dissect as dissect_layers
    from deconvviz.studies.dissection.result import Dissection

    table = check_table(out)
    example_images = _examples(concepts, names)
    if quantiles is not None and shard is None:
        raise DataError("--quantiles given without --shard; it is for the second pass of a shard")
    opened = open_images(images)
    known, joined = open_truth(truth, opened), None if quantiles is None else Dissection.load(quantiles)
    network, preprocess, loaded = open_model(model, options, layers)
    scored = bool(example_images) and shard is None
    outputs = _outputs(opened, network, loaded, names) if scored else None  # refused before the work
    file = beside(table, ".h5")
    dissection = dissect_layers(
        network,
        opened,
        layers,
        preprocess=preprocess,
        truth=known,
        out=file,
        quantiles=joined,
        sources=sources(loaded),
        quantile=quantile,
        top=top,
        limit=limit,
        shard=shard,
        **run.keywords(),
    )
    if shard is not None:
        click.echo(f"wrote {file}, the {dissection.stage} of shard {shard[0]} of {shard[1]}; {_next_of(dissection)}")
        return
    _write(dissection, table, naming.rule(), images, page)
    if outputs is not None:
        _write_scores(network, opened, layers, preprocess, example_images, outputs, table, run)
    click.echo(repr(dissection))
    if isinstance(opened, ImageStore):  # which is what an atlas is made of
        click.echo(f"next: {following('atlas', model, images, '--names', table, '-o', 'atlas', carry=PICTURE)}")


def _examples(concepts: tuple[str, ...], names: str | None) -> dict[str, Images]:
    """Open the folders of examples, name -> images; raises DataError for text that is no NAME=FOLDER.

    Names of outputs are for their scores alone: without an example they are refused, too.
    """
    from deconvviz.data.datasets import open_images

    opened = {}
    for text in concepts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise DataError(f"concept {text!r} given; expected NAME=FOLDER, such as striped=stripes/")
        if name in opened:
            raise DataError(f"concept {name!r} given twice; give each its own name")
        if not pathlib.Path(folder).exists():
            raise DataError(f"{folder} does not exist; the concept {name!r} needs a folder of pictures that show it")
        opened[name] = open_images(folder)
    if names is not None and not opened:
        raise DataError("--classes given without --concept; it names the outputs whose scores follow the concepts")
    return opened


def _outputs(images: Images, network: Network, loaded: LoadedModel, names: str | None) -> Ints:
    """Return the output that stands for each class of the images, int64 [classes]; DataError where none does."""
    outputs = matched_outputs(images, network, output_names(loaded, names, network, images), True, "")
    assert outputs is not None  # they are required
    return outputs


def _next_of(dissection: Dissection) -> str:
    """Return what follows after a pass of a shard."""
    if dissection.complete:
        return "`deconvviz merge-dissections` joins the files of all shards"
    return (
        "`deconvviz merge-dissections` joins the files of all shards; then give each shard the joined file: "
        "--quantiles FILE"
    )


def _write(dissection: Dissection, table: pathlib.Path, rule: NamingRule, images: str, page: Page) -> None:
    """Write the table and the figure."""
    from deconvviz.studies.dissection.figure import caption_of, draw_dissection

    dissection.save_csv(table, rule)
    click.echo(f"wrote {table} and {beside(table, '.h5')}")
    caption = caption_of(dissection, images, rule)
    figure = draw_dissection(dissection, f"What the filters of {dissection.network_name} detect", caption, page, rule)
    save_figure(figure, beside(table, ".png"), caption)


def _write_scores(
    network: Network,
    images: Images,
    layers: tuple[str, ...],
    preprocess: Preprocess,
    concepts: dict[str, Images],
    outputs: Ints,
    table: pathlib.Path,
    run: RunOptions,
) -> None:
    """Write the table of the classes whose scores rise along the directions of concepts."""
    from deconvviz.studies.dissection.directions import concept_scores

    scores = concept_scores(network, images, layers, concepts, outputs=outputs, preprocess=preprocess, **run.keywords())
    path = beside(table, ".concepts.csv")
    scores.save_csv(path)
    click.echo(f"wrote {path}")
    click.echo(repr(scores))


@click.command("merge-dissections")
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The file of all shards, .h5.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def merge_dissections(files: tuple[str, ...], out: str, force: bool) -> None:
    """Join the dissections of all shards of one job.

    FILES are those that `deconvviz dissect --shard` wrote. After the first pass the joined file holds the thresholds of
    all images: each shard takes it for its second pass. After the second pass `deconvviz dissect`, without --shard and
    with a table of the same name, makes table and figure of it.

    \b
    Example:
      deconvviz merge-dissections part0.h5 part1.h5 -o names.h5
    \b
    All steps for two machines:
      deconvviz dissect demo scenes:2000 -l relu5 --shard 0/2 -o part0.csv      # and 1/2 on the other one
      deconvviz merge-dissections part0.h5 part1.h5 -o names.h5
      deconvviz dissect demo scenes:2000 -l relu5 --shard 0/2 -o part0.csv --quantiles names.h5
      deconvviz merge-dissections part0.h5 part1.h5 -o names.h5 --force
      deconvviz dissect demo scenes:2000 -l relu5 -o names.csv
    """
    from deconvviz.results.shard_files import require_new
    from deconvviz.studies.dissection.result import Dissection
    from deconvviz.studies.dissection.result import merge_dissections as merged_dissections

    check_place(out)
    require_new(out, force)
    merged = merged_dissections([Dissection.load(path) for path in files])
    merged.save(out)
    click.echo(f"wrote {out}: {merged.progress()}")

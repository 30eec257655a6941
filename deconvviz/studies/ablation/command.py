"""deconvviz ablate"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deconvviz.cli.inputs import captured, found_device, load
from deconvviz.cli.options import ModelOptions, model_options
from deconvviz.cli.outputs import command_line, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.studies.training.command import recipe_options, validation_of

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.graph.network import Network

TRAINS = "--variants --validation --work --width --first --dropout --epochs --lr --momentum --weight-decay --factor"
TRAINS += " --patience --radius --augment --seed"
LESIONS = "--layer --by --how --count --classes --mean --std"
CHAIN = " Where nothing passes a layer by, the output then is the same for every image."
AT_ONCE = 32  # changed values, where --batch-size is not given


def _training_options(command: Any) -> Any:
    """Options of the trained variants that `deconvviz train` has not, or explains for one network."""
    for option in (
        click.option("--dropout", default=0.5, show_default=True, help="Training: share dropped in layers 6 and 7."),
        click.option(
            "--first",
            default="zfnet",
            show_default=True,
            type=click.Choice(["zfnet", "alexnet"]),
            help="Training: layers 1 and 2; table 3 removes layers from alexnet.",
        ),
        click.option("--width", default=1.0, show_default=True, help="Training: factor on all maps and units."),
        click.option("--work", metavar="FOLDER", help="Training: where the networks are kept.  [default: OUT's name]"),
        click.option(
            "--variants", default="all", show_default=True, help="Training: some of table 3, such as full,no-7,no-6-7."
        ),
    ):
        command = option(command)
    return command


def _lesion_options(command: Any) -> Any:
    for option in (
        click.option("--classes", metavar="FILE", help="Lesions: the names of the outputs, one a line."),
        click.option("--count", type=click.IntRange(1), help="Lesions: so many of the images, spread evenly."),
        click.option(
            "--how",
            default="zero",
            show_default=True,
            type=click.Choice(["zero", "mean"]),
            help="Lesions: what takes a filter's place: zero, or its mean over the images.",
        ),
        click.option(
            "--by",
            default="filter",
            show_default=True,
            type=click.Choice(["filter", "layer"]),
            help="Lesions: one filter at a time, or a whole layer.",
        ),
        click.option(
            "-l", "--layer", "layers", multiple=True, help="Lesions: of this layer.  [default: with --by layer, each]"
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("images", metavar="DATA")
@click.option("-o", "--out", required=True, help="The table, .csv; the figure .png beside it.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@_lesion_options
@_training_options
@recipe_options
@model_options
@click.pass_context
def ablate(context: click.Context, /, model: str, images: str, out: str, options: ModelOptions, **more: Any) -> None:
    """Find out which layers and filters a network needs.

    \b
    Two things, told apart by --weights:
      deconvviz ablate zfnet DATA -o ablation.csv
          TRAINS the variants of the paper's table 3 by one recipe: without layers 3 and 4, without 6 and 7, without
          all four, with wider layers; and compares their errors.
      deconvviz ablate MODEL DATA --weights FILE -l LAYER -o lesions.csv
          trains NOTHING: silences each filter of a trained network in turn, or each layer, and measures what accuracy
          is lost. Every MODEL but a zfnet without --weights is taken so.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures;
    a packed one is read fastest, and each variant reads it anew. Interrupted, the same command goes on; a variant
    that is finished is not trained again.

    \b
    Examples:
      deconvviz ablate zfnet scenes:2000 --input 64 --width 0.2 --epochs 10 --validation scenes:500:1 -o ablation.csv
      deconvviz ablate zfnet imagenet.h5 --variants full,no-3-4,no-6-7,no-3-4-6-7 -o ablation.csv
      deconvviz ablate zfnet scenes:500:1 --weights ablation/full.pth -l relu3 -o lesions.csv
      deconvviz ablate torchvision:resnet18 photos.h5 --by layer -l layer1.1.bn2 -l layer2.1.bn2 -o lesions.csv
    """
    from deconvviz.data.datasets import open_images

    table, trains = pathlib.Path(out), model == "zfnet" and options.weights == "DEFAULT"
    if table.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    _refuse_foreign(context, trains)
    if trains:
        _train(table, open_images(images), images, options, **more)
        return
    if context.get_parameter_source("batch_size") != ParameterSource.COMMANDLINE:
        more["batch_size"] = AT_ONCE
    _lesions(table, model, open_images(images), images, options, **more)


def _refuse_foreign(context: click.Context, trains: bool) -> None:
    """Refuse an option that would be without effect; raises DataError."""
    foreign = LESIONS if trains else TRAINS
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        name = next((text for text in parameter.opts if text in foreign.split()), None)
        if given and name:
            rule = "zfnet without --weights trains variants; of any other model the filters are silenced"
            raise DataError(f"{name} given, which has no effect here: {rule}")


def _train(
    table: pathlib.Path,
    images: Images,
    shown: str,
    options: ModelOptions,
    *,
    variants: str,
    validation: str,
    work: str | None,
    workers: int,
    quiet: bool,
    width: float,
    first: str,
    dropout: float,
    **recipe: Any,
) -> None:
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.ablation.figure import draw_variants
    from deconvviz.studies.ablation.train import VARIANTS, ablate_variants
    from deconvviz.studies.training.recipe import Recipe

    share, others = validation_of(validation)
    names = {field.name for field in dataclasses.fields(Recipe)}
    found = ablate_variants(
        images,
        open_images(others) if others else None,
        list(VARIANTS) if variants == "all" else [name.strip() for name in variants.split(",")],
        folder=work or table.with_suffix(""),
        input_size=options.crop,
        resize=options.resize,
        width=width,
        first=first,
        dropout=dropout,
        recipe=Recipe(**{k: v for k, v in recipe.items() if k in names}, validation=share),
        device=found_device(options.device),
        workers=workers,
        progress=not quiet,
        sources={"command": command_line()},
    )
    found.save_csv(table)
    caption = (
        f"Trained alike on {shown}, {found.rows[0].epochs} epochs; validated on {found.images} images"
        f"{f' of {others}' if others else ''}. Input {found.config['input_size']} px, width {width:g}, layers 1 and 2 "
        f"of {first}. Errors of the finished networks on central crops.\nThe intervals are over images (Bonett and "
        "Price 2012), not over trainings from other initial weights."
    )
    figure = draw_variants(found, "Layers left out, or wider (Zeiler and Fergus 2013, table 3)", caption)
    save_figure(figure, str(table.with_suffix(".png")), caption)
    click.echo(f"wrote {table}; the networks are in {work or table.with_suffix('')}")
    click.echo(repr(found))


def _lesions(
    table: pathlib.Path,
    model: str,
    images: Images,
    shown: str,
    options: ModelOptions,
    *,
    layers: tuple[str, ...],
    by: str,
    how: str,
    count: int | None,
    classes: str | None,
    batch_size: int,
    precision: str,
    workers: int,
    quiet: bool,
    **_: Any,
) -> None:
    from deconvviz.models.labels import outputs_of, read_classes
    from deconvviz.studies.ablation.figure import draw_lesions
    from deconvviz.studies.lesions.measure import lesion

    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    names = read_classes(classes) if classes else loaded.classes
    found = lesion(
        network,
        images,
        layers or _modules(network, by),
        preprocess=preprocess,
        outputs=outputs_of(images.classes, network.outputs, names),
        by=by,
        how=how,
        count=count,
        batch_size=batch_size,
        precision=precision,
        workers=workers,
        out=table.with_suffix(".h5"),
        progress=not quiet,
        sources=sources(loaded),
    )
    found.save_csv(table)
    what = "Each filter in turn is" if by == "filter" else "All filters of each layer in turn are"
    place = "zero" if how == "zero" else "the mean over images and positions"
    caption = (
        f"{found.images} images of {shown}; the network as it is names {found.accuracy:.1%} right. {what} set to "
        f"{place}.{CHAIN if by == 'layer' else ''}\n"
        "Intervals: 95 %, of the same images with and without (Bonett and Price 2012), each by itself: what leads a "
        "ranking of many owes part of its place to chance."
    )
    figure = draw_lesions(found, f"What {network.name} loses when a {by} is silenced", caption)
    save_figure(figure, str(table.with_suffix(".png")), caption)
    click.echo(f"wrote {table} and {table.with_suffix('.h5')}")
    click.echo(repr(found))


def _modules(network: Network, by: str) -> list[str]:
    """Return every module, one of those that have the same value; raises DataError for filters."""
    if by == "filter":
        raise DataError("no layer given; name one with -l, or ask for whole layers with --by layer")
    named: dict[Any, str] = {}
    for name, layer in network.layers.items():
        if not layer.functional and "Dropout" not in layer.kind:
            named.setdefault(layer.node, name)
    return list(named.values())

"""deconvviz relevance"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import RELEVANCE_RULES
from deconvviz.cli.following import IMAGE, PICTURE, following
from deconvviz.cli.inputs import class_number, matched_outputs, open_model, output_names, read_image
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    layers_option,
    limit_option,
    model_options,
    run_options,
)
from deconvviz.cli.outputs import beside, check_place, check_table, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.relevance.deciding import DecidingChannels
    from deconvviz.studies.relevance.options import Target
    from deconvviz.studies.relevance.result import Relevance
    from deconvviz.types import Picture


def _shard(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read i/n."""
    if text is None:
        return None
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise DataError(f"shard {text!r} given; expected i/n with i from 0 to n - 1, such as 0/4")
    return int(first), int(last)


@click.command()
@click.argument("model")
@click.argument("data")
@layers_option("Name of a layer whose channels share the decisions; give as many as you like.", required=True)
@click.option(
    "-o", "--out", required=True, help="The relevance file, .h5; an unfinished one is resumed. OUT.png comes beside it."
)
@click.option("-k", default=9, type=click.IntRange(1), help="Images to keep for each channel.")
@click.option(
    "--target",
    default="predicted",
    metavar="predicted|label|CLASS",
    help="Whose score is shared out: the class that the network predicts for each image, that of its label, or one "
    "class, by number or name, for all images.",
)
@click.option(
    "--rule",
    default=RELEVANCE_RULES[0],
    type=click.Choice(RELEVANCE_RULES),
    help="How a score is shared out.",
)
@click.option("--for", "shown_class", metavar="CLASS", help="Class that the figure shows.  [default: the most decided]")
@click.option("--image", metavar="FILE", help="A picture; the figure shows which channels decide about it.")
@limit_option
@click.option(
    "--shard",
    metavar="i/n",
    callback=_shard,
    help="Take each n-th image from the i-th on; join the n files with `deconvviz merge`.",
)
@click.option("--csv", "table", metavar="FILE", help="Also write a table of each class's channels, named .csv.")
@click.option("--commit-every", default=20, type=click.IntRange(1), help="Batches between writes to the file.")
@classes_option
@figure_options()
@run_options(batch_size="Images in one pass; halved when they do not fit in memory.", workers=DECODING)
@model_options
def relevance(
    model: str,
    data: str,
    layers: tuple[str, ...],
    out: str,
    k: int,
    target: str,
    rule: str,
    shown_class: str | None,
    image: str | None,
    limit: int | None,
    shard: tuple[int, int] | None,
    table: str | None,
    commit_every: int,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Find which filters made a network's decisions, and the images in which each weighed most.

    The score of a class is shared out among the channels of a layer, for every image. OUT holds two tables for each
    channel, its images by relevance and by activation, and for each class the mean share of every channel.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.
    The same command resumes what was interrupted.

    \b
    Examples:
      deconvviz relevance torchvision:squeezenet1_0 photos.h5 -l features.12 -o relevant.h5
      deconvviz relevance demo scenes:500:1 -l relu5 -o relevant.h5 --for owl
      deconvviz relevance torchvision:squeezenet1_0 photos.h5 -l features.12 -o relevant.h5 --image cat.jpg
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.relevance.measure import relevance as share_out
    from deconvviz.studies.relevance.options import checked_target

    _check(out, table, shown_class, image, shard)
    pixels = None if image is None else read_image(image)
    images = open_images(data)
    opened = open_model(model, options, layers)
    network, preprocess, loaded = opened
    outputs = output_names(loaded, names, network, images)
    whose: Target = target if target in ("predicted", "label") else class_number(target, outputs)  # type: ignore[assignment]
    shown_output = class_number(shown_class, outputs)
    if shown_output is not None:
        checked_target(shown_output, network.outputs)
    matched = matched_outputs(images, network, outputs, required=True, otherwise="") if whose == "label" else None
    shares = share_out(
        network,
        images,
        layers,
        k,
        out,
        rule=rule,
        target=whose,
        outputs=matched,
        preprocess=preprocess,
        sources={**sources(loaded), **({"outputs": list(outputs)} if outputs else {})},
        limit=limit,
        shard=shard,
        commit_every=commit_every,
        **run.keywords(),
    )
    click.echo(repr(shares))
    if table is not None:
        shares.save_csv(table)
        click.echo(f"wrote {table}")
    if shard is not None:
        click.echo(f"wrote {out}, shard {shard[0]} of {shard[1]}; `deconvviz merge` joins the files of all shards")
        return
    figures = [_show(shares, images, layer, shown_output, pixels, opened, out, page, image or "") for layer in shares]
    click.echo(f"wrote {out}; next: {_next(model, image, figures[-1])}")


def _next(model: str, image: str | None, deciding: DecidingChannels) -> str:
    """Return the command that carries the first channel's part of the decision on to the pixels."""
    channel = deciding.channels[0].channel if deciding.channels else 0
    unit = ("-l", deciding.layer, "-c", channel, "--for", deciding.target)
    return following("project", model, image or IMAGE, *unit, "-o", "concept.png", carry=PICTURE)


def _check(
    out: str, table: str | None, shown_class: str | None, image: str | None, shard: tuple[int, int] | None
) -> None:
    """Raise DataError, before the work, where options do not go together or a file cannot be written."""
    if pathlib.Path(out).suffix not in (".h5", ".hdf5"):
        raise DataError(f"{out} given; expected a name that ends in .h5")
    check_place(out)
    if shard is None:
        check_place(beside(out, ".png"))
    if table is not None:
        check_table(table)
    if image is not None and shown_class is not None:
        raise DataError("--image and --for given; the figure shows one of them: leave the other out")
    if shard is not None and (image is not None or shown_class is not None):
        raise DataError("--shard given with --image or --for; a shard has no figure: merge the shards first")


def _show(
    found: Relevance,
    images: Any,
    layer: str,
    shown: int | None,
    pixels: Picture | None,
    opened: OpenedModel,
    out: str,
    page: Page,
    image: str,
) -> DecidingChannels:
    """Print which channels decide, write the figure that shows them, and return what it shows."""
    from deconvviz.studies.relevance.deciding import deciding_channels
    from deconvviz.studies.relevance.figure import draw_relevance
    from deconvviz.studies.relevance.measure import image_relevance

    decision = picture = None
    name = pathlib.Path(image).name
    if pixels is not None:
        picture_seen = opened.preprocess.picture(pixels)
        picture = opened.preprocess.display(picture_seen)
        x = opened.preprocess.tensor(picture_seen[None], opened.network.device, opened.network.dtype)
        whose = found.config["target"]
        decision = image_relevance(
            opened.network, x, layer, whose if isinstance(whose, int) else None, found.config["rule"]
        )
    deciding = deciding_channels(found, images, layer, shown, decision=decision, picture=picture)
    click.echo(f"{name + ': ' if name else ''}{deciding.sentence}")
    caption = caption_of(found, deciding, name)
    figure = draw_relevance(deciding, f"What decides at {layer} of {opened.name}", caption, page)
    save_figure(figure, beside(out, ".png") if len(found) == 1 else beside(out, f".{layer}.png"), caption)
    return deciding


def caption_of(found: Relevance, deciding: DecidingChannels, name: str) -> str:
    """Return what the figure shows: whose decisions, how they were shared out, and what the patches are."""
    how = "gradient x activation" if found.config["rule"].startswith("gradient") else f"the rule {found.config['rule']}"
    over = f"the decision about {name}" if name else counted(deciding.images, "decision")
    parts = {name: round(value, 3) + 0.0 for name, value in found.parts(deciding.layer).items()}
    short = len({len(row.patches) for row in deciding.channels}) > 1
    fewer = " A row is shorter where fewer decisions gave its channel a share above zero." * short
    sentence = deciding.sentence[:1].upper() + deciding.sentence[1:]
    return (
        f"{sentence} The score of the class is shared out among the channels of {deciding.layer} by {how}; a "
        f"share is a channel's relevance over the sum of all absolute ones, here of {over}.\n"
        f"Patches are {deciding.side} px of {min(found.sources['image_size'])} px, around the unit with the largest "
        f"relevance, of the images in whose decisions, for whatever class, the channel had its largest shares.{fewer} "
        f"{counted(int(found[deciding.layer].shares.decided.sum()), 'decision')} in all: their mean score is "
        f"{parts['score']:.4g}: {parts['layer']:.4g} by the channels, {parts['beside']:.4g} past the layer, "
        f"{parts['biases']:.4g} by biases, {parts['rest']:.4g} by the rest."
    )

"""deconvviz pair"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import MASK_FILLS
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.explaining import DISPLAY_NOTE, RANGE_NOTE, method_option, typed_options
from deconvviz.cli.inputs import folder_and_name, names_of, open_model, read_image
from deconvviz.cli.listing import list_option
from deconvviz.cli.options import ModelOptions, figure_options, model_options, run_options
from deconvviz.cli.outputs import check_figure, check_place, check_table, save_figure

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.pairs.result import PairStudy
    from deconvviz.types import Picture


def _method_lines() -> Iterator[str]:
    """Yield the methods with their costs, options and sources."""
    from deconvviz.cam.pairs.catalogue import pair_declarations

    for method in pair_declarations().values():
        options = ", ".join(f"{key}={value!r}" for key, value in method.defaults.items())
        first_sentence = " ".join(method.docstring.split("\n\n")[0].split())
        yield f"{method.name:23s}{first_sentence}"
        yield f"{'':23s}costs at 224 px: {method.keywords['cost']}"
        yield f"{'':23s}options: {options}"


def _methods(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    """Read the names of methods; "all" stands for every one."""
    from deconvviz.cam.pairs.catalogue import own_pair_names, pair_declarations

    return tuple(pair_declarations()) if text == "all" else tuple(own_pair_names(names_of(text)))


@click.command(epilog=RANGE_NOTE)
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="A B...")
@click.option(
    "-m",
    "--methods",
    default="interaction-cam,averaged-transforms",
    callback=_methods,
    help="Methods, with commas between them, or all; --list lists them.",
)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; or .npz for the maps themselves.")
@click.option(
    "-l",
    "--layer",
    help="Layer whose value is the embedding; one with rows and columns is averaged over them.  [default: the one that "
    "the classifier reads]",
)
@click.option(
    "--maps",
    metavar="LAYER",
    help="Layer whose maps interaction-cam weighs.  [default: the last with rows and columns before the embedding]",
)
@method_option("stride=16")
@click.option("--metrics", is_flag=True, help="Measure insertion, deletion, drop and increase, and print a table.")
@click.option(
    "--steps",
    cls=Dependent,
    needs="--metrics",
    type=click.IntRange(1),
    help="Steps of insertion and deletion.  [default: as many as the images' shorter side has pixels]",
)
@click.option("--fill", default="mean", type=click.Choice(MASK_FILLS), help="What deleted and masked pixels become.")
@click.option(
    "--sensitivity",
    default=0,
    type=click.IntRange(0),
    metavar="DRAWS",
    help="Measure max-sensitivity with so many draws (10 in the paper); each draw explains the pair once more.",
)
@click.option(
    "--matches",
    metavar="FILE",
    help="Also draw which place of one image matches which place of the other (.png, .pdf or .svg), or write the "
    "matches as a table (.csv).",
)
@click.option("--csv", "table", metavar="FILE", help="Also write the table, with --metrics or without, named .csv.")
@figure_options("Methods in a row.")
@list_option(_method_lines, "List the methods and exit.")
@run_options(
    batch_size="Masked images in one pass; halved when they do not fit in memory.",
    default_batch=32,
    precision="Precision of masked images; gradients are computed in fp32.",
    seed="Seed of the methods that draw boxes or colours, and of the noise of --sensitivity.",
)
@model_options
def pair(
    model: str,
    images: tuple[str, ...],
    methods: tuple[str, ...],
    out: str,
    layer: str | None,
    maps: str | None,
    pairs: tuple[str, ...],
    metrics: bool,
    steps: int | None,
    fill: str,
    sensitivity: int,
    matches: str | None,
    table: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Show why a network takes two images for alike.

    Two images are alike where the cosine of their embeddings is near 1; what a method shows is where in both images
    that comes from. Of more than two images, the first is compared with each of the others.

    \b
    Examples:
      deconvviz pair torchvision:squeezenet1_0 cat.jpg other-cat.jpg -o pair.png
      deconvviz pair demo a.png b.png -m conditional-occlusion,interaction-cam --metrics --csv pair.csv -o pair.png
      deconvviz pair torchvision:resnet50 query.jpg hit1.jpg hit2.jpg -l avgpool -m all --option stride=32 -o hits.pdf
      deconvviz pair demo a.png b.png -m spatial-attention --matches matches.png -o pair.png
    """
    if len(images) < 2:
        raise click.UsageError(f"one image given, {images[0]}; expected two: the first is compared with the others")
    _check_places(out, table, matches)
    by_method = _options_of(methods, pairs)
    photos = [read_image(path) for path in images]
    opened = open_model(model, options, [] if layer is None else [layer])
    network, preprocess, _ = opened
    _check_settings(network, methods, layer, maps, by_method)
    pictures = [preprocess.picture(photo) for photo in photos]
    study = _study(
        opened,
        pictures,
        [folder_and_name(path) for path in images],
        methods,
        layer=layer,
        maps=maps,
        method_options=by_method,
        metrics=metrics,
        steps=steps,
        fill=fill,
        sensitivity=sensitivity,
        **run.keywords(),
    )
    _say_constant(study)
    if layer is None:
        click.echo(f"note: no layer is named; the embedding is the value of {study.embedding}: -l", err=True)
    if out.endswith(".npz"):
        study.save(out)
        click.echo(f"wrote {out}: {', '.join(methods)}, each [{len(study.names)}, 2, H, W] in 0..1")
    else:
        _draw(study, opened.name, network, out, preprocess.shown_words(), page)
    if matches is not None:
        _match(opened, study, pictures, layer, maps, matches, page)
    for (first, second), cosine in zip(study.names, study.similarity, strict=True):
        click.echo(f"{first} and {second}: cosine {cosine:.3f}")
    if metrics or sensitivity:
        click.echo(study.table())
    if table is not None:
        study.save_csv(table)
        click.echo(f"wrote {table}")


def _check_places(out: str, table: str | None, matches: str | None) -> None:
    """Refuse names of files that cannot be written, before any work."""
    if out.endswith(".npz"):
        check_place(out)
    else:
        check_figure(out)
    if table is not None:
        check_table(table)
    if matches is not None:
        (check_table if matches.endswith(".csv") else check_figure)(matches)


def _options_of(methods: Sequence[str], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method; raises DataError for one that none of them has."""
    from deconvviz.cam.pairs.catalogue import pair_declarations
    from deconvviz.errors import DataError

    declared = pair_declarations()
    options = typed_options(pairs, "stride=16")
    known = sorted({key for method in methods for key in declared[method].defaults})
    for key in options:
        if key not in known:
            raise DataError(f"option {key!r} given, which none of the methods has; theirs are: {', '.join(known)}")
    return {
        method: {key: value for key, value in options.items() if key in declared[method].defaults} for method in methods
    }


def _check_settings(
    network: Network, methods: Sequence[str], layer: str | None, maps: str | None, options: Mapping[str, dict[str, Any]]
) -> None:
    """Make every explainer once, which refuses what does not fit before any of them runs."""
    from deconvviz.cam.pairs.explain import pair as pair_explainer

    for method in methods:
        pair_explainer(method, network, layer, maps=maps, **options[method])


def _study(
    opened: Any, pictures: Sequence[Picture], names: Sequence[str], methods: Sequence[str], **settings: Any
) -> PairStudy:
    """Explain the first picture with each of the others."""
    import numpy as np

    from deconvviz.arrays import stacked
    from deconvviz.studies.pairs.measure import explain_pairs

    network, preprocess, _ = opened
    every = stacked(pictures)
    x = preprocess.tensor(every, network.device, network.dtype)
    displays = np.stack([preprocess.display(picture) for picture in pictures])
    count = len(pictures) - 1
    return explain_pairs(
        network,
        x[:1].expand(count, -1, -1, -1).contiguous(),
        x[1:],
        methods,
        preprocess=preprocess,
        names=[(names[0], name) for name in names[1:]],
        pictures=np.stack([displays[:1].repeat(count, 0), displays[1:]], 1),
        **settings,
    )


def _match(
    opened: Any,
    study: PairStudy,
    pictures: Sequence[Picture],
    layer: str | None,
    maps: str | None,
    out: str,
    page: Page,
) -> None:
    """Write which places of the first picture match which of each of the others: a figure, or a table."""
    from deconvviz.arrays import stacked
    from deconvviz.studies.pairs.match import match_places
    from deconvviz.studies.pairs.match_figure import draw_matches

    every = stacked(pictures)
    first = every[:1].repeat(len(every) - 1, 0)
    matches = match_places(
        opened.network,
        first,
        every[1:],
        layer,
        maps=maps,
        preprocess=opened.preprocess,
        names=study.names,
        pictures=study.pictures,
    )
    if out.endswith(".csv"):
        matches.save_csv(out)
        click.echo(f"wrote {out}")
        return
    rows, columns = matches.size
    caption = (
        f"Places of {matches.layer} ({rows} x {columns}) are compared by the cosine of their channels. Numbers: places "
        "that match each other best in both directions, some way apart, in the order of their weights, the products of "
        "the channels. Colours: each place of the first image has its own, and each place of the second image that of "
        "the place that it matches best, the stronger the more the match weighs, from the least in the image to the "
        "most."
    )
    title = f"Which place matches which, to {opened.name} at {matches.layer}"
    save_figure(draw_matches(matches, title=title, caption=caption, page=page), out, caption)


def _say_constant(study: PairStudy) -> None:
    """Warn of maps that are the same everywhere, by the names of their images."""
    for method, maps in study.maps.items():
        for names, of_pair in zip(study.names, maps, strict=True):
            for name, map_ in zip(names, of_pair, strict=True):
                if map_.min() == map_.max():
                    click.echo(f"warning: {method} gave a constant map for {name}; it shows nothing", err=True)


def _draw(study: PairStudy, name: str, network: Network, out: str, shown: str, page: Page) -> None:
    from deconvviz.graph.embedding import pooled_places
    from deconvviz.studies.pairs.figure import draw_pairs

    places = pooled_places(network, study.embedding)
    pooled = f", mean over its {places} places" if places > 1 else ""
    caption = (
        f"Where the two images of a pair are alike to the network: its embedding is the value of {study.embedding}"
        f"{pooled}, and what is explained is the cosine of the two. Maps are resized to the image, then scaled from "
        f"their lowest value (0) to their highest (1). {RANGE_NOTE}{shown}\n{DISPLAY_NOTE}"
    )
    title = f"Why {name} takes two images for alike, at {study.embedding}"
    figure = draw_pairs(study.pictures, study.maps, study.names, study.similarity, title, caption, page)
    save_figure(figure, out, caption)

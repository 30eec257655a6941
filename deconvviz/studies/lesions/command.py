"""deconvviz lesion"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deconvviz.choices import LESION_UNITS, LESION_VALUES
from deconvviz.cli.inputs import open_model, output_names
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    layers_option,
    model_options,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.lesions.result import Lesions


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("-o", "--out", required=True, help="The table, .csv; OUT.h5 with all sums and OUT.png come beside it.")
@layers_option("A layer whose filters are silenced; several.  [default: with --by layer, every module]")
@click.option(
    "--by",
    default="filter",
    type=click.Choice(LESION_UNITS),
    help="Silence one filter at a time, or all filters of a layer at once.",
)
@click.option(
    "--how",
    default="zero",
    type=click.Choice(LESION_VALUES),
    help="What replaces a filter's values: zero, or their mean over the images.",
)
@click.option("--count", type=click.IntRange(1), help="Take this many of the images, spread evenly.  [default: all]")
@classes_option
@figure_options()
@run_options(
    batch_size="Changed values that run at once.",
    default_batch=32,
    precision="Precision of the network.",
    workers=DECODING,
)
@model_options
def lesion(
    model: str,
    data: str,
    out: str,
    layers: tuple[str, ...],
    by: str,
    how: str,
    count: int | None,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Find out which filters or layers a trained network needs.

    Each filter of a layer in turn, or each layer, is silenced: its values become zero, or their mean. The table ranks
    them by the accuracy that is lost. Nothing is trained; `deconvviz ablate` trains networks without some layers.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.
    The same command resumes what was interrupted.

    \b
    Examples:
      deconvviz lesion demo scenes:500:1 -l relu3 -o lesions.csv
      deconvviz lesion zfnet scenes:500:1 --weights ablation/full.pth -l relu3 --how mean -o lesions.csv
      deconvviz lesion torchvision:resnet18 photos.h5 --by layer -l layer1.1.bn2 -l layer2.1.bn2 -o lesions.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.models.labels import outputs_of
    from deconvviz.studies.lesions.figure import draw_lesions
    from deconvviz.studies.lesions.measure import lesion as measure_lesions
    from deconvviz.studies.lesions.measure import module_layers

    table = check_table(out)
    if by == "filter" and not layers:
        raise DataError("no layer given; name one with -l, or silence whole layers with --by layer")
    images = open_images(data)
    opened = open_model(model, options)
    network, preprocess, loaded = opened
    lesions = measure_lesions(
        network,
        images,
        layers or module_layers(network),
        preprocess=preprocess,
        outputs=outputs_of(images.classes, network.width, output_names(loaded, names, network, images)),
        by=by,
        how=how,
        count=count,
        out=beside(table, ".h5"),
        sources=sources(loaded),
        **run.keywords(),
    )
    lesions.save_csv(table)
    caption = caption_of(lesions, data)
    figure = draw_lesions(lesions, f"What {opened.name} loses when a {by} is silenced", caption, page)
    save_figure(figure, beside(table, ".png"), caption)
    click.echo(f"wrote {table} and {beside(table, '.h5')}")
    click.echo(repr(lesions))


def caption_of(lesions: Lesions, data: str) -> str:
    """Return what the figure shows: the images, what was silenced, and what the intervals cover."""
    value = "zero" if lesions.config["how"] == "zero" else "its mean over images and positions"
    if lesions.config["by"] == "filter":
        silenced = f"Each filter in turn is set to {value}."
    else:
        silenced = (
            f"In each layer in turn, every filter is set to {value}. Where nothing passes a layer by, the output "
        )
        silenced += "is then the same for every image."
    dots = " In the last panel a dot is a filter; how high it stands in its row means nothing."
    negative = " A negative loss is a gain: more images are classified correctly without it."
    unknown = " Of one image, the interval of the log-loss is unknown." * (lesions.images == 1)
    return (
        f"The intact network classifies {100 * lesions.accuracy:.1f} % of {counted(lesions.images, 'image')} of {data} "
        f"correctly. {silenced}{negative * bool((lesions.drop < 0).any())}{dots * (lesions.config['by'] == 'filter')}\n"
        "The 95 % intervals compare the same images with and without the lesion (Bonett and Price 2012). Each holds by "
        "itself: in a ranking of many lesions, the first ones owe part of their places to chance."
        f"{unknown}"
    )

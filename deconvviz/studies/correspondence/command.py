"""deconvviz correspond"""

from __future__ import annotations

import pathlib

import click

from deconvviz.cli.inputs import captured, load
from deconvviz.cli.options import ModelOptions, model_options
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError

NOTE = (
    "A score is the share of a layer's dimensions that change in different directions when the same part is masked in "
    "two images. Random masks tell how low that is by chance; p is of one row, not corrected for their number. In a "
    "layer with positions, parts at like places of all images change like positions whatever they are; and with three "
    "signs, masks that change little count as alike: compare --sign-zero drop and --random-on object."
)


@click.command(epilog=NOTE)
@click.argument("model")
@click.argument("images", metavar="PARTS")
@click.option("-l", "--layer", "layers", multiple=True, required=True, help="A layer's name; give as many as you like.")
@click.option("-o", "--out", required=True, help="The table, .csv; beside it the figure .png.")
@click.option("--boxes", type=click.Path(), help="A CSV file: image,left,top,right,bottom,part (pixels, half-open).")
@click.option("-p", "--part", "parts", multiple=True, help="A part; give as many as you like.  [default: all]")
@click.option("--count", default=5, show_default=True, type=click.IntRange(2), help="Images in a set.")
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(1), help="Most sets of a part and class.")
@click.option("--across-classes", is_flag=True, help="Sets of images of any classes, not of one.")
@click.option("--random", default=10, show_default=True, type=click.IntRange(1), help="Random masks for each image.")
@click.option(
    "--random-on",
    default="picture",
    show_default=True,
    type=click.Choice(["picture", "object"]),
    help="Where their middles may be.",
)
@click.option("--fill", default="mean", show_default=True, type=click.Choice(["mean", "black"]), help="Masked pixels.")
@click.option(
    "--sign-zero",
    default="three-valued",
    show_default=True,
    type=click.Choice(["three-valued", "drop", "positive"]),
    help="Unchanged features: a third sign, left out, or +1.",
)
@click.option(
    "--normalisation",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "sum"]),
    help="Over dimensions and pairs.",
)
@click.option("--permutations", default=1000, show_default=True, type=click.IntRange(1), help="Of the test.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Masked images at once.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of sets, masks and permutations.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@model_options
def correspond(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    boxes: str | None,
    parts: tuple[str, ...],
    count: int,
    repeats: int,
    across_classes: bool,
    random: int,
    random_on: str,
    fill: str,
    sign_zero: str,
    normalisation: str,
    permutations: int,
    batch_size: int,
    seed: int,
    quiet: bool,
    options: ModelOptions,
) -> None:
    """Test whether masking the same part of several images changes a layer in the same way.

    PARTS is scenes:COUNT:SEED, whose parts are known, or images (a packed store, a folder of classes) with --boxes.

    \b
    Examples:
      deconvviz correspond demo scenes:500:1 -l relu5 -l fc7 -o correspondence.csv
      deconvviz correspond torchvision:squeezenet1_0 dogs/ --boxes dogs.csv --across-classes -l features.12 -o t.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.data.truth import open_truth
    from deconvviz.studies.correspondence.figure import draw_correspondence
    from deconvviz.studies.correspondence.measure import correspondence

    table = pathlib.Path(out)
    if table.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    if boxes is not None and table.resolve() == pathlib.Path(boxes).resolve():
        raise DataError(f"{out} is the table of boxes; choose another name for the result")
    check_figure(str(table.with_suffix(".png")))
    opened = open_images(images)
    truth = open_truth(boxes, opened)
    if truth is None:
        raise DataError(f"where the parts are in {images} is not known; give --boxes, or scenes:COUNT:SEED")
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    found = correspondence(
        network,
        opened,
        truth,
        parts or None,
        layers,
        preprocess=preprocess,
        per_class=not across_classes,
        count=count,
        repeats=repeats,
        random=random,
        random_on=random_on,
        fill=fill,
        sign_zero=sign_zero,
        normalisation=normalisation,
        permutations=permutations,
        seed=seed,
        batch_size=batch_size,
        progress=not quiet,
    )
    found.save_csv(table)
    caption = (
        f"Score: {normalisation} over pairs of {count} images{'' if across_classes else ' of one class'} of the signs' "
        f"Hamming distance ({sign_zero}); lower is tighter.\nWhiskers: standard errors over the sets (over the pairs "
        f"of a single one). {random} random masks an image, of the part's shape, on the {random_on};\nmasked pixels "
        f"become {'black' if fill == 'black' else 'the mean colour'}. p: one-sided, by {permutations} permutations of "
        "which mask of an image is the part."
    )
    figure = draw_correspondence(found, f"Correspondence of parts in {network.name}", caption)
    save_figure(figure, str(table.with_suffix(".png")), caption)
    click.echo(f"wrote {table}")
    click.echo(repr(found))

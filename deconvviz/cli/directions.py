"""deconvviz directions"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.choices import DIRECTIONS
from deconvviz.cli.following import PICTURE, following
from deconvviz.cli.inputs import open_model
from deconvviz.cli.options import DECODING, ModelOptions, limit_option, model_options, run_options
from deconvviz.cli.outputs import check_place
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.run.options import RunOptions


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-l", "--layer", required=True, help="The layer whose channels are read.")
@click.option("-o", "--out", required=True, help="The file of the directions, .npz.")
@click.option(
    "--kind",
    default="nmf",
    type=click.Choice(DIRECTIONS),
    help="nmf: parts that add up, of the rectified values. pca: the axes of largest variance.",
)
@click.option("--count", default=10, type=click.IntRange(1), help="Number of directions.")
@limit_option
@run_options(
    batch_size="Images in one pass.",
    precision="Number format of the forward passes.",
    workers=DECODING,
    seed="Of the places that are sampled, and of NMF.",
)
@model_options
def directions(
    model: str,
    images: str,
    layer: str,
    out: str,
    kind: str,
    count: int,
    limit: int | None,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Learn directions of a layer's channels from images; they are layers of the network from then on.

    IMAGES is a packed store, a folder of images, or scenes:COUNT. Wherever a layer is named, 'LAYER[FILE]' stands for
    the readings of the directions in FILE: what this command wrote, or your own matrix [directions, channels], .npy.

    \b
    Examples:
      deconvviz directions torchvision:squeezenet1_0 photos.h5 -l features.7 --count 10 -o parts.npz
      deconvviz mine torchvision:squeezenet1_0 photos.h5 -l 'features.7[parts.npz]' -o mined.h5
      deconvviz grid mined.h5 -l 'features.7[parts.npz]' -o parts.png
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.run.directions import learn_directions

    if not out.endswith(".npz"):
        raise DataError(f"{out} given; expected a name that ends in .npz")
    check_place(out)
    store = open_images(images)
    network, preprocess, _ = open_model(model, options)
    learned = learn_directions(network, store, layer, kind, count, preprocess=preprocess, limit=limit, **run.keywords())
    learned.save(out)
    click.echo(repr(learned))
    words = "mine", model, images, "-l", f"{layer}[{out}]", "-o", str(pathlib.Path(out).with_suffix(".h5"))
    click.echo(f"wrote {out}; next: {following(*words, carry=PICTURE)}")

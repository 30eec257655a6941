"""deconvviz pack"""

from __future__ import annotations

import click

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.options import limit_option, run_options
from deconvviz.cli.outputs import command_line
from deconvviz.run.options import RunOptions

WORKERS = "Threads that decode images; with --shards, processes that pack image files."


@click.command()
@click.argument("source")
@click.argument("out")
@click.option(
    "--raw",
    is_flag=True,
    help="Store decoded pixels, which are faster to read, instead of image files. Arrays are packed in this way only.",
)
@click.option(
    "--size",
    cls=Dependent,
    needs="--raw",
    type=click.IntRange(1),
    help="Side of the pictures that --raw stores, in pixels: images are resized and cropped.  [default: 256; arrays "
    "keep their own sizes]",
)
@limit_option
@click.option(
    "--labels",
    metavar="FILE.csv",
    help="Several labels an image go into the store: a table with the columns image and label, a row for each label, "
    "with the images' names in the store.",
)
@click.option(
    "--shards",
    metavar="N",
    type=click.IntRange(1),
    help="Write N files to the folder OUT, which reads as one store. Files are packed by --workers processes, each at "
    "one shard: take a few times as many shards. The same command goes on after an interruption.",
)
@click.option(
    "--force", is_flag=True, help="Replace OUT if it exists; of a folder, shards of other images, labels or settings."
)
@run_options(workers=WORKERS)
def pack(
    source: str,
    out: str,
    raw: bool,
    size: int | None,
    limit: int | None,
    labels: str | None,
    shards: int | None,
    force: bool,
    run: RunOptions,
) -> None:
    """Pack images into one HDF5 file, or into several that read as one.

    SOURCE is a folder (its sub-folders are the classes), a list of files (a .txt file with a path on each line, perhaps
    followed by a tab and a label, or a .csv file with the columns path and label), or scenes:COUNT[:SEED], which are
    generated pictures of ten kinds of objects. Each image is decoded once. An image that cannot be read is skipped; it
    is listed at the end and in the file.

    With --raw, images may also be arrays of shape [H, W, C] or [H, W], with any number of channels: .npy, .npz with one
    array, and TIFF. Their values, uint8, uint16 or float32, are kept as they are. A store holds images of one type and
    one number of channels.

    With --labels, the store holds several labels of each image, and `train` and `ensemble` take them from it: its
    images have no single class then. Every row of the table has to be of an image that is packed.

    \b
    Examples:
      deconvviz pack photos/ photos.h5
      deconvviz pack --raw bands/ bands.h5
      deconvviz pack --shards 64 imagenet/train/ train/
      deconvviz pack photos/ labelled.h5 --labels labels.csv
    """
    from deconvviz.data.datasets import parse_scenes
    from deconvviz.data.pack import pack as pack_images

    scenes = parse_scenes(source)
    report = pack_images(
        source if scenes is None else scenes,
        out,
        raw=raw,
        size=size,
        limit=limit,
        labels=labels,
        shards=shards,
        workers=run.workers,
        progress=run.progress,
        overwrite=force,
        command=command_line(),
    )
    click.echo(str(report))

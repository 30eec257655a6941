"""deconvviz pack"""

from __future__ import annotations

import click

from deconvviz.cli.options import DECODING, limit_option, run_options
from deconvviz.cli.outputs import command_line
from deconvviz.run.options import RunOptions


@click.command()
@click.argument("source")
@click.argument("out")
@click.option(
    "--raw", is_flag=True, help="Store decoded pixels of one size, which are faster to read, instead of image files."
)
@click.option(
    "--size",
    type=click.IntRange(1),
    default=256,
    help="Side of the pictures that --raw stores, in pixels: images are resized and cropped.",
)
@limit_option
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@run_options(workers=DECODING)
def pack(source: str, out: str, raw: bool, size: int, limit: int | None, force: bool, run: RunOptions) -> None:
    """Pack images into one HDF5 file.

    SOURCE is a folder (its sub-folders are the classes), a list of files (a .txt file with a path on each line, perhaps
    followed by a tab and a label, or a .csv file with the columns path and label), or scenes:COUNT[:SEED], which are
    generated pictures of ten kinds of objects. Each image is decoded once. An image that cannot be read is skipped; it
    is listed at the end and in the file.

    \b
    Example:
      deconvviz pack photos/ photos.h5
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
        workers=run.workers,
        progress=run.progress,
        overwrite=force,
        command=command_line(),
    )
    click.echo(str(report))

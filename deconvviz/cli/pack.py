"""deconvviz pack"""

from __future__ import annotations

import click

from deconvviz.cli.outputs import command_line


@click.command()
@click.argument("source")
@click.argument("out")
@click.option(
    "--raw", is_flag=True, help="Keep decoded pixels of one size, which read fastest, instead of the image files."
)
@click.option(
    "--size", type=click.IntRange(1), default=256, show_default=True, help="Side of raw images: resized and cropped."
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Threads that decode.")
@click.option("--limit", type=click.IntRange(1), help="The first images only.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def pack(
    source: str, out: str, raw: bool, size: int, workers: int, limit: int | None, force: bool, quiet: bool
) -> None:
    """Pack images into one HDF5 file.

    SOURCE is a folder (its sub-folders are the classes), a list file (a path a line, then perhaps a tab and a label),
    or scenes:COUNT[:SEED], generated pictures of ten kinds of objects.
    Every image is decoded once; those that cannot be are skipped, listed at the end and in the file.

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
        workers=workers,
        progress=not quiet,
        limit=limit,
        overwrite=force,
        command=command_line(),
    )
    click.echo(str(report))

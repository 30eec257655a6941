"""deconvviz merge"""

from __future__ import annotations

import click


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The mined file of all shards.")
def merge(files: tuple[str, ...], out: str) -> None:
    """Join the mined files of all shards of one job.

    \b
    Example:
      deconvviz merge part0.h5 part1.h5 -o mined.h5
    """
    from deconvviz.studies.mining import merge as merge_files

    click.echo(repr(merge_files(files, out)))
    click.echo(f"wrote {out}")

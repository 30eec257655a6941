"""deconvviz merge"""

from __future__ import annotations

import click


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The mined file of all shards.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def merge(files: tuple[str, ...], out: str, force: bool) -> None:
    """Join the mined files of all shards of one job.

    \b
    Example:
      deconvviz merge part0.h5 part1.h5 -o mined.h5
    """
    from deconvviz.studies.mining.mine import merge as merge_files

    click.echo(repr(merge_files(files, out, force)))
    click.echo(f"wrote {out}")

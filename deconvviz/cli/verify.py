"""deconvviz verify"""

from __future__ import annotations

import sys

import click

from deconvviz.cli.options import run_options
from deconvviz.errors import DataError
from deconvviz.run.options import RunOptions


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@run_options()
def verify(files: tuple[str, ...], run: RunOptions) -> None:
    """Tell whether files are still what was written: stores, mined files, and every other HDF5 file of deconvviz.

    Each file is read as a whole and compared with the digests that it holds. A file that is damaged or was changed is
    named; the exit code is 2 then.

    \b
    Example:
      deconvviz verify photos.h5 mined.h5
    """
    from deconvviz.run.verify import verify as verified

    damaged = 0
    for file in files:
        try:
            click.echo(f"{file}: {verified(file, run.progress)}")
        except DataError as error:
            damaged += 1
            click.echo(f"deconvviz: {error}", err=True)
    if damaged:
        sys.exit(2)

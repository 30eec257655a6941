"""deconvviz evolve"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import channels_of, found_device, integers
from deconvviz.cli.options import PROJECTION_NOTE, device_option
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.results.snapshots import Snapshots


@click.command(epilog=PROJECTION_NOTE)
@click.argument("snapshots")
@click.argument("images")
@click.option("-l", "--layer", "layers", multiple=True, required=True, help="A layer's name; give as many as you like.")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; beside it two .csv tables.")
@click.option("--filters", default=6, show_default=True, type=click.IntRange(1, 40), help="Filters of each layer.")
@click.option(
    "-c",
    "--channels",
    default="active",
    show_default=True,
    help="active, random or first at the last epoch, or numbers such as 5,40 (of one layer).",
)
@click.option("--epochs", help="The epochs to show, such as 1,5,20.  [default: all that are kept]")
@click.option(
    "--crop", default="energy", show_default=True, metavar="energy|receptive-field|PIXELS", help="As for grid."
)
@click.option("-k", default=9, show_default=True, type=click.IntRange(1), help="Images a filter in the convergence.")
@click.option("--limit", type=click.IntRange(1), help="The first images only.")
@click.option("--model", help="The model, where the file does not tell: a SNAPSHOTS file of your own training loop.")
@click.option("--work", metavar="FOLDER", help="Keep each epoch's mined file there, and continue with what is there.")
@click.option("--force", is_flag=True, help="Replace the tables beside OUT if they exist.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@device_option
def evolve(
    snapshots: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    filters: int,
    channels: str,
    epochs: str | None,
    crop: str,
    k: int,
    limit: int | None,
    model: str | None,
    work: str | None,
    force: bool,
    quiet: bool,
    device: str,
) -> None:
    """Draw how filters came to be: each one's strongest projection at every snapshot of a training.

    SNAPSHOTS is what `deconvviz train --snapshots` or a SnapshotRecorder wrote, or `demo` for the packaged training.
    A coloured frame marks a jump: the strongest image is another one. Below, two curves tell when each layer settled.

    \b
    Example:
      deconvviz evolve evolution.h5 photos.h5 -l conv1 -l conv3 -l conv5 --filters 6 -o evolution.png
    """
    from deconvviz.data.images import ImageStore
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.evolution.evolve import evolve as follow
    from deconvviz.studies.evolution.figure import draw_evolution

    check_figure(out)
    tables = [pathlib.Path(out).with_suffix(suffix) for suffix in (".csv", ".layers.csv")]
    for table in tables:
        if table.exists() and not force:
            raise DataError(f"{table} exists already; choose another OUT, or --force to replace it")
    numbered = channels_of(channels)
    if not isinstance(numbered, str) and len(layers) > 1:
        raise DataError(f"channels {channels} given for {len(layers)} layers; name channels of one layer at a time")
    file = Snapshots(DEMO_SNAPSHOTS if snapshots == "demo" else snapshots)
    with ImageStore.open(images) as store:
        found = follow(
            file,
            _model(file, model),
            store,
            layers,
            filters if isinstance(numbered, str) else numbered,
            epochs=integers(epochs) if epochs else None,
            choice=channels,
            crop=crop,
            k=k,
            limit=limit,
            work=work,
            device=found_device(device),
            progress=not quiet,
        )
        caption = (
            f"Projections (deconvnet, contrast stretched one by one) of each filter's strongest activation over "
            f"{found.count} images of {store.path.name}, by the weights after each epoch.\n"
            "A coloured frame: the strongest image is another one than at the epoch before."
        )
    save_figure(draw_evolution(found, f"Evolution of {file.config['network'].split()[0]}", caption), out, caption)
    found.save_csv(*tables)
    click.echo(f"wrote {tables[0]} and {tables[1]}")
    click.echo(repr(found))


def _model(file: Snapshots, spec: str | None) -> nn.Module:
    from deconvviz.models.load import build_model

    spec = spec or file.config.get("model")
    if not spec:
        raise ModelError(f"{file.path} does not name its model; give --model, such as file.py:FACTORY")
    return build_model(spec, file.config.get("arguments", {}))[0]

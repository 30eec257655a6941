"""deconvviz evolve"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.inputs import channels_of, integers, preprocess_of
from deconvviz.cli.notes import PROJECTION_NOTE
from deconvviz.cli.options import (
    ImageOptions,
    device_option,
    figure_options,
    image_options,
    layers_option,
    limit_option,
    option_group,
    rule_option,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, check_place, save_figure
from deconvviz.errors import DataError, ModelError
from deconvviz.results.results import require_file
from deconvviz.run.opening import device_of
from deconvviz.words import counted

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.evolution.result import Evolution


@dataclass(frozen=True, kw_only=True)
class ShownFilters:
    """Which filters `evolve` shows, and how.

    Attributes:
        filters: how many of each layer.
        channels: "active", "random" or "first", or numbers as text.
        epochs: numbers as text; None shows all that are kept.
        crop: size of the patches, as for `grid`.
        rule: of the projections, as for `grid`.
    """

    filters: int
    channels: str
    epochs: str | None
    crop: str
    rule: str

    def numbers(self, layers: tuple[str, ...]) -> int | list[int]:
        """Return how many filters of each layer, or the channels of one; raises DataError for those of several."""
        channels = channels_of(self.channels, "filters")
        if isinstance(channels, str):
            return self.filters
        if len(layers) > 1:
            raise DataError(
                f"channels {self.channels} given for {counted(len(layers), 'layer')}; "
                "name channels of one layer at a time"
            )
        return channels

    @property
    def choice(self) -> str:
        """How filters are chosen where only their number is given."""
        channels = channels_of(self.channels)
        return channels if isinstance(channels, str) else "active"


@click.command(epilog=PROJECTION_NOTE)
@click.argument("snapshots")
@click.argument("images")
@layers_option("Name of a layer; give as many as you like.", required=True)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; two .csv tables go beside it.")
@option_group(
    "chosen",
    ShownFilters,
    click.option("--filters", default=6, type=click.IntRange(1, 40), help="Filters of each layer."),
    click.option(
        "-c",
        "--channels",
        default="active",
        help="Filters to show: active (highest mean activation at the last epoch), random or first; or numbers such as "
        "5,40 of one layer.",
    ),
    click.option("--epochs", help="The epochs to show, such as 1,5,20.  [default: all that are kept]"),
    click.option(
        "--crop", default="energy", metavar="energy|receptive-field|PIXELS", help="Size of the patches, as for grid."
    ),
    rule_option,
)
@click.option("-k", default=9, type=click.IntRange(1), help="Images of each channel in the curves below.")
@limit_option
@click.option("--model", help="The model, if the file does not name it: snapshots of your own training loop.")
@click.option("--work", metavar="FOLDER", help="Keep each epoch's mined file in this folder; the same command resumes.")
@click.option("--force", is_flag=True, help="Replace the tables beside OUT if they exist.")
@figure_options()
@run_options()
@device_option
@image_options
def evolve(
    snapshots: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    chosen: ShownFilters,
    k: int,
    limit: int | None,
    model: str | None,
    work: str | None,
    force: bool,
    page: Page,
    run: RunOptions,
    device: str,
    prepared: ImageOptions,
) -> None:
    """Draw how filters came to be: each one's strongest projection at every snapshot of a training.

    SNAPSHOTS is what `deconvviz train --snapshots` or a SnapshotRecorder wrote, or `demo` for the packaged training.
    A coloured frame marks a jump: the strongest image differs from that of the epoch before. Curves below show when
    each layer settled.

    \b
    Example:
      deconvviz evolve evolution.h5 photos.h5 -l conv1 -l conv3 -l conv5 --filters 6 -o evolution.png
    """
    _require_snapshots(snapshots)
    from deconvviz.data.datasets import name_of_store, open_store
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.evolution.evolve import evolve as follow
    from deconvviz.studies.evolution.figure import draw_evolution

    check_figure(out)
    tables = beside(out, ".csv"), beside(out, ".layers.csv")
    for table in tables:
        if table.exists() and not force:
            raise DataError(f"{table} exists already; choose another OUT, or --force to replace it")
        check_place(table)
    numbers = chosen.numbers(layers)
    file = Snapshots(DEMO_SNAPSHOTS if snapshots == "demo" else snapshots)
    network, settings = _model(file, model)
    preprocess = preprocess_of(file.config.get("preprocess", settings), prepared)
    with open_store(images) as store:
        evolution = follow(
            file,
            network,
            store,
            layers,
            numbers,
            preprocess=preprocess,
            device=device_of(device),
            epochs=integers(chosen.epochs) if chosen.epochs else None,
            choice=chosen.choice,
            crop=chosen.crop,
            rule=chosen.rule,
            k=k,
            limit=limit,
            work=work,
            **run.keywords(),
        )
    caption = _caption(evolution, name_of_store(store), preprocess)
    figure = draw_evolution(evolution, f"Evolution of {file.config['network'].split()[0]}", caption, page)
    save_figure(figure, out, caption)
    evolution.save_csv(*tables)
    click.echo(f"wrote {tables[0]} and {tables[1]}\n{evolution!r}")


def _require_snapshots(snapshots: str) -> None:
    """Raise DataError where there is no such file, before torch is imported."""
    if snapshots != "demo":
        require_file(snapshots, "snapshots file")


def _caption(evolution: Evolution, store: str, preprocess: Preprocess) -> str:
    return (
        f"Rows are filters (the number is the channel's). Each picture is the projection of the filter's strongest "
        f"activation over {counted(evolution.count, 'image')} of {pathlib.Path(store).name}, by the "
        "weights after each epoch. It has its own "
        "contrast; zero is grey. A coloured frame marks that the strongest image differs from that of the epoch "
        f"before.{preprocess.shown_words()}\n{evolution.rules()}\n"
        "Curves: share of the strongest images that are those of the last epoch (mean over channels); cosine between "
        "the projections of the same units by the weights after each epoch and after the last (mean over channels); "
        "accuracy as the training recorded it, under the name that it gave."
    )


def _model(file: Snapshots, spec: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that was trained, and return it with what is known of the preparation of its images.

    Raises:
        ModelError: neither the file nor --model names the network.
    """
    from deconvviz.models.heads import Head
    from deconvviz.models.load import build_model

    spec = spec or file.config.get("model")
    if not spec:
        raise ModelError(f"{file.path} does not name its model; give --model, such as file.py:FACTORY")
    head = file.config.get("head")
    return build_model(spec, file.config.get("arguments", {}), head=Head.from_dict(head) if head else None)

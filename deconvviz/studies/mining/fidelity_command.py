"""deconvviz fidelity: which rule's projections mark the pixels that carry a layer's units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deconvviz.choices import CONTROLS, FIDELITY_FILLS, RULES
from deconvviz.cli.inputs import open_model
from deconvviz.cli.options import (
    DECODING,
    Averages,
    ModelOptions,
    averages_options,
    figure_options,
    layers_option,
    limit_option,
    model_options,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, check_table, save_figure
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.mining.fidelity_result import FidelityTable

NOTE = (
    "Fidelity asks whether the pixels that a projection marks carry the unit. It says nothing about whether a reader "
    "sees what they are, and images with covered pixels are unlike those that the network was trained on."
)


@click.command(epilog=NOTE)
@click.argument("model")
@click.argument("images")
@layers_option("Name of a layer; give as many as you like.", required=True)
@click.option("-o", "--out", required=True, help="The table, .csv; beside it the figure .png.")
@click.option("--units", default=64, type=click.IntRange(1), help="Units of each layer, one a filter.")
@click.option("--fill", default="mean", type=click.Choice(FIDELITY_FILLS), help="What covered pixels become.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=click.Choice(RULES),
    help="A rule to measure; give as many as you like. The controls are always measured.  [default: all]",
)
@averages_options
@limit_option
@figure_options("Layers in a row.")
@run_options(batch_size="Images in one pass of the search.", workers=DECODING)
@model_options
def fidelity(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    units: int,
    fill: str,
    rules: tuple[str, ...],
    averages: Averages,
    limit: int | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Measure which rule's projections mark the pixels that carry a layer's units.

    IMAGES is a packed store, a folder, or scenes:COUNT:SEED. For one unit of each filter, on the image that activates
    it most, the strongest 1, 2, 5, 10 and 20 % of the pixels that it sees are kept and the rest is covered, and the
    other way round. Two controls rank the same pixels without the network: the nearest first, and smooth noise.

    \b
    Example:
      deconvviz fidelity torchvision:squeezenet1_0 photos.h5 -l features.7 -l features.12 -o fidelity.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.mining.fidelity import fidelity_of_layers
    from deconvviz.studies.mining.fidelity_figure import draw_fidelity

    path = check_table(out)
    check_figure(beside(path, ".png"))
    store = open_images(images)
    opened = open_model(model, options, layers)
    network, preprocess, _ = opened
    table = fidelity_of_layers(
        network,
        store,
        layers,
        preprocess=preprocess,
        units=units,
        rules=(*(rules or RULES), *CONTROLS),
        fill=fill,
        **averages.averages(),
        limit=limit,
        **run.keywords(),
    )
    table.save_csv(path)
    caption = _caption(table, averages)
    title = f"Fidelity of projections, {opened.name}"
    save_figure(draw_fidelity(table, title, caption, page), beside(path, ".png"), caption)
    click.echo(f"wrote {path}")
    click.echo(repr(table))


def _caption(table: FidelityTable, averages: Averages) -> str:
    from deconvviz.studies.mining.fidelity_result import AUTO_OF

    covered = "the mean colour" if table.fill == "mean" else "the blurred image"
    units = ", ".join(f"{layer.layer} {layer.units}" for layer in table.layers)
    left_out = sum(layer.left_out for layer in table.layers)
    missing = f" {counted(left_out, 'unit')} left out: no positive activation." if left_out else ""
    return (
        "Above: the share of a unit's activation that the strongest pixels bring back when all others that the unit "
        f"sees become {covered}. Below: what is left when the strongest ones become so. Medians over units with 95 % "
        "intervals by the bootstrap; a projection's energy is blurred before its pixels are ranked. Dashed: controls "
        f"that do not look at the network. Thick: the rule that auto takes {AUTO_OF}."
        f"{averages.words()} Units: {units}.{missing} {NOTE}"
    )

"""deconvviz layers"""

from __future__ import annotations

import dataclasses

import click

from deconvviz.cli.inputs import captured, load
from deconvviz.cli.options import ModelOptions, model_options


@click.command()
@click.argument("model")
@click.option("--all", "every", is_flag=True, help="Also the functional ops, under the graph's names.")
@model_options
def layers(
    model: str,
    every: bool,
    options: ModelOptions,
) -> None:
    """List a network's layers: name, kind, shape, receptive field, stride, parameters.

    "sees" is the theoretical receptive field in input pixels; "offset" where that of the first unit begins.
    Weights are not needed and not loaded, unless you give a file.

    \b
    Example:
      deconvviz layers torchvision:squeezenet1_0
    """
    if options.weights == "DEFAULT":  # a table needs no trained weights, and no download
        options = dataclasses.replace(options, weights="none")
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, "cpu" if options.device == "auto" else options.device)
    click.echo(network.table(modules_only=not every))
    click.echo(f"\n{network!r}")

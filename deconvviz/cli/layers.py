"""deconvviz layers"""

from __future__ import annotations

import dataclasses

import click

from deconvviz.cli.inputs import load
from deconvviz.cli.options import ModelOptions, model_options
from deconvviz.run.opening import captured


@click.command()
@click.argument("model")
@click.option(
    "--all",
    "all_ops",
    is_flag=True,
    help="List also the functional ops, under the graph's names for them, and where they stand.",
)
@model_options
def layers(model: str, all_ops: bool, options: ModelOptions) -> None:
    """List a network's layers: name, kind, shape, receptive field, stride, parameters.

    "sees" is the theoretical receptive field of a unit in pixels of the input. "offset" is where the receptive field of
    the layer's first unit begins. The table does not need the weights: they are loaded only if you give a file.

    \b
    Example:
      deconvviz layers torchvision:squeezenet1_0
    """
    downloads = model.startswith(("torchvision:", "timm:"))
    if options.weights == "DEFAULT" and downloads:  # not needed for a table that does not depend on the weights
        options = dataclasses.replace(options, weights="none")
    loaded, preprocess = load(model, options, uses_weights=False)
    network = captured(loaded, preprocess, "cpu" if options.device == "auto" else options.device)
    click.echo(network.table(modules_only=not all_ops))
    click.echo(f"\n{network!r}")

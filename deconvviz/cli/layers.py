"""deconvviz layers"""

from __future__ import annotations

import click

from deconvviz.cli.options import captured, load, model_options


@click.command()
@click.argument("model")
@click.option("--all", "every", is_flag=True, help="Also the functional ops, under the graph's names.")
@model_options
def layers(
    model: str,
    every: bool,
    weights: str,
    resize: int | None,
    crop: int | None,
    mean: str | None,
    std: str | None,
    device: str,
) -> None:
    """List a network's layers: name, kind, shape, receptive field, stride, parameters.

    "sees" is the theoretical receptive field in input pixels; "offset" where that of the first unit begins.
    Weights are not needed and not loaded, unless you give a file.

    \b
    Example:
      deconvviz layers torchvision:squeezenet1_0
    """
    loaded, preprocess = load(model, "none" if weights == "DEFAULT" else weights, resize, crop, mean, std)
    network = captured(loaded, preprocess, "cpu" if device == "auto" else device)
    click.echo(network.table(modules_only=not every))
    click.echo(f"\n{network!r}")

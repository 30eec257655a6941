"""deconvviz project"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.choices import LRN_POLICIES, OVERLAPS
from deconvviz.cli.inputs import open_model, position_of, read_image
from deconvviz.cli.options import (
    NO_SWITCHES_NOTE,
    PROJECTION_NOTE,
    ModelOptions,
    ProjectionOptions,
    figure_options,
    model_options,
    projection_options,
)
from deconvviz.cli.outputs import check_figure, save_figure

if TYPE_CHECKING:
    from deconvviz.deconv.projection import Projection
    from deconvviz.figures.page import Page


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("image")
@click.option("-l", "--layer", required=True, help="Name of a layer, as `deconvviz layers MODEL` lists it.")
@click.option(
    "-c", "--channel", required=True, type=click.IntRange(0), help="Number of a channel of the layer, from 0."
)
@click.option("-p", "--position", metavar="y,x", help="Position on the layer's map.  [default: the strongest]")
@click.option("-o", "--out", required=True, help="The figure: a file named .png, .pdf or .svg.")
@projection_options
@click.option(
    "--overlap",
    default="sum",
    type=click.Choice(OVERLAPS),
    help="Where pooling windows overlap: add their signals, or keep that of the last window.",
)
@click.option(
    "--lrn",
    default="identity",
    type=click.Choice(LRN_POLICIES),
    help="How a signal passes contrast normalisation on its way back: unchanged, or by the gradient.",
)
@figure_options()
@model_options
def project(
    model: str,
    image: str,
    layer: str,
    channel: int,
    position: str | None,
    out: str,
    projection: ProjectionOptions,
    overlap: str,
    lrn: str,
    page: Page,
    options: ModelOptions,
) -> None:
    """Project one unit's activation back to the pixels of an image: image, projection, overlay.

    \b
    Example:
      deconvviz project torchvision:squeezenet1_0 cat.jpg -l features.12 -c 281 -o projection.png
    """
    import torch

    from deconvviz.deconv.choice import lacks_switches, rule_on
    from deconvviz.deconv.project import project as project_unit
    from deconvviz.figures.projection import draw_projection

    check_figure(out)
    place = None if position is None else position_of(position)
    pixels = read_image(image)
    network, preprocess, _ = open_model(model, options, [layer])
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    bounds = preprocess.bounds()
    with torch.no_grad():
        choice = rule_on(network, x, layer, bounds) if projection.rule == "auto" else None
        rule = projection.rule if choice is None else choice.rule
        signal = {"overlap": overlap, "lrn": lrn, "bounds": bounds, **projection.averages()}
        projected = project_unit(network, x, layer, channel, place, rule, **signal)
    why = f"Its rule is {choice.words()}" if choice else f"Its rule is {rule}."
    if choice is None and lacks_switches(network, layer, rule):
        why += f" {NO_SWITCHES_NOTE}"
    caption = _caption(projected, pathlib.Path(image).name, why + projection.words() + preprocess.shown_words())
    y, column = projected.position
    title = f"{layer}:{channel}@{y},{column} of {network.name}, activation {projected.value:.4g}"
    canvas = projected.full().detach().float().cpu().permute(1, 2, 0).numpy()
    shown_picture = preprocess.display(picture)
    figure = draw_projection(shown_picture, canvas, projected.window, title, caption, page, preprocess.shown)
    save_figure(figure, out, caption)
    if projected.value <= 0:
        click.echo(f"note: the unit's activation is {projected.value:.4g}; it does not fire on this image", err=True)


def _caption(projection: Projection, image: str, why: str) -> str:
    """Return the text below the figure: what is shown, and what it is no evidence for."""
    linearised = f" Linearised on the way: {', '.join(projection.linearised)}." if projection.linearised else ""
    return (
        f"The projection of one unit to the pixels of {image}. {why}{linearised} "
        "The rectangle is the unit's theoretical receptive field, cut to the image. "
        "The magnitude of the projection at a pixel is the root of the sum of squares over the channels.\n"
        f"{PROJECTION_NOTE}"
    )

"""deconvviz project"""

from __future__ import annotations

import pathlib

import click

from deconvviz.cli.inputs import captured, load, read_image
from deconvviz.cli.options import PROJECTION_NOTE, ModelOptions, model_options
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("image")
@click.option("-l", "--layer", required=True, help="A layer's name.")
@click.option("-c", "--channel", required=True, type=click.IntRange(0), help="A channel of it.")
@click.option("-p", "--position", metavar="y,x", help="A position on its map. [default: the strongest]")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg.")
@click.option("--rule", default="deconvnet", show_default=True, type=click.Choice(["deconvnet", "guided", "gradient"]))
@click.option(
    "--overlap",
    default="sum",
    show_default=True,
    type=click.Choice(["sum", "last"]),
    help="Where pooling windows overlap: add the signals, or keep the last.",
)
@click.option(
    "--lrn",
    default="identity",
    show_default=True,
    type=click.Choice(["identity", "gradient"]),
    help="Contrast normalisation on the way back.",
)
@model_options
def project(
    model: str,
    image: str,
    layer: str,
    channel: int,
    position: str | None,
    out: str,
    rule: str,
    overlap: str,
    lrn: str,
    options: ModelOptions,
) -> None:
    """Project one unit's activation back to the pixels of an image: image, projection, overlay.

    \b
    Example:
      deconvviz project torchvision:squeezenet1_0 cat.jpg -l features.12 -c 281 -o projection.png
    """
    import torch

    from deconvviz.deconv.project import project as project_unit
    from deconvviz.figures.projection import draw_projection

    check_figure(out)
    pixels = read_image(image)
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    with torch.no_grad():
        found = project_unit(network, x, layer, channel, _position(position), rule, overlap=overlap, lrn=lrn)
    y, column = found.position
    title = f"{layer}:{channel}@{y},{column} of {network.name}, activation {found.value:.4g}"
    named = f" Linearised on the way: {', '.join(found.linearised)}." if found.linearised else ""
    caption = (
        f"{rule} projection; {pathlib.Path(image).name}.{named} "
        f"The rectangle is the theoretical receptive field, cut to the image.\n{PROJECTION_NOTE}"
    )
    canvas = found.full().detach().float().cpu().permute(1, 2, 0).numpy()
    save_figure(draw_projection(picture, canvas, found.window, title, caption), out, caption)
    if found.value <= 0:
        click.echo(f"note: the unit's activation is {found.value:.4g}; it does not fire on this image", err=True)


def _position(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    y, comma, x = text.partition(",")
    if not comma or not y.strip().isdigit() or not x.strip().isdigit():
        raise DataError(f"position {text!r} given; expected y,x such as 6,7")
    return int(y), int(x)

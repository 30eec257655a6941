"""deconvviz maps"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from deconvviz.choices import MAP_ORDERS, MAP_SCALES
from deconvviz.cli.inputs import open_model, read_image
from deconvviz.cli.options import ModelOptions, figure_options, layers_option, model_options
from deconvviz.cli.outputs import beside, check_figure, check_place, save_figure

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.studies.maps.result import FeatureMaps, Kernels


def _grid(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read ROWSxCOLUMNS; None stays None."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} given; expected ROWSxCOLUMNS such as 14x14")
    return int(parts[0]), int(parts[1])


@click.command()
@click.argument("model")
@click.argument("image")
@layers_option("A layer whose maps are drawn; several layers stand below each other.", required=True)
@click.option("-o", "--out", required=True, help="The figure: a file named .png, .pdf or .svg.")
@click.option(
    "--sort",
    default="maximum",
    type=click.Choice(MAP_ORDERS),
    help="The order of a layer's maps: by the largest value, by the sum of squares, or as the layer has them.",
)
@click.option(
    "--scale",
    default="own",
    type=click.Choice(MAP_SCALES),
    help="Colours reach up to the largest value of each map, or of the layer for all its maps.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Maps of a layer, the first ones in this order.  [default: all; 24 where there are several layers]",
)
@click.option("--kernels", is_flag=True, help="Draw the kernels of the layers too, to OUT.kernels.png or the like.")
@click.option("--values", metavar="FILE", help="Write the maps to this NumPy file, .npz: an array for each layer.")
@click.option(
    "--tokens",
    callback=_grid,
    metavar="ROWSxCOLUMNS",
    help="Rows and columns of a transformer's patches.  [default: found]",
)
@figure_options(columns="Maps in a row, and kernels.  [default: 12 to 24, and 12]")
@model_options
def maps(
    model: str,
    image: str,
    layers: tuple[str, ...],
    out: str,
    sort: str,
    scale: str,
    count: int | None,
    kernels: bool,
    values: str | None,
    tokens: tuple[int, int] | None,
    page: Page,
    options: ModelOptions,
) -> None:
    """Take one image apart: draw every map of a layer, or the strongest maps of several layers.

    A map that has one value everywhere is dead on this image: it is grey, with a line through it. A map of one place is
    dead where it is zero. A map whose largest value is less than a hundredth of the layer's is faint: it is drawn in
    the layer's scale, not in its own. With --kernels, the kernels that can be looked at are those of the maps that are
    drawn, at most 96 of a layer.

    \b
    Examples:
      deconvviz maps demo cat.jpg -l conv1 -l conv3 -l conv5 -o maps.png
      deconvviz maps torchvision:squeezenet1_0 cat.jpg -l features.7 --scale common --kernels -o features.7.png
    """
    from deconvviz.studies.maps.figure import draw_feature_maps, grid_of
    from deconvviz.studies.maps.measure import kernels as kernels_of
    from deconvviz.studies.maps.measure import maps as maps_of
    from deconvviz.studies.maps.result import check_arrays_file

    check_figure(out)
    if values is not None:
        check_arrays_file(values)
        check_place(values)
    pixels = read_image(image)
    opened = open_model(model, options, layers)
    network, preprocess, _ = opened
    read_kernels = kernels_of(network, layers) if kernels else None  # refuses a layer before anything is written
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    name = pathlib.Path(image).name
    result = maps_of(network, x, layers, tokens=tokens, picture=preprocess.display(picture), name=name)
    grid = grid_of(result, count, page)
    caption = caption_of(result, sort, scale, grid.labelled) + preprocess.shown_words()
    title = f"Maps of {name} in {opened.name}"
    figure = draw_feature_maps(result, sort, scale, count, title, caption, page)
    save_figure(figure, out, caption)
    if values is not None:
        result.save(values)
        click.echo(f"wrote {values}")
    if read_kernels is not None:
        channels = {of_layer.layer: of_layer.order(sort)[: grid.most].tolist() for of_layer in result.layers}
        _save_kernels(read_kernels, channels, f"Kernels of {opened.name}", out, page)
    for of_layer in result.layers:
        click.echo(of_layer.words())


def caption_of(maps: FeatureMaps, sort: str, scale: str, labelled: bool) -> str:
    """Return what the figure shows: the order, the colours, and what is marked.

    Args:
        maps: what is drawn.
        sort: one of `choices.MAP_ORDERS`.
        scale: one of `choices.MAP_SCALES`.
        labelled: whether the limit of its colours stands above each map.
    """
    signed, limit_is_told = any(layer.signed for layer in maps.layers), labelled and scale == "own"
    orders = {
        "maximum": "The map with the largest value comes first",
        "energy": "The map with the largest sum of squares comes first",
        "index": "Maps stand in the order of their channels",
    }
    differs = "; where values are negative, it need not be the absolute value above the map" * (
        signed and sort == "maximum" and limit_is_told
    )
    limits = {
        "own": f"Colours reach up to the largest absolute value of each map{', which stands above it (≤)' * labelled}",
        "common": "Colours reach up to the largest absolute value of the layer",
    }
    faint = "; a faint map, whose values are below a hundredth of the layer's, has the layer's scale" * (scale == "own")
    sides = " In layers with negative values blue is below zero and red above it." * signed
    one_place = ", or is of one place and zero" * any(layer.values[0].size == 1 for layer in maps.layers)
    return (
        f"Each tile is a channel, with its number. {orders[sort]}{differs}. {limits[scale]}{faint}.{sides} A pixel of "
        "a tile is a value of the map, without interpolation. Grey with a line: the map has one value everywhere on "
        f"this image{one_place} (dead)."
    )


def kernels_caption(kernels: Kernels, filters: Mapping[str, Sequence[int]]) -> str:
    """Return what the figure of the kernels shows.

    Args:
        kernels: what is drawn.
        filters: name of a layer -> the filters whose pictures are drawn.
    """
    from deconvviz.figures.tiles import filter_pictures

    matrices = [layer for layer in kernels.layers if layer.pictures is None]
    drawn = [(layer.pictures, filters[layer.layer]) for layer in kernels.layers if layer.pictures is not None]
    factor = ", times the factor of the BatchNorm that follows" if all(layer.normalised for layer in matrices) else ""
    factor = factor or ", times the factor of a BatchNorm where one follows" * any(each.normalised for each in matrices)
    words = [
        "A pixel of a matrix is the root of the sum of squares of the kernel with which a filter (row) reads an input "
        f"channel (column){factor}."
    ] * bool(matrices)
    if any(layer.connected is not None for layer in matrices):
        words.append(
            "Where weights of a layer are zero, a second matrix shows the share of each kernel's weights that are not: "
            "dark is no connection."
        )
    if drawn:
        notes = [[note for _, note in filter_pictures(weights)] for weights, _ in drawn]
        weak = any(of_layer[number] for of_layer, (_, numbers) in zip(notes, drawn, strict=True) for number in numbers)
        words.append(
            "The kernels of layers that read the image or one channel each are drawn as pictures, in the order of the "
            "maps: grey is zero, and the contrast is that of each filter"
            + "; a filter whose weights are below a hundredth of the layer's largest has the layer's contrast" * weak
            + "."
        )
    return " ".join(words)


def _save_kernels(kernels: Kernels, channels: Mapping[str, Sequence[int]], title: str, out: str, page: Page) -> None:
    from deconvviz.studies.maps.figure import MOST, draw_kernels

    filters = {layer: numbers[:MOST] for layer, numbers in channels.items()}
    caption = kernels_caption(kernels, filters)
    figure = draw_kernels(kernels, title, caption, replace(page, title=None), filters)
    save_figure(figure, beside(out, f".kernels{pathlib.Path(out).suffix}"), caption)

"""deconvviz occlude"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import Precision
from deconvviz.cli.cam import class_of
from deconvviz.cli.inputs import captured, integers, load, matched_outputs, output_names, read_image
from deconvviz.cli.options import PROJECTION_NOTE, ModelOptions, classes_option, model_options
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.studies.occlusion.result import Occlusion


def _sides(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int]:
    """Read SIDE or HEIGHTxWIDTH."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} given; expected pixels such as 32, or HEIGHTxWIDTH such as 24x48")
    return int(parts[0]), int(parts[-1])


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; the values go beside it as .csv.")
@click.option("-l", "--layer", help="Whose strongest map is watched.  [default: the last before the classifier]")
@click.option("-t", "--target", help="The class followed, its number or its name.  [default: the label, or own top]")
@click.option("--square", default="32", show_default=True, callback=_sides, help="The occluder: SIDE or HEIGHTxWIDTH.")
@click.option("--stride", default="16", show_default=True, callback=_sides, help="Pixels between two places, as above.")
@click.option(
    "--fill",
    default="grey",
    show_default=True,
    type=click.Choice(["grey", "mean", "black", "blur", "noise"]),
    help="What stands in the square.",
)
@click.option(
    "--border",
    default="flush",
    show_default=True,
    type=click.Choice(["flush", "beyond"]),
    help="Windows end with the image, or reach over its edge.",
)
@click.option("--channel", type=click.IntRange(0), help="The map to watch.  [default: the strongest]")
@click.option(
    "--strongest", default="max", show_default=True, type=click.Choice(["max", "sum"]), help="By what, over positions."
)
@click.option("--mined", metavar="FILE", help="A mined file of this network: adds the map's projections elsewhere.")
@click.option("--mined-images", metavar="STORE", help="The images that were mined.  [default: where the file says]")
@click.option("--images", "picked", metavar="N,N,...", help="Which images of a store.  [default: 0]")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--quiet", is_flag=True, help="No progress bar.")
@classes_option
@model_options
def occlude(
    model: str,
    images: tuple[str, ...],
    out: str,
    layer: str | None,
    target: str | None,
    square: tuple[int, int],
    stride: tuple[int, int],
    fill: str,
    border: str,
    channel: int | None,
    strongest: str,
    mined: str | None,
    mined_images: str | None,
    picked: str | None,
    batch_size: int,
    precision: Precision,
    quiet: bool,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Cover an image piece by piece and see what the network still finds.

    IMAGES are picture files, or one packed store, folder of classes or scenes:COUNT, of which --images chooses. All
    panels come from one run of whole forward passes.

    \b
    Examples:
      deconvviz occlude torchvision:squeezenet1_0 dog.jpg -o occlusion.png
      deconvviz occlude demo scenes:20:7 --images 0,3 --square 16 --stride 4 -o occlusion.png
    """
    from deconvviz.studies.occlusion.figure import draw_occlusions
    from deconvviz.studies.occlusion.measure import occlude as run
    from deconvviz.studies.occlusion.result import save_occlusions

    check_figure(out)
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    called = output_names(loaded, names)
    files, pictures, labels = _pictures(images, picked, preprocess, network, called, names is not None)
    wanted = class_of(target, called)
    targets = labels if wanted is None else [wanted] * len(files)
    found = run(
        network,
        pictures,
        layer,
        preprocess=preprocess,
        targets=targets,
        square=square,
        stride=stride,
        fill=fill,
        border=border,
        channel=channel,
        strongest=strongest,
        names=files,
        batch_size=batch_size,
        precision=precision,
        progress=not quiet,
    )
    others = [_others(one, network, mined, mined_images) for one in found]
    size, step = ("x".join(map(str, dict.fromkeys(one))) for one in (square, stride))
    caption = (
        f"A {fill} square of {size} px every {step} px, {len(found[0].probability)} windows; axes are the pixel of the "
        f"square's centre. (c) {found[0].config['rule']} projections, contrast stretched one by one. {precision}."
    )
    save_figure(draw_occlusions(found, others, called, f"Occlusion of {network.name}", caption), out, caption)
    table = str(pathlib.Path(out).with_suffix(".csv"))
    save_occlusions(found, table, called)
    click.echo(f"wrote {table}")
    for one in found:
        click.echo(repr(one))


def _pictures(
    images: Sequence[str],
    picked: str | None,
    preprocess: Preprocess,
    network: Network,
    names: Sequence[str],
    needed: bool,
) -> tuple[list[str], NDArray[np.uint8], list[int] | None]:
    """Return names, pictures and, where they can be told, the outputs of the labels."""
    import numpy as np

    from deconvviz.data.datasets import open_images

    several = pathlib.Path(images[0])
    if len(images) > 1 or not (several.suffix == ".h5" or several.is_dir() or images[0].startswith("scenes")):
        if picked is not None:
            raise DataError("--images chooses from a store; picture files are all taken")
        pixels = [preprocess.picture(read_image(path)) for path in images]
        return [pathlib.Path(path).name for path in images], np.stack(pixels), None
    found = open_images(images[0])
    chosen = integers(picked or "0")
    wrong = [n for n in chosen if not 0 <= n < len(found)]
    if wrong:
        raise DataError(f"image {wrong[0]} of {images[0]} given; expected 0 to {len(found) - 1}")
    pixels = [preprocess.picture(found[n][0]) for n in chosen]
    shown = [pathlib.PurePath(found.names[n]).name for n in chosen]
    labels = found.labels[list(chosen)]
    outputs = None
    if (labels >= 0).all():
        outputs = matched_outputs(found, network, names, needed, "each image's own top class is followed")
    return shown, np.stack(pixels), None if outputs is None else [int(one) for one in outputs[labels]]


def _others(one: Occlusion, network: Network, path: str | None, store: str | None) -> list[NDArray[Any]]:
    """Return the projections of the same map from the three strongest other images of a mined file."""
    if path is None:
        return []
    import deconvviz as dv
    from deconvviz.errors import MismatchError

    mined = dv.load_mined(path)
    if mined.config["model_fingerprint"] != network.fingerprint:
        raise MismatchError(f"{path} was mined with another network; mine again, or give the network it was mined with")
    with dv.ImageStore.open(store or mined.sources["images"]) as images:
        panels = dv.layer_panels(
            mined, images, network, one.config["layer"], [one.channel], rule=one.config["rule"], progress=False
        )
    panel = panels.panels[0]
    elsewhere = [n for n, name in enumerate(panel.images) if pathlib.PurePath(name).name != one.name]
    return [panel.projections[n] for n in elsewhere[:3]]

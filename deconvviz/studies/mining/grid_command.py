"""deconvviz grid"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import captured, channels_of
from deconvviz.cli.options import PROJECTION_NOTE
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError, ModelError

if TYPE_CHECKING:
    from deconvviz.graph.network import Network
    from deconvviz.studies.mining.result import LayerPanels, Mined


@click.command(epilog=PROJECTION_NOTE)
@click.argument("mined")
@click.option("-l", "--layer", required=True, help="A layer that was mined.")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg.")
@click.option(
    "-c",
    "--channels",
    default="active",
    show_default=True,
    help="active (highest mean), random, first, or numbers such as 5,40,100-110.",
)
@click.option(
    "-n",
    "--count",
    default=16,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Filters to show of active, random, first.",
)
@click.option(
    "--crop",
    default="energy",
    show_default=True,
    metavar="energy|receptive-field|PIXELS",
    help="energy: the smallest square that holds 98 % of a projection's energy, one size for the layer.",
)
@click.option("--rule", default="deconvnet", show_default=True, type=click.Choice(["deconvnet", "guided", "gradient"]))
@click.option("--model", help="The model, where it is not the one that the file names.")
@click.option("--weights", help="Its weights, where they have moved.")
@click.option("--images", help="The packed store, where it has moved.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, ...")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def grid(
    mined: str,
    layer: str,
    out: str,
    channels: str,
    count: int,
    crop: str,
    rule: str,
    model: str | None,
    weights: str | None,
    images: str | None,
    device: str,
    quiet: bool,
) -> None:
    """Draw a layer: for each filter its top projections beside the image patches they came from.

    The file knows its model, weights and images; the projections are kept in it for the next time.

    \b
    Examples:
      deconvviz grid mined.h5 -l features.7 -o features.7.png
      deconvviz grid mined.h5 -l features.7 -c 5,40,150,200 --crop receptive-field -o features.7.pdf
    """
    from deconvviz.data.images import ImageStore
    from deconvviz.studies.mining.cache import ProjectionCache
    from deconvviz.studies.mining.figure import draw_grid
    from deconvviz.studies.mining.panels import panels_from
    from deconvviz.studies.mining.result import load_mined

    check_figure(out)
    file = load_mined(mined)
    numbers = file[layer].choose_channels(channels_of(channels), count)
    if not 1 <= len(numbers) <= 100:
        raise DataError(f"{len(numbers)} filters given; a page holds 1 to 100")
    with ImageStore.open(images or file.sources["images"]) as store:
        # The network is loaded only where the file does not keep all that is shown: it may have moved meanwhile.
        cache = ProjectionCache(file, store, lambda: _network(file, model, weights, device), rule, not quiet)
        panels = panels_from(cache, layer, numbers, crop)
        caption = _caption(file, panels, store.path)
    save_figure(draw_grid(panels, f"{layer} of {file.config['model']}", caption), out, caption)
    cache.save(mined)


def _network(found: Mined, model: str | None, weights: str | None, device: str) -> Network:
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import load_model

    spec = model or found.sources.get("model")
    if not spec:
        raise ModelError("the file does not name its model: it was mined from Python; give --model and --weights")
    loaded = load_model(spec, weights or found.sources.get("weights", "DEFAULT"))
    return captured(loaded, Preprocess.from_dict(found.config["preprocess"]), device)


def _caption(found: Mined, shown: LayerPanels, path: str | pathlib.Path) -> str:
    seen = found[shown.layer].activity.images
    k = found.config["k"]
    unfinished = "" if found.complete else f" (unfinished: {found.done} of {found.total})"
    size, image = ("x".join(map(str, dict.fromkeys(sides))) for sides in (shown.crop, shown.image))  # 27, or 27x40
    filters = "filter, then " if shown.weights is not None else ""
    return (
        f"Per channel: {filters}{shown.rule} projections of its {k} strongest images (contrast stretched one by one) "
        f"beside their patches, strongest first.\nCrop {size} px of {image}: {shown.crop_rule}. "
        f"{seen} images of {pathlib.Path(path).name}{unfinished}; model {found.config['model_fingerprint']}."
    )

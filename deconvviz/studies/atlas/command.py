"""deconvviz atlas"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.choices import Precision
from deconvviz.cli.inputs import captured, channels_of, load, matched_outputs, output_names
from deconvviz.cli.options import PROJECTION_NOTE, ModelOptions, classes_option, model_options
from deconvviz.cli.outputs import command_line, sources
from deconvviz.errors import CaptureError, LayerNotFound

if TYPE_CHECKING:
    from deconvviz.graph.network import Network
    from deconvviz.results.snapshots import Snapshots

DECISIONS = 12


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", required=True, help="A folder; an unfinished atlas in it is continued.")
@click.option(
    "-l",
    "--layer",
    "--layers",
    "layers",
    multiple=True,
    help="A layer's name; give as many as you like.  [default: up to eight, evenly over the depth]",
)
@click.option(
    "--filters", help="active (highest mean), random, first, or numbers such as 5,40,100-110.  [default: all]"
)
@click.option(
    "-n",
    "--count",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Filters of each layer, of active, random, first.",
)
@click.option("--top", default=9, show_default=True, type=click.IntRange(1, 100), help="Images a filter.")
@click.option("--rule", default="deconvnet", show_default=True, type=click.Choice(["deconvnet", "guided", "gradient"]))
@click.option("--mined", metavar="FILE", help="A mined file of these layers.  [default: the images are mined]")
@click.option(
    "--snapshots",
    metavar="FILE",
    help="Snapshots of a training, or demo: the most active filters are followed through it.",
)
@click.option("--invariance", is_flag=True, help="Also score each filter under moves, scales and turns.")
@click.option("--occlusion", is_flag=True, help="Also move a square over each filter's strongest image (slow).")
@click.option(
    "--decisions",
    type=click.IntRange(0),
    help=f"Images, spread over the classes, whose decision is explained; 0 for none.  [default: {DECISIONS}]",
)
@click.option("-m", "--methods", help="That explain decisions, with commas between; `deconvviz cam --list` tells them.")
@click.option("--cam-layer", help="The layer that they explain.  [default: the last before the classifier]")
@click.option("--batch-size", type=click.IntRange(1), help="Images at once.  [default: each step's own]")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--quiet", is_flag=True, help="No progress bars.")
@classes_option
@model_options
def atlas(
    model: str,
    images: str,
    out: str,
    layers: tuple[str, ...],
    filters: str | None,
    count: int,
    top: int,
    rule: str,
    mined: str | None,
    snapshots: str | None,
    invariance: bool,
    occlusion: bool,
    decisions: int | None,
    methods: str | None,
    cam_layer: str | None,
    batch_size: int | None,
    precision: Precision,
    quiet: bool,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Make pages that show a whole network: open OUT/index.html, no server needed.

    IMAGES is a packed store. Each filter is shown with its strongest images and projections, and what it has in common
    with others; some images with what the network says of them, and why. Interrupted, the same command continues.

    \b
    Examples:
      deconvviz atlas torchvision:squeezenet1_0 photos.h5 -o atlas
      deconvviz atlas demo scenes.h5 -l conv1 -l relu3 -l relu5 --snapshots demo --invariance -o atlas
    """
    from deconvviz.data.images import ImageStore
    from deconvviz.graph.choose import default_layers
    from deconvviz.studies.atlas.decisions import METHODS
    from deconvviz.studies.atlas.make import AtlasMaker, Wanted
    from deconvviz.studies.atlas.site.inputs import SiteImages
    from deconvviz.studies.atlas.site.site import build_site
    from deconvviz.studies.mining.result import load_mined

    with ImageStore.open(images) as store:
        found = None if mined is None else load_mined(mined)
        training = None if snapshots is None else _snapshots(snapshots)
        loaded, preprocess = load(model, options)
        network = captured(loaded, preprocess, options.device)
        called = output_names(loaded, names)
        explained = _decisions(network, decisions, cam_layer)
        outputs = None
        if explained:
            outputs = matched_outputs(store, network, called, names is not None, "decisions have no label to compare")
        numbers = None if filters is None else channels_of(filters)
        wanted = Wanted(
            layers or (tuple(found) if found is not None else default_layers(network, pooled=False)),
            top,
            tuple(numbers) if isinstance(numbers, list) else numbers,
            count,
            rule,
            explained,
            METHODS if methods is None else tuple(name.strip() for name in methods.split(",")),
            cam_layer,
            invariance,
            occlusion,
        )
        computed = AtlasMaker(
            network,
            loaded.model,
            store,
            preprocess,
            wanted,
            found,
            training,
            outputs,
            called,
            batch_size,
            precision,
            sources(loaded),
            progress=not quiet,
        ).run(out)
        click.echo(repr(computed))
        title = f"{network.name} on {pathlib.Path(store.path).name}"
        site = build_site(
            out,
            computed.galleries,
            computed.decisions,
            SiteImages(names=store.names, labels=store.labels, classes=store.classes, picture=computed.picture),
            title=title,
            command=command_line(),
            note=PROJECTION_NOTE,
            progress=not quiet,
        )
    click.echo(repr(site))
    click.echo(f"open {site.index}")


def _decisions(network: Network, count: int | None, layer: str | None) -> int:
    """Return how many decisions to explain; by default none of a network that makes none."""
    from deconvviz.graph.choose import last_maps

    if count is not None:
        return count
    try:
        _ = network.outputs, layer or last_maps(network)
    except (CaptureError, LayerNotFound) as error:
        click.echo(f"note: no decisions are explained: {error}", err=True)
        return 0
    return DECISIONS


def _snapshots(path: str) -> Snapshots:
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots

    return Snapshots(DEMO_SNAPSHOTS if path == "demo" else path)

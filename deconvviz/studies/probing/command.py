"""deconvviz probe"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import captured, integers, load, numbers
from deconvviz.cli.options import ModelOptions, model_options
from deconvviz.cli.outputs import save_figure, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.studies.probing.measure import ProbeSettings


@click.command()
@click.argument("model")
@click.argument("images", metavar="DATA")
@click.option("-o", "--out", required=True, help="The table, .csv; the figure, .png, comes beside it.")
@click.option("-l", "--layer", "layers", multiple=True, help="A layer; several.  [default: up to 8 over the depth]")
@click.option("--per-class", default="5,15,30", show_default=True, help="Training images of each class.")
@click.option("--splits", default=5, show_default=True, type=click.IntRange(2), help="How often images are drawn.")
@click.option("--test", type=click.IntRange(1), help="At most so many test images a class.  [default: all others]")
@click.option("--probes", default="svm,softmax", show_default=True, help="svm, softmax or both.")
@click.option("--costs", default="0.01,0.1,1,10,100", show_default=True, help="C, of which cross-validation chooses.")
@click.option("--random/--no-random", "compare", default=True, show_default=True, help="Compare with random weights.")
@click.option("--features", metavar="FILE.h5", help="Keep the features here, and go on where they stand.")
@click.option("--pool", default="max", show_default=True, help="max, mean, all, or with a grid: 'max 6x6'.")
@click.option("--half", is_flag=True, help="Keep the features in half precision: half the size.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each class, drawn at random.")
@click.option("--batch-size", type=click.IntRange(1), help="Images at once.  [default: 16; 64 on a GPU]")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--seed", default=0, show_default=True, help="Of splits and random weights.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@model_options
def probe(
    model: str,
    images: str,
    out: str,
    layers: tuple[str, ...],
    per_class: str,
    splits: int,
    test: int | None,
    probes: str,
    costs: str,
    compare: bool,
    features: str | None,
    pool: str,
    half: bool,
    limit: int | None,
    batch_size: int | None,
    precision: str,
    workers: int,
    seed: int,
    quiet: bool,
    options: ModelOptions,
) -> None:
    """Measure how well a linear classifier tells the classes apart by the features of each layer.

    The network stays as it is; on its features, and on those of the same network with random weights, a linear SVM and
    a softmax classifier learn from a few images a class. DATA is a packed store, a folder with a sub-folder for each
    class, or scenes:COUNT:SEED. Features are pooled to at most 10,000 values a layer. With --features, an interrupted
    command goes on where it was.

    \b
    Examples:
      deconvviz probe demo scenes:1000:5 -o probe.csv
      deconvviz probe torchvision:resnet18 photos/ -l layer1 -l layer4 --per-class 15 --features photos.h5 -o probe.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.graph.choose import default_layers
    from deconvviz.models.load import Loaded
    from deconvviz.studies.probing.figure import draw_probing
    from deconvviz.studies.probing.transfer import transfer, untrained

    table = pathlib.Path(out)
    if table.suffix != ".csv" or not table.resolve().parent.is_dir():
        raise DataError(f"{out} given; expected a name that ends in .csv, in a folder that is there")
    settings = _settings(probes, per_class, splits, test, costs, seed)
    found_images = open_images(images)
    loaded, preprocess = load(model, options)
    networks = {"trained" if loaded.weights != "none" else "random": captured(loaded, preprocess, options.device)}
    if compare and loaded.weights != "none":
        other = Loaded(untrained(loaded, seed), loaded.settings, loaded.spec, "none")
        networks["random"] = captured(other, preprocess, options.device)
    network = next(iter(networks.values()))
    found = transfer(
        networks,
        found_images,
        layers or default_layers(network),
        settings,
        features,
        preprocess=preprocess,
        limit=limit,
        progress=not quiet,
        sources=sources(loaded),
        pool=pool,
        batch_size=batch_size,
        precision=precision,
        dtype="float16" if half else "float32",
        workers=workers,
    )
    found.save_csv(table)
    first = next(iter(found.found.values()))
    caption = (
        f"{network.name} on {pathlib.PurePath(images).name}: points are means over {splits} random splits "
        f"({first.tested} test images each), "
        f"whiskers their standard deviations. Features ({pool} pooling) stay fixed; the random network has the same "
        "layers. Features are standardised; C is chosen by cross-validation among the training images."
    )
    figure = draw_probing(found, f"Linear probes of {network.name}", caption)
    save_figure(figure, str(table.with_suffix(".png")), caption)
    click.echo(repr(found))
    click.echo(f"wrote {table}" + (f"; features are kept in {features}" if features else ""))


def _settings(probes: str, per_class: str, splits: int, test: int | None, costs: str, seed: int) -> ProbeSettings:
    from deconvviz.studies.probing.measure import ProbeSettings

    names = tuple(name.strip() for name in probes.split(","))
    return ProbeSettings(names, integers(per_class), splits, test, numbers(costs, "0.01,1,100"), seed)

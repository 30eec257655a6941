"""deconvviz evaluate"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.cam import CAM_NOTE, own_options
from deconvviz.cli.options import ModelOptions, captured, load, model_options, save_figure, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.data.images import ImageStore
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.studies.evaluation import Evaluation
    from deconvviz.studies.mistakes import Mistakes


@click.command(epilog=CAM_NOTE)
@click.argument("model")
@click.argument("images")
@click.option("-m", "--method", "methods", multiple=True, required=True, help="A method; give as many as you like.")
@click.option("-l", "--layer", "layers", multiple=True, help="The layer to explain; several are fused.")
@click.option("-o", "--out", required=True, help="The table, .csv; beside it the figure .png and the values .h5.")
@click.option(
    "--metrics",
    default="faithfulness,adcc,curves",
    show_default=True,
    help="Groups of metrics: faithfulness, adcc, curves, road.",
)
@click.option("--fill", default="mean", show_default=True, type=click.Choice(["mean", "black"]), help="Masked pixels.")
@click.option("--steps", default=28, show_default=True, type=click.IntRange(2), help="Of deletion and insertion.")
@click.option("--option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the methods that have it.")
@click.option("--limit", type=click.IntRange(1), help="The first images only.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Masked images at once.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--seed", default=0, show_default=True, help="Of methods that draw masks, noise or orders.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@model_options
def evaluate(
    model: str,
    images: str,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    out: str,
    metrics: str,
    fill: str,
    steps: int,
    given: tuple[str, ...],
    limit: int | None,
    batch_size: int,
    precision: str,
    seed: int,
    quiet: bool,
    options: ModelOptions,
) -> None:
    """Measure how far methods' maps tell what a network relies on, over a packed store.

    Each image's own top class is explained. Interrupted, the same command goes on where the .h5 file stands. Where the
    store's classes are the network's outputs, .wrong.csv lists the images named wrongly, with how alike the first
    method's maps for the true and the predicted class are, and .confusions.csv the pairs that recur.

    \b
    Example:
      deconvviz evaluate torchvision:resnet18 photos.h5 -l layer4 -m grad-cam -m recipro-cam -o table.csv
    """
    from deconvviz.data.images import ImageStore
    from deconvviz.figures.evaluation import draw_evaluation
    from deconvviz.metrics import METRICS
    from deconvviz.studies.evaluation import evaluate as measure

    table = pathlib.Path(out)
    if table.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    with ImageStore.open(images) as store:
        loaded, preprocess = load(model, options)
        network = captured(loaded, preprocess, options.device)
        found = measure(
            network, store, {name: own_options(name, given) for name in methods}, layers, table.with_suffix(".h5"),
            preprocess=preprocess, metrics=[name.strip() for name in metrics.split(",")], fill=fill, steps=steps,
            limit=limit, batch_size=batch_size, precision=precision, seed=seed, progress=not quiet,
            sources=sources(loaded),
        )  # fmt: skip
        caption = (
            f"{len(found.names)} images of {store.path.name}; each image's own top class; masked pixels become {fill}. "
            "Bars are means, whiskers their 95 % intervals."
        )
        told = _mistakes(network, store, methods[0], layers, own_options(methods[0], given), preprocess, found)
    found.save_csv(table)
    better = {c: METRICS[n].higher_is_better for c in found.columns for n in METRICS if c.rsplit("_1", 1)[0] == n}
    better |= {
        c: METRICS[c.rsplit("_", 1)[0]].higher_is_better for c in found.columns if c.endswith(("_100", "_50", "_15"))
    }
    where = f" at {', '.join(layers)}" if layers else ""
    figure = draw_evaluation(found, better, f"Explanations of {network.name}{where}", caption)
    save_figure(figure, str(table.with_suffix(".png")), caption)
    click.echo(f"wrote {table} and {table.with_suffix('.h5')}")
    click.echo(repr(found))
    if told is not None:
        told.save_csv(table.with_suffix(".wrong.csv"), table.with_suffix(".confusions.csv"))
        click.echo(repr(told))


def _mistakes(
    network: Network,
    store: ImageStore,
    method: str,
    layers: tuple[str, ...],
    options: dict[str, Any],
    preprocess: Preprocess,
    found: Evaluation,
) -> Mistakes | None:
    """List what the network gets wrong, explained by the first method, where the store's classes are its outputs."""
    import numpy as np

    from deconvviz.cam.explain import cam
    from deconvviz.studies.mistakes import mistakes

    if not (found.labels >= 0).any():
        return None
    try:
        return mistakes(
            network, store, cam(method, network, layers, **options), preprocess, np.arange(len(found.names))
        )
    except DataError as error:
        click.echo(f"note: {error}", err=True)
        return None

"""deconvviz train"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.inputs import found_device, integers
from deconvviz.cli.options import device_option
from deconvviz.cli.outputs import command_line
from deconvviz.errors import DataError, ModelError

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess

EPOCHS = "1,2,5,10,20,30,40,64"


def _zfnet_options(command: Any) -> Any:
    """Options that only a zfnet has."""
    for option in (
        click.option(
            "--first", default="zfnet", type=click.Choice(["zfnet", "alexnet"]), help="zfnet: its layers 1, 2."
        ),
        click.option("--dropout", default=0.5, show_default=True, help="zfnet: share dropped in layers 6 and 7."),
        click.option("--remove", default="", metavar="3,4", help="zfnet: layers to leave out."),
        click.option("--fc", default="4096,4096", show_default=True, help="zfnet: units of layers 6 and 7."),
        click.option("--conv", default="96,256,384,384,256", show_default=True, help="zfnet: maps of layers 1 to 5."),
        click.option("--width", default=1.0, show_default=True, help="zfnet: factor on maps and units."),
        click.option(
            "--input",
            "side",
            type=click.IntRange(1),
            help="Side of the square input; zfnet: 32, 64, 96 or 224.  [default: zfnet: what suits the images]",
        ),
    ):
        command = option(command)
    return command


def recipe_options(command: Any) -> Any:
    """Options of the recipe; the defaults are the paper's."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Of weights, order, crops, flips and dropout."),
        click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"])),
        click.option("--augment/--no-augment", default=True, show_default=True, help="Random crops and flips."),
        click.option("--validation", default="0.1", show_default=True, help="Share held out, or other IMAGES."),
        click.option("--radius", default=0.1, show_default=True, help="Limit of a filter's RMS; 0 for none."),
        click.option("--patience", default=5, show_default=True, help="Epochs without a better validation error ..."),
        click.option("--factor", default=0.1, show_default=True, help="... before the rate is multiplied by this."),
        click.option("--weight-decay", default=0.0, show_default=True),
        click.option("--momentum", default=0.9, show_default=True),
        click.option("--lr", default=0.01, show_default=True, help="Learning rate to begin with."),
        click.option("--batch-size", default=128, show_default=True),
        click.option("--epochs", default=70, show_default=True, help="More than in OUT trains on."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", required=True, help="The trained network; an unfinished one is continued.")
@click.option("--snapshots", metavar="FILE", help="Record weights during training, for `deconvviz evolve`.")
@click.option("--snapshot-epochs", default=EPOCHS, show_default=True, help="The epochs whose weights are kept.")
@click.option("--snapshot-half", is_flag=True, help="Keep them in half precision: half the size.")
@click.option("--weights", default="none", show_default=True, metavar="DEFAULT|FILE|none", help="Where to start from.")
@click.option("--resize", type=click.IntRange(1), help="Shorter side before the crop.  [default: 8/7 of the input]")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--commit-every", default=500, show_default=True, type=click.IntRange(1), help="Steps between commits.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@recipe_options
@_zfnet_options
@device_option
def train(
    model: str,
    images: str,
    out: str,
    snapshots: str | None,
    snapshot_epochs: str,
    snapshot_half: bool,
    weights: str,
    resize: int | None,
    workers: int,
    commit_every: int,
    quiet: bool,
    device: str,
    side: int | None,
    validation: str,
    **options: Any,
) -> None:
    """Train a network by the paper's recipe, and record snapshots of it.

    IMAGES is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.
    Interrupted, even by a power cut, the same command continues and ends with the same weights (on a CPU).

    \b
    Examples:
      deconvviz train zfnet scenes:2000 --input 64 --width 0.2 --epochs 10 --snapshots evolution.h5 -o zfnet.pth
      deconvviz train zfnet photos.h5 --epochs 64 --snapshots evolution.h5 --out zfnet.pth
    """
    import torch

    from deconvviz.data.datasets import open_images
    from deconvviz.studies.training.recipe import Recipe
    from deconvviz.studies.training.recorder import SnapshotRecorder
    from deconvviz.studies.training.train import train as train_network

    names = {field.name for field in dataclasses.fields(Recipe)}
    share, others = validation_of(validation)
    recipe = Recipe(**{key: value for key, value in options.items() if key in names}, validation=share)
    found = open_images(images)
    arguments = _arguments(model, found, side, {k: v for k, v in options.items() if k not in names})
    network, preprocess = _network(model, weights, arguments, recipe.seed, side)
    recorder = None
    if snapshots is not None:
        origin, half = {"command": command_line()}, torch.float16 if snapshot_half else None
        recorder = SnapshotRecorder(snapshots, integers(snapshot_epochs), sources=origin, dtype=half, resume=True)
    trained = train_network(
        network,
        found,
        out,
        recipe,
        preprocess=preprocess,
        resize=resize,
        validation=open_images(others) if others else None,
        name=model,
        arguments=arguments,
        recorder=recorder,
        device=found_device(device),
        workers=workers,
        commit_every=commit_every,
        progress=not quiet,
        sources={"command": command_line(), "weights": weights},
    )
    click.echo(repr(trained))
    given = f"deconvviz mine {model} IMAGES.h5 --weights {out} -l LAYER -o mined.h5"
    more = f"deconvviz evolve {snapshots} IMAGES.h5 -l LAYER -o evolution.png"
    click.echo(f"wrote {out}; next: {given}" + (f", or {more}" if snapshots else ""))


def validation_of(text: str) -> tuple[float, str | None]:
    """Read --validation: a share of the images, or other images."""
    try:
        return float(text), None
    except ValueError:
        return 0.0, text


def _arguments(model: str, images: Images, side: int | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return what makes the zfnet that was asked for; other models take no arguments."""
    if model != "zfnet":
        return {}
    known = images.classes or range(int(images.labels.max(initial=-1)) + 1)
    if not known:
        raise DataError("the images have no classes; pack a folder with a sub-folder for each class")
    smallest = min(images[0][0].shape[:2])
    fitting = [size for size in (224, 96, 64, 32) if size <= smallest] or [32]
    lists = {key: list(integers(given[key])) if given[key] else [] for key in ("conv", "fc", "remove")}
    return {**given, **lists, "classes": len(known), "input_size": side or fitting[0]}


def _network(
    model: str, weights: str, arguments: dict[str, Any], seed: int, side: int | None
) -> tuple[Any, Preprocess | None]:
    """Return the network to train, and its preprocessing where the training is not to settle it."""
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import build_model
    from deconvviz.models.weights import load_weights, read_weights

    if model == "demo":
        raise ModelError("demo is trained already; to train its kind anew: deconvviz demo --train, or train zfnet")
    network, settings = build_model(model, arguments, weights == "DEFAULT" and model != "zfnet", seed)
    if weights not in ("DEFAULT", "none"):
        load_weights(network, read_weights(pathlib.Path(weights)))
    if model == "zfnet":
        return network, None
    return network, Preprocess.from_dict(settings if side is None else {**settings, "crop": side})

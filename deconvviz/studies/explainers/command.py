"""deconvviz train-cam"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.inputs import captured, integers, load, matched_outputs, numbers, output_names
from deconvviz.cli.options import ModelOptions, classes_option, model_options
from deconvviz.cli.outputs import sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import Phase
    from deconvviz.graph.network import Network

NOTE = (
    "An explainer learns a class from images that show it: for a class that the training did not hold, its map is "
    "little more than noise. How it does on images held out is told at the end, beside Grad-CAM. L-CAM's default "
    "schedule is its authors', for more than a million images: with some hundred, give a higher rate and smaller "
    "batches, such as --lr 1 --batch-size 16."
)


def schedule_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what can be changed of a method's own schedule; several values with commas, one for each phase."""
    for option in (
        click.option("--batch-size", help="Images a step."),
        click.option("--decay", help="Factor on the rate after each epoch (real-time-masking: each 4000 steps)."),
        click.option("--lr", help="Learning rate to begin with; L-CAM's biases take twice that."),
        click.option("--steps", help="Steps instead of epochs."),
        click.option(
            "--epochs", help="Passes over the images; more than in OUT trains on.  [default: the method's own]"
        ),
    ):
        command = option(command)
    return command


@click.command("train-cam", epilog=NOTE)
@click.argument("method")
@click.argument("model")
@click.argument("images")
@click.option("-l", "--layer", "layers", multiple=True, help="The layer to read; real-time-masking reads several.")
@click.option(
    "-o", "--out", required=True, help="The explainer, .pth; beside it .json, .csv; an unfinished one goes on."
)
@click.option(
    "--explain",
    default="top",
    show_default=True,
    type=click.Choice(["top", "label"]),
    help="Learn the network's own decisions, or the images' labels.",
)
@click.option("--option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the method, such as area=2.")
@click.option("--grid", multiple=True, metavar="KEY=V1,V2", help="Try all of these, keep what does best held out.")
@click.option("--validation", default=0.2, show_default=True, help="Share of the images held out; 0 for none.")
@click.option(
    "--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]), help="The network's."
)
@click.option("--augment/--no-augment", default=True, show_default=True, help="Random crops and flips.")
@click.option("--seed", default=0, show_default=True, help="Of weights, order, crops, flips.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--commit-every", default=200, show_default=True, type=click.IntRange(1), help="Steps between commits.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@schedule_options
@classes_option
@model_options
def train_cam(
    method: str,
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    explain: str,
    given: tuple[str, ...],
    grid: tuple[str, ...],
    validation: float,
    names: str | None,
    quiet: bool,
    options: ModelOptions,
    augment: bool,
    epochs: str | None,
    steps: str | None,
    lr: str | None,
    decay: str | None,
    batch_size: str | None,
    **how: Any,
) -> None:
    """Train an explainer for a network, which then explains an image in one forward pass.

    METHOD is l-cam-fm, l-cam-img or real-time-masking. The network stays as it is. IMAGES is a packed store, a folder
    of classes or scenes[:COUNT[:SEED]]. Interrupted, even by a power cut, the same command continues and ends with the
    same weights (on a CPU). OUT.csv has the loss term by term.

    \b
    Examples:
      deconvviz train-cam l-cam-img torchvision:squeezenet1_0 photos.h5 -l features.12 -o lcam.pth
      deconvviz cam l-cam-img torchvision:squeezenet1_0 cat.jpg --explainer lcam.pth -o cam.png
      deconvviz train-cam l-cam-fm demo scenes:2000 -l relu5 --lr 0.1 --epochs 8 --grid area=1,2,4 -o lcam.pth
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.explainers.search import held_out, parted, search
    from deconvviz.studies.explainers.train import train_explainer

    found = open_images(images)
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    called = output_names(loaded, names)
    outputs = matched_outputs(found, network, called, True, "") if explain == "label" else None
    chosen = layers or default_layers(method, network)
    changed = {"epochs": epochs, "steps": steps, "lr": lr, "decay": decay, "batch_size": batch_size}
    own = {key: _value(text) for key, text in (_pair(one, "area=2") for one in given)}
    how |= {
        "preprocess": preprocess,
        "progress": not quiet,
        "sources": sources(loaded),
        "outputs": outputs,
        "options": own,
        "phases": phases_of(method, changed, augment),
    }
    if grid:
        pairs = (_pair(one, "area=1,2,4") for one in grid)
        values = {key: numbers(text, "1,2,4") for key, text in pairs}
        table, trained = search(method, network, found, chosen, out, values, validation=validation, **how)
        table.save_csv(pathlib.Path(out).with_suffix(".search.csv"))
        click.echo(repr(table))
    else:
        learnt, held = parted(found, validation, how["seed"])
        trained = train_explainer(method, network, learnt, chosen, out, **how)
        if held is not None:
            others, where = (["grad-cam"], chosen) if len(chosen) == 1 else ([], ())
            score = held_out(trained, network, held, preprocess, others, where, not quiet)
            score.save_csv(pathlib.Path(out).with_suffix(".held-out.csv"))
            click.echo(f"on {len(held)} images held out:\n{score!r}")
    click.echo(repr(trained))
    click.echo(f"wrote {out}; next: deconvviz cam {method} {model} IMAGE --explainer {out} -o cam.png")


def default_layers(method: str, network: Network) -> tuple[str, ...]:
    """Return the layers to read where none were named: the last maps, or the last of each size."""
    from deconvviz.cam.learned import files  # noqa: F401, the explainers register
    from deconvviz.cam.learned.base import LEARNED
    from deconvviz.graph.choose import last_maps, last_of_each_size

    return last_of_each_size(network) if LEARNED[method].many else (last_maps(network),)


def phases_of(method: str, changed: dict[str, str | None], augment: bool) -> tuple[Phase, ...]:
    """Return the method's phases with what was given instead; raises DataError for another number of values."""
    from deconvviz.cam.learned.base import LEARNED

    phases = LEARNED[method].schedule()
    for name, text in changed.items():
        if text is None:
            continue
        values: Sequence[float] = numbers(text, "0.1") if name in ("lr", "decay") else integers(text)
        if len(values) not in (1, len(phases)):
            known = ", ".join(phase.name for phase in phases)
            raise DataError(f"--{name.replace('_', '-')} {text} given; expected one value, or one for each of {known}")
        every = list(values) * len(phases) if len(values) == 1 else list(values)
        instead = {"steps": 0} if name == "epochs" else {}
        phases = tuple(
            dataclasses.replace(phase, **{name: value, **instead})  # type: ignore[arg-type]
            for phase, value in zip(phases, every, strict=False)
        )
    return tuple(dataclasses.replace(phase, augment=augment) for phase in phases)


def _pair(text: str, such_as: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise DataError(f"{text!r} given; expected KEY=VALUE, such as {such_as}")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

"""Options that several commands share, in groups: each group reaches a command as one object."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from deconvviz.choices import PRECISIONS, RULES
from deconvviz.run.options import RunOptions

Command = Callable[..., None]
PROJECTION_NOTE = (
    "A deconvnet or guided projection shows which pixels reached the unit, and changes little when the network's "
    "weights are randomised: it is no evidence for what the network decides."
)
AUTOMATIC = "16; 64 on a GPU"


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What the shared options say of the model and of how images reach it.

    Attributes:
        weights: "DEFAULT", "none" or the path of a state dict.
        resize: shorter side before the crop in pixels; None for the model's own.
        crop: side of the network's square input in pixels; None for the model's own.
        mean: channel means as text; None for the model's own.
        std: channel standard deviations as text; None for the model's own.
        device: "auto", "cpu", "cuda", ...
    """

    weights: str
    resize: int | None
    crop: int | None
    mean: str | None
    std: str | None
    device: str


def model_options(command: Command) -> Command:
    """Add --weights, --resize, --input, --mean, --std and --device, handed to the command as `options`."""
    add_options = option_group(
        "options",
        ModelOptions,
        click.option(
            "--weights",
            default="DEFAULT",
            show_default=True,
            metavar="DEFAULT|FILE|none",
            help="DEFAULT downloads the model's own; FILE is a state dict; none is random.",
        ),
        click.option(
            "--resize", type=click.IntRange(1), help="Shorter side before the crop.  [default: the model's own]"
        ),
        click.option(
            "--input",
            "crop",
            type=click.IntRange(1),
            help="Side of the network's square input (centre crop).  [default: the model's own]",
        ),
        click.option("--mean", help="Channel means of the normalisation, as 0.485,0.456,0.406."),
        click.option("--std", help="Channel standard deviations of the normalisation, as 0.229,0.224,0.225."),
        device_option,
    )
    return add_options(command)


def run_options(
    *,
    batch_size: str | None = None,
    default_batch: int | None = None,
    precision: str | None = None,
    workers: str | None = None,
    seed: str | None = None,
) -> Callable[[Command], Command]:
    """Add the options of `RunOptions` that a command has, handed to it as `run`; --quiet is always among them.

    Each argument but `default_batch` is the help text of an option, and None where the command does not have it.

    Args:
        batch_size: of --batch-size.
        default_batch: its default; None lets `RunOptions` choose by the device.
        precision: of --precision.
        workers: of --workers.
        seed: of --seed.
    """
    batch_help = batch_size if default_batch else f"{batch_size}  [default: {AUTOMATIC}]"
    options = {
        "batch_size": (
            batch_size,
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                default=default_batch,
                show_default=default_batch is not None,
                help=batch_help,
            ),
        ),
        "precision": (
            precision,
            click.option(
                "--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS), help=precision
            ),
        ),
        "workers": (
            workers,
            click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help=workers),
        ),
        "seed": (seed, click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help=seed)),
    }
    names = [name for name, (text, _) in options.items() if text is not None]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def grouped(*, quiet: bool, **arguments: Any) -> None:
            run = RunOptions(progress=not quiet, **{name: arguments.pop(name) for name in names})
            command(run=run, **arguments)

        quiet_option = click.option("--quiet", is_flag=True, help="Show no progress bar.")
        return _with_options(grouped, *(options[name][1] for name in names), quiet_option)

    return decorate


DECODING = "Threads that decode images."


def device_option(command: Command) -> Command:
    """Add --device."""
    text = "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."
    return click.option("--device", default="auto", show_default=True, help=text)(command)


def classes_option(command: Command) -> Command:
    """Add --classes, a file with the names of the network's outputs, as `names`."""
    text = "Names of the network's outputs, one a line in their order.  [default: the model's own, where it has them]"
    return click.option("--classes", "names", metavar="FILE", help=text)(command)


def explainer_option(command: Command) -> Command:
    """Add --explainer, what `train-cam` wrote, for methods that are trained, as `explainer_files`."""
    text = "What `deconvviz train-cam` wrote, for a method that is trained; one for each of them."
    return click.option("--explainer", "explainer_files", metavar="FILE", multiple=True, help=text)(command)


def layers_option(text: str, required: bool = False) -> Callable[[Command], Command]:
    """Add -l/--layer, which may be given several times, as `layers`."""
    return click.option("-l", "--layer", "layers", multiple=True, required=required, help=text)


def rule_option(command: Command) -> Command:
    """Add --rule, the rule of projections."""
    text = "How rectifiers treat the signal on its way back to the pixels."
    return click.option("--rule", default="deconvnet", show_default=True, type=click.Choice(RULES), help=text)(command)


def limit_option(command: Command) -> Command:
    """Add --limit."""
    return click.option("--limit", type=click.IntRange(1), help="Take the first images only.")(command)


def option_group(name: str, kind: type[Any], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command and hands them to it as one object.

    Args:
        name: the command's parameter that takes the object.
        kind: a dataclass whose fields are called as the options' parameters are; the object is one of it.
        options: `click.option(...)` and the like, in the order in which --help lists them.
    """
    fields = [field.name for field in dataclasses.fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def grouped(**arguments: Any) -> None:
            command(**{name: kind(**{field: arguments.pop(field) for field in fields})}, **arguments)

        return _with_options(grouped, *options)

    return decorate


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options so that --help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command

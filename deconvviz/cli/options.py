"""Options that several commands share; those that belong together reach a command as one object."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import click

from deconvviz.choices import OUTPUTS, PRECISIONS, RULE_CHOICES
from deconvviz.cli.numbers import LARGEST_SEED, FiniteRange
from deconvviz.data.parallel import cores
from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.run.options import RunOptions

Command = Callable[..., None]
AUTOMATIC_BATCH = "16; 64 on a GPU"
OF_THE_MODEL = "[default: the model's own]"
DECODING = "Threads that decode images."


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images become a network's input.

    Attributes:
        resize: length of the shorter side before the crop, in pixels; None takes the model's own.
        side: of the network's square input, in pixels; None takes the model's own.
        mean: means of the channels, as text; None takes the model's own.
        std: standard deviations of the channels, as text; None takes the model's own.
        limits: the values of black and white, as text; None takes those of `Preprocess`.
        shown: channels of the images that figures show, as text; None takes those of `Preprocess`.
    """

    resize: int | None
    side: int | None
    mean: str | None
    std: str | None
    limits: str | None
    shown: str | None


@dataclasses.dataclass(frozen=True)
class ModelOptions(ImageOptions):
    """Which weights a model has, how its images are prepared, and where it runs.

    Attributes:
        weights: "DEFAULT", "none" or the path of a state dict.
        device: "auto", "cpu", "cuda", ...
        outputs: how the output becomes probabilities, one of `choices.OUTPUTS`.
        part: name of the module of the model that is taken; None takes the whole model.
    """

    weights: str
    device: str
    outputs: str
    part: str | None

    def spec_of(self, model: str) -> str:
        """Return the name of a model with the part of it that is asked for, as `load_model` takes it."""
        return f"{model}#{self.part}" if self.part else model


def _sizes_and_means() -> list[Callable[[Command], Command]]:
    """Return the options --resize, --input, --mean and --std."""
    return [
        click.option(
            "--resize",
            type=click.IntRange(1),
            help=f"Length of the shorter side before the crop, in pixels.  {OF_THE_MODEL}",
        ),
        click.option(
            "--input",
            "side",
            type=click.IntRange(1),
            help=f"Side of the network's square input (a central crop), in pixels.  {OF_THE_MODEL}",
        ),
        click.option(
            "--mean", help=f"Means of the channels for the normalisation, such as 0.485,0.456,0.406.  {OF_THE_MODEL}"
        ),
        click.option("--std", help=f"Standard deviations of the channels, such as 0.229,0.224,0.225.  {OF_THE_MODEL}"),
    ]


def image_options(command: Command) -> Command:
    """Add --resize, --input, --mean, --std, --range and --image-channels; they reach the command as `prepared`."""
    options = (*_sizes_and_means(), range_option, image_channels_option)
    return option_group("prepared", ImageOptions, *options)(command)


def model_options(command: Command, part: str = "--part") -> Command:
    """Add --weights, --resize, --input, --mean, --std, --device and others; they reach the command as `options`.

    Args:
        command: the function of the command.
        part: name of the option for a part of the model, in a command that has another --part.
    """
    add_options = option_group(
        "options",
        ModelOptions,
        click.option(
            "--weights",
            default="DEFAULT",
            metavar="DEFAULT|FILE|none",
            help="DEFAULT downloads the model's own weights; FILE is a state dict; none makes random weights.",
        ),
        *_sizes_and_means(),
        device_option,
        click.option(
            "--outputs",
            default="auto",
            type=click.Choice(OUTPUTS),
            help="What the network returns: scores of classes that exclude each other (softmax), of labels that may "
            "hold together (sigmoid), or probabilities; auto tells it by the network's end.",
        ),
        click.option(
            part,
            "part",
            metavar="MODULE",
            help="Name of a module of the model to take in the place of all of it, such as the backbone of a detector. "
            "It has to take images by itself. MODEL#MODULE means the same.  [default: all of the model]",
        ),
        range_option,
        image_channels_option,
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
    """Return a decorator that adds options of `RunOptions` to a command; they reach it as `run`.

    --quiet is always added. Of the other options a command has those whose help text is given.

    Args:
        batch_size: help text of --batch-size.
        default_batch: default of --batch-size; None lets `RunOptions` choose by the device.
        precision: help text of --precision.
        workers: help text of --workers.
        seed: help text of --seed.
    """
    batch_help = batch_size if default_batch else f"{batch_size}  [default: {AUTOMATIC_BATCH}]"
    options = {
        "batch_size": (
            batch_size,
            click.option("--batch-size", type=click.IntRange(1), default=default_batch, help=batch_help),
        ),
        "precision": (
            precision,
            click.option("--precision", default="fp32", type=click.Choice(PRECISIONS), help=precision),
        ),
        "workers": (
            workers,
            click.option(
                "--workers",
                default=cores,
                show_default="one for each processor",
                type=click.IntRange(1),
                help=workers,
            ),
        ),
        "seed": (seed, click.option("--seed", default=0, type=click.IntRange(0, LARGEST_SEED), help=seed)),
    }
    names = [name for name, (text, _) in options.items() if text is not None]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def grouped(*, quiet: bool, **arguments: Any) -> None:
            run = RunOptions(progress=not quiet, **{name: arguments.pop(name) for name in names})
            command(run=run, **arguments)

        quiet_option = click.option("--quiet", is_flag=True, help="Show no progress bar.")
        return with_options(grouped, *(options[name][1] for name in names), quiet_option)

    return decorate


def range_option(command: Command) -> Command:
    """Add --range, the values of black and of white; they reach the command as `limits`."""
    text = (
        "Values of black and of white, for float images: for figures, and for what covers pixels.  [default: 0,1; two "
        "deviations around a mean that lies outside of it]"
    )
    return click.option("--range", "limits", metavar="LOW,HIGH", help=text)(command)


def image_channels_option(command: Command) -> Command:
    """Add --image-channels, the channels of the images that figures show; they reach the command as `shown`."""
    text = (
        "Channels of the images that figures show, from 0: three as red, green and blue, such as 3,2,1, or one as "
        "grey.  [default: the first three, or the first]"
    )
    return click.option("--image-channels", "shown", metavar="R,G,B", help=text)(command)


def device_option(command: Command) -> Command:
    """Add --device."""
    text = "Where to compute: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."
    return click.option("--device", default="auto", help=text)(command)


def classes_option(command: Command) -> Command:
    """Add --classes, a file with the names of the network's outputs; its path reaches the command as `names`."""
    text = "File with the names of the network's outputs, one a line, in their order.  [default: the model's own names]"
    return click.option("--classes", "names", metavar="FILE", help=text)(command)


def names_option(command: Command) -> Command:
    """Add --names, a table with the names of filters; its path reaches the command as `concepts`."""
    text = "Names of filters: the table that `deconvviz dissect` wrote, or one with the columns layer, channel, name."
    return click.option("--names", "concepts", metavar="CSV", help=text)(command)


def explainer_option(command: Command) -> Command:
    """Add --explainer, the files of trained explainers; their paths reach the command as `explainer_files`."""
    text = "File that `deconvviz train-cam` wrote, for a method that is trained; give one for each such method."
    return click.option("--explainer", "explainer_files", metavar="FILE", multiple=True, help=text)(command)


def figure_options(columns: str | None = None, width: str = "--width") -> Callable[[Command], Command]:
    """Return a decorator that adds --title, --width, --dpi and --no-caption; they reach the command as `page`.

    Args:
        columns: help text of --columns; a command whose figure has no rows of equal things is without it.
        width: name of the option for the width, in a command that has another --width.
    """
    options = [
        click.option("--title", help="Text above the figure; '' for none.  [default: the figure's own]"),
        click.option(
            width,
            "page_width",
            type=FiniteRange(1, 60),
            metavar="INCHES",
            help="Width of the figure, such as 3.3 for a column of a paper; letters keep their size."
            "  [default: the figure's own]",
        ),
        click.option(
            "--dpi",
            type=click.IntRange(30, 1200),
            help="Pixels per inch.  [default: about 200]",
        ),
        click.option("--caption/--no-caption", default=True, help="Whether the caption stands below the figure."),
    ]
    if columns is not None:
        options.append(
            click.option(
                "--columns", type=click.IntRange(1), help=f"{columns}  [default: as many as there is room for]"
            )
        )
    fields = {"title": "title", "width": "page_width", "dpi": "dpi", "caption": "caption"}
    fields |= {"columns": "columns"} if columns is not None else {}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def grouped(**arguments: Any) -> None:
            page = Page(**{field: arguments.pop(parameter) for field, parameter in fields.items()})
            command(page=page, **arguments)

        return with_options(grouped, *options)

    return decorate


def layers_option(text: str, required: bool = False) -> Callable[[Command], Command]:
    """Return a decorator that adds -l/--layer, which may be given several times; the names arrive as `layers`."""
    return click.option("-l", "--layer", "layers", multiple=True, required=required, help=text)


def rule_option(command: Command) -> Command:
    """Add --rule, the rule by which a unit's signal goes back to the pixels."""
    text = (
        "How the signal goes back to the pixels. auto measures which rule's strongest pixels bring back most of the "
        "units' activations, and takes the paper's deconvnet where it has switches and is as good as the best."
    )
    return click.option("--rule", default="auto", type=click.Choice(RULE_CHOICES), help=text)(command)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averages:
    """Over which changed images projections are averaged.

    Attributes:
        shifts: small shifts of the image; 1 is none.
        noise: standard deviation of the noise, as a share of the image's range; 0 is none.
    """

    shifts: int
    noise: float

    def averages(self) -> dict[str, Any]:
        """Return the options of `SignalOptions` that average."""
        return {"shifts": self.shifts, "noise": self.noise}

    def words(self) -> str:
        """Return what is averaged over, for a caption; "" where nothing is."""
        shifts = f" over {self.shifts} shifts of the image" if self.shifts > 1 else ""
        noise = f" over noisy images ({self.noise:g} of the image's range)" if self.noise else ""
        return f" Projections are means{shifts}{noise}." if shifts or noise else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionOptions(Averages):
    """How units are projected.

    Attributes:
        rule: one of `choices.RULE_CHOICES`.
    """

    rule: str


def _averages_options() -> tuple[Callable[[Command], Command], ...]:
    shifts = "Average over so many small shifts of the image (4, 9, 16), which removes the phase of strided filters."
    noise = (
        "Average over 16 noisy images; the noise's standard deviation, as a share of the image's range, such as 0.1."
    )
    return (
        click.option("--shifts", default=1, type=click.IntRange(1), help=shifts),
        click.option("--noise", default=0.0, type=FiniteRange(0), help=noise),
    )


def averages_options(command: Command) -> Command:
    """Add --shifts and --noise; they reach the command as `averages`, an `Averages`."""
    return option_group("averages", Averages, *_averages_options())(command)


def projection_options(command: Command) -> Command:
    """Add --rule, --shifts and --noise; they reach the command as `projection`, a `ProjectionOptions`."""
    return option_group("projection", ProjectionOptions, rule_option, *_averages_options())(command)


def limit_option(command: Command) -> Command:
    """Add --limit, the number of images that are taken."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        metavar="N",
        help="Take only N images, spread over the classes and the store.  [default: all]",
    )(command)


def shard_option(text: str) -> Callable[[Command], Command]:
    """Return a decorator that adds --shard i/n; it reaches the command as (i, n), or None."""

    def read(_: click.Context, __: click.Parameter, shard: str | None) -> tuple[int, int] | None:
        if shard is None:
            return None
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        if not match or not int(match[1]) < int(match[2]):
            raise DataError(f"shard {shard!r} given; expected i/n with i from 0 to n - 1, such as 0/4")
        return int(match[1]), int(match[2])

    return click.option("--shard", metavar="i/n", callback=read, help=text)


def option_group(name: str, kind: type[Any], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command; they reach it as one object.

    Args:
        name: the command's parameter that takes the object.
        kind: the object's dataclass; its fields have the names of the options' parameters.
        options: `click.option(...)` and the like, in the order in which --help lists them.
    """
    fields = [field.name for field in dataclasses.fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def grouped(**arguments: Any) -> None:
            command(**{name: kind(**{field: arguments.pop(field) for field in fields})}, **arguments)

        return with_options(grouped, *options)

    return decorate


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options to a command so that --help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command

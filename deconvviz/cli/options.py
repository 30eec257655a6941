"""Options that several commands share, and how a command loads a network."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.errors import CaptureError, DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.models.load import Loaded

PROJECTION_NOTE = (
    "A deconvnet or guided projection shows which pixels reached the unit, and changes little when the network's "
    "weights are randomised: it is no evidence for what the network decides."
)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What the shared options say of the model and of how images reach it."""

    weights: str
    resize: int | None
    crop: int | None
    mean: str | None
    std: str | None
    device: str


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --weights, --resize, --input, --mean, --std and --device, handed to the command as one `options`."""
    fields = [field.name for field in dataclasses.fields(ModelOptions)]

    @functools.wraps(command)
    def gathered(**arguments: Any) -> None:
        command(options=ModelOptions(**{name: arguments.pop(name) for name in fields}), **arguments)

    wrapped: Callable[..., None] = gathered
    for option in (
        device_option,
        click.option("--std", help="Channel standard deviations of the normalisation, as 0.229,0.224,0.225."),
        click.option("--mean", help="Channel means of the normalisation, as 0.485,0.456,0.406."),
        click.option(
            "--input",
            "crop",
            type=click.IntRange(1),
            help="Side of the network's square input (centre crop). [default: the model's own]",
        ),
        click.option(
            "--resize", type=click.IntRange(1), help="Shorter side before the crop. [default: the model's own]"
        ),
        click.option(
            "--weights",
            default="DEFAULT",
            show_default=True,
            metavar="DEFAULT|FILE|none",
            help="DEFAULT downloads the model's own; FILE is a state dict; none is random.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def numbers(text: str, such_as: str = "0.485,0.456,0.406") -> tuple[float, ...]:
    """Read comma-separated numbers; raises DataError, with an example, for other text."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected numbers such as {such_as}") from None


def load(model: str, options: ModelOptions) -> tuple[Loaded, Preprocess]:
    """Load a model and how its images are prepared, with the command line's changes to that."""
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import load_model

    loaded = load_model(model, options.weights)
    preprocess = Preprocess.from_dict(loaded.settings)
    resize = options.resize
    if options.crop and not resize and preprocess.resize and preprocess.resize < options.crop:
        resize = options.crop
    mean, std = (text and numbers(text) for text in (options.mean, options.std))
    changes: dict[str, Any] = {"resize": resize, "crop": options.crop, "mean": mean, "std": std}
    return loaded, dataclasses.replace(preprocess, **{key: value for key, value in changes.items() if value})


def captured(loaded: Loaded, preprocess: Preprocess, device: str) -> Network:
    """Capture a loaded model on a device."""
    from deconvviz.graph.capture import capture

    place = found_device(device)
    network = capture(loaded.model, preprocess.shape)
    return network if place.type == "cpu" else network.to(place)


def read_image(path: str) -> NDArray[np.uint8]:
    """Read an image file, uint8 [H, W, 3]; raises DataError where there is none, or it cannot be read."""
    from deconvviz.data.decode import decode

    if not pathlib.Path(path).is_file():
        raise DataError(f"no image {path}; give the path of a photo")
    return decode(pathlib.Path(path).read_bytes())


def found_device(name: str) -> torch.device:
    """Return the device of that name, "auto" being a GPU if there is one; raises CaptureError for an unusable one."""
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CaptureError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try --device cpu") from error


def device_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add --device."""
    explained = "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."
    return click.option("--device", default="auto", show_default=True, help=explained)(command)


def classes_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add --classes, a file with the names of the network's outputs."""
    told = "Names of the network's outputs, one a line in their order.  [default: the model's own, where it has them]"
    return click.option("--classes", "names", metavar="FILE", help=told)(command)


def explainer_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add --explainer, what `train-cam` wrote, for methods that are trained."""
    told = "What `deconvviz train-cam` wrote, for a method that is trained; one for each of them."
    return click.option("--explainer", "trained", metavar="FILE", multiple=True, help=told)(command)


def output_names(loaded: Loaded, names: str | None) -> tuple[str, ...]:
    """Return the names of the network's outputs: from the file given, else the model's own; empty where unknown."""
    from deconvviz.models.labels import read_classes

    return loaded.classes if names is None else read_classes(names)


def matched_outputs(
    images: Images, network: Network, names: Sequence[str], needed: bool, otherwise: str
) -> NDArray[np.int64] | None:
    """Return the output that stands for each class of the images, int64 [classes], or None where that cannot be told.

    needed: then raise DataError instead; otherwise: what the user is told in that case.
    """
    from deconvviz.models.labels import outputs_of

    try:
        return outputs_of(images.classes, network.outputs, names)
    except DataError as error:
        if needed:
            raise
        click.echo(f"note: {otherwise}: {error}", err=True)
        return None


def integers(text: str) -> tuple[int, ...]:
    """Read comma-separated whole numbers; raises DataError for other text."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected whole numbers such as 1,2,5") from None


def channels_of(text: str) -> str | list[int]:
    """Read which channels to show: a word, or numbers and ranges; raises DataError for other text."""
    if text in ("active", "random", "first"):
        return text
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise DataError(f"channels {text!r} given; expected active, random, first or numbers such as 5,40,100-110")
        chosen += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(chosen))


def sources(loaded: Loaded) -> dict[str, str]:
    """Where a result's model and weights were, and the command."""
    weights = loaded.weights
    if weights not in ("DEFAULT", "none"):
        weights = str(pathlib.Path(weights).resolve())
    spec = loaded.spec
    if ".py:" in spec:
        file, _, factory = spec.rpartition(":")
        spec = f"{pathlib.Path(file).resolve()}:{factory}"
    return {"model": spec, "weights": weights, "command": command_line()}


_RUNNING: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("running")


def command_line() -> str:
    """The command that is running, as the user could type it again."""
    return shlex.join(["deconvviz", *_RUNNING.get(tuple(sys.argv[1:]))])


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Say that this command is running: one that another command runs, and could as well be typed."""
    token = _RUNNING.set(tuple(arguments))
    try:
        yield
    finally:
        _RUNNING.reset(token)


def save_figure(figure: Figure, out: str, caption: str) -> None:
    """Write a figure atomically, with its caption and command in its metadata."""
    from deconvviz.figures.tiles import format_of, rendered
    from deconvviz.results.files import atomic

    content = rendered(figure, format_of(out), f"{caption}\n{command_line()}")
    with atomic(out) as temporary:
        temporary.write_bytes(content)
    click.echo(f"wrote {out}")


def check_figure(out: str) -> None:
    """Refuse a figure's name before the work, not after it."""
    from deconvviz.figures.tiles import format_of
    from deconvviz.results.files import atomic

    format_of(out)
    folder = pathlib.Path(out).resolve().parent
    if not folder.is_dir() or pathlib.Path(out).is_dir():
        with atomic(out):
            pass

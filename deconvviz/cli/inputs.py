"""What commands read: models, images, classes, and numbers that were typed."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deconvviz.cli.options import ModelOptions
from deconvviz.errors import CaptureError, DataError, TargetError, nearest

if TYPE_CHECKING:
    import torch

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel
    from deconvviz.types import Ints, Pixels


class OpenedModel(NamedTuple):
    """A model as a command works with it.

    Attributes:
        network: captured, on the device that computes.
        preprocess: how an image becomes its input.
        loaded: the module, its class names, and where it came from.
    """

    network: Network
    preprocess: Preprocess
    loaded: LoadedModel


def open_model(model: str, options: ModelOptions) -> OpenedModel:
    """Load and capture a model with the command line's changes to its preprocessing."""
    loaded, preprocess = load(model, options)
    return OpenedModel(captured(loaded, preprocess, options.device), preprocess, loaded)


def load(model: str, options: ModelOptions) -> tuple[LoadedModel, Preprocess]:
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


def captured(loaded: LoadedModel, preprocess: Preprocess, device: str) -> Network:
    """Capture a loaded model on a device."""
    from deconvviz.graph.capture import capture

    target = found_device(device)
    network = capture(loaded.model, preprocess.shape)
    return network if target.type == "cpu" else network.to(target)


def found_device(name: str) -> torch.device:
    """Return the device of that name, "auto" being a GPU if there is one; raises CaptureError for an unusable one."""
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CaptureError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try --device cpu") from error


def read_image(path: str) -> Pixels:
    """Read an image file, uint8 [H, W, 3]; raises DataError where there is none, or it cannot be read."""
    from deconvviz.data.decode import decode

    if not pathlib.Path(path).is_file():
        raise DataError(f"no image {path}; give the path of a photo")
    return decode(pathlib.Path(path).read_bytes())


def output_names(loaded: LoadedModel, names: str | None) -> tuple[str, ...]:
    """Return the names of the network's outputs: from the file given, else the model's own; empty where unknown."""
    from deconvviz.models.labels import read_classes

    return loaded.classes if names is None else read_classes(names)


def matched_outputs(
    images: Images, network: Network, names: Sequence[str], required: bool, otherwise: str
) -> Ints | None:
    """Return the output that stands for each class of the images, int64 [classes]; None where that is unknown.

    Args:
        images: labelled images.
        network: whose outputs they are.
        names: of the outputs, empty where unknown.
        required: raise DataError instead of returning None.
        otherwise: what the user is told in that case.
    """
    from deconvviz.models.labels import outputs_of

    try:
        return outputs_of(images.classes, network.outputs, names)
    except DataError as error:
        if required:
            raise
        click.echo(f"note: {otherwise}: {error}", err=True)
        return None


def class_number(text: str | None, names: Sequence[str]) -> int | None:
    """Read the number or the name of a class; raises TargetError for a name that does not exist."""
    if text is None or text.isdigit():
        return None if text is None else int(text)
    if text not in names:
        advice = (
            nearest(text, names) if names else "the model's outputs have no names; give a number, or --classes FILE"
        )
        raise TargetError(f"no class {text!r}; {advice}")
    return names.index(text)


def numbers(text: str, example: str = "0.485,0.456,0.406") -> tuple[float, ...]:
    """Read comma-separated numbers; raises DataError, with an example, for other text."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected numbers such as {example}") from None


def integers(text: str) -> tuple[int, ...]:
    """Read comma-separated whole numbers; raises DataError for other text."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected whole numbers such as 1,2,5") from None


def names_of(text: str) -> list[str]:
    """Read comma-separated names."""
    return [name.strip() for name in text.split(",")]


def channels_of(text: str) -> str | list[int]:
    """Read which channels to show: a word, or numbers and ranges; raises DataError for other text."""
    if text in ("active", "random", "first"):
        return text
    channels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise DataError(f"channels {text!r} given; expected active, random, first or numbers such as 5,40,100-110")
        channels += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(channels))


def position_of(text: str) -> tuple[int, int]:
    """Read a position on a map, "y,x"; raises DataError for other text.

    >>> position_of("6,7")
    (6, 7)
    """
    y, comma, x = text.partition(",")
    if not comma or not y.strip().isdigit() or not x.strip().isdigit():
        raise DataError(f"position {text!r} given; expected y,x such as 6,7")
    return int(y), int(x)

"""What commands read: models, images, class names, and the text of options."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deconvviz.choices import CHANNEL_CHOICES
from deconvviz.cli.dependent import typed
from deconvviz.cli.options import ImageOptions, ModelOptions
from deconvviz.errors import CaptureError, DataError
from deconvviz.lengths import same_share
from deconvviz.run.opening import captured
from deconvviz.words import counted, network_called

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel
    from deconvviz.run.directions import Learn
    from deconvviz.run.shipping import RemoteModel
    from deconvviz.types import Ints, Pathlike, Picture

    LearnWith = Callable[[Network, Preprocess], Learn]

MOST_CHANNELS = 1_000_000  # in a range that is typed; no layer has so many


class OpenedModel(NamedTuple):
    """A model as a command works with it.

    Attributes:
        network: the captured network, on the device that computes.
        preprocess: how an image becomes the network's input.
        loaded: the module, the names of its outputs, and where it came from.
    """

    network: Network
    preprocess: Preprocess
    loaded: LoadedModel

    @property
    def name(self) -> str:
        """What figures call the network: its name in the library that it comes from, or that of its class."""
        return network_called(self.loaded.spec, self.network.name)


def open_model(
    model: str, options: ModelOptions, layers: Sequence[str] = (), learn: LearnWith | None = None
) -> OpenedModel:
    """Load a model and capture it.

    Args:
        model: the model's name, as for `load_model`.
        options: weights, device, and changes to the model's own preprocessing.
        layers: names of layers that the command takes; those of the form LAYER[FILE] are added to the network.
        learn: from network and preprocessing to what learns directions for names LAYER[KIND:COUNT]; None where there
            are no images.

    Raises:
        ModelError: the model or its weights cannot be loaded.
        CaptureError: the model cannot be captured, or the device cannot be used.
        DataError: an option of the preprocessing is invalid, or a file of directions cannot be read.
        MismatchError: directions were learned at another layer, or in another network.
    """
    return opened_model(*load(model, options), options, layers, learn)


def opened_model(
    loaded: LoadedModel,
    preprocess: Preprocess,
    options: ModelOptions,
    layers: Sequence[str] = (),
    learn: LearnWith | None = None,
) -> OpenedModel:
    """Capture a model that is loaded; see `open_model`."""
    network = captured(loaded, preprocess, options.device, options.outputs)
    if any("[" in layer for layer in layers):
        from deconvviz.run.directions import with_named_directions

        network = with_named_directions(network, layers, learn and learn(network, preprocess))
    return OpenedModel(network, preprocess, loaded)


def remote_model(model: str, options: ModelOptions, preprocess: Preprocess) -> RemoteModel:
    """Return what the nodes of a cluster have to know to open the same model."""
    from deconvviz.run.shipping import RemoteModel

    return RemoteModel.of(options.spec_of(model), options.weights, options.outputs, preprocess, options.device)


def load(model: str, options: ModelOptions, uses_weights: bool = True) -> tuple[LoadedModel, Preprocess]:
    """Load a model and its preprocessing, with the changes that the command line asks for; see `open_model`.

    A note says where the weights are whatever a Python file made, unless `uses_weights` says that they do not matter.
    """
    from deconvviz.models.load import load_model

    loaded = load_model(options.spec_of(model), options.weights)
    if uses_weights and ".py:" in model and options.weights == "DEFAULT":
        file, _, factory = model.rpartition(":")
        click.echo(
            f"note: the weights are those with which {factory} of {pathlib.PurePath(file).name} returned the network: "
            "random ones, unless it loads trained ones itself; --weights FILE loads them from a file",
            err=True,
        )
    return loaded, preprocess_of(loaded.settings, options, trained=loaded.weights != "none")


def preprocess_of(settings: Mapping[str, Any], options: ImageOptions, trained: bool = True) -> Preprocess:
    """Return how images become a network's input, and print it with what of it is assumed.

    Args:
        settings: arguments of `Preprocess`, as they are known of the network.
        options: the changes that the command line asks for.
        trained: whether the network was trained on images, which had a mean and a standard deviation.

    Raises:
        DataError: an option is invalid.
    """
    from deconvviz.data.preprocess import Preprocess

    resize = options.resize
    any_size = {"resize", "crop"} <= {*settings} and settings["resize"] is None and settings["crop"] is None
    if resize is None and options.side and (any_size or not {"resize", "crop"} & {*settings}):
        resize = options.side  # nothing is known of how it was trained: all of an image, not the middle of it
    preprocess = with_input(Preprocess.from_dict(settings), options.side, resize)
    mean, std = (text and numbers(text) for text in (options.mean, options.std))
    changes: dict[str, Any] = {"mean": mean, "std": std}
    changes["limits"] = options.limits and numbers(options.limits, "0,1")
    changes["shown"] = options.shown and integers(options.shown)
    preprocess = dataclasses.replace(preprocess, **{key: value for key, value in changes.items() if value})
    click.echo(f"images: {preprocess.words()}{_assumed(settings, options, trained)}", err=True)
    return preprocess


def _assumed(settings: Mapping[str, Any], options: ImageOptions, trained: bool) -> str:
    """Return words that say which parts are assumed, because nobody gave any; "" where there are none."""
    size = not ({"resize", "crop"} & {*settings} or options.side or options.resize)
    values = trained and not ({"mean", "std"} & {*settings} or options.mean or options.std)
    if not size and not values:
        return ""
    parts = ["224 px"] * size + ["ImageNet's mean and standard deviation"] * values
    given = ["--input and --resize"] * size + ["--mean and --std"] * values
    return f"; {' and '.join(parts)} are assumed, because nothing is known: {', '.join(given)} give others"


def with_input(preprocess: Preprocess, side: int | None, resize: int | None) -> Preprocess:
    """Return the preprocessing for a square input of another side.

    Args:
        preprocess: the model's own.
        side: of the input in pixels; None leaves it as it is.
        resize: length of the shorter side before the crop in pixels. By default the crop keeps its share of the image:
            of 224 px out of 256 become 64 px out of 73.

    >>> from deconvviz.data.preprocess import Preprocess
    >>> with_input(Preprocess(resize=256, crop=224), 64, None).resize
    73
    """
    if side is None:
        return dataclasses.replace(preprocess, resize=resize) if resize else preprocess
    if not resize and preprocess.resize:
        own = preprocess.resize if isinstance(preprocess.resize, int) else min(preprocess.resize)
        own_side = min(preprocess.shape[1:]) if preprocess.crop else own
        resize = same_share(own, own_side, side)
    return dataclasses.replace(preprocess, resize=resize or preprocess.resize, crop=side)


def are_photos(paths: Sequence[str]) -> bool:
    """Return whether images that are given are picture files, and not one store, folder or set of scenes.

    >>> are_photos(["a.png"]), are_photos(["a.h5", "b.h5"]), are_photos(["photos.h5"]), are_photos(["scenes:20"])
    (True, True, False, False)
    """
    first = pathlib.Path(paths[0])
    one_set = first.suffix == ".h5" or first.is_dir() or paths[0].startswith(("scenes", "gpu:"))
    return len(paths) > 1 or not one_set


def say_what_is_left_out(images: Images, labels: str | None) -> None:
    """Say how many images with several labels have none that is known; `labels` is the path of a table, or None."""
    from deconvviz.data.datasets import has_several_labels

    if has_several_labels(images) and not images.known.all():
        lacking = f"no row in {labels}" if labels else "none of the store's labels"
        click.echo(f"{int((~images.known).sum())} of {len(images)} images have {lacking}: left out", err=True)


def image_file(path: str) -> pathlib.Path:
    """Return the path of an image's file; raises DataError where there is none."""
    file = pathlib.Path(path)
    if file.is_dir():
        raise DataError(f"{path} is a folder; give the path of a photo in it")
    if not file.is_file():
        raise DataError(f"no image {path}; give the path of a photo")
    return file


def read_image(path: str) -> Picture:
    """Read a picture, uint8 or uint16 [H, W, 3], or an array [H, W, C], as `deconvviz pack --raw` takes it.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    from deconvviz.data.array_files import is_array_file, read_array
    from deconvviz.data.decode import decode

    file = image_file(path)
    try:
        return read_array(file) if is_array_file(file) else decode(file.read_bytes())
    except DataError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def output_names(
    loaded: LoadedModel, names: str | None, network: Network, images: Images | None = None
) -> tuple[str, ...]:
    """Return the names of a network's outputs, see `names_of_outputs`; a note says where they are assumed.

    Args:
        loaded: the model, whose own names are taken where no file is given.
        names: path of a file with the names, or None.
        network: the model, captured.
        images: whose classes may give the names.

    Returns:
        The names; empty where they are unknown, or where the network returns no score for each class.

    Raises:
        DataError: the file, or without one the model, has more names or fewer than the network has outputs.
    """
    from deconvviz.models.labels import IMAGENET, imagenet_names, names_of_outputs, read_classes

    own_names = loaded.classes if names is None else read_classes(names)
    try:
        outputs = network.width
    except CaptureError:
        return own_names
    if len(own_names) not in ({max(outputs, 2)} if names is not None else {0, outputs, max(outputs, 2)}):
        where = f"by {loaded.spec}; give others with --classes" if names is None else f"in {names}; give one for each"
        raise DataError(f"{len(own_names)} class names given for {counted(outputs, 'output')} {where}")
    if own_names:
        return own_names if outputs > 1 else names_of_outputs(outputs, own_names)
    named = names_of_outputs(outputs, classes=() if images is None else images.classes)
    if outputs == IMAGENET and named == imagenet_names():
        click.echo(
            f"note: the model does not name its {IMAGENET} outputs; the names of ImageNet's classes are assumed: "
            "--classes FILE gives others",
            err=True,
        )
    return named


def folder_and_name(path: Pathlike) -> str:
    """Return what an image is called in tables and figures: its folder, often that of its class, and its name.

    >>> folder_and_name("/data/photos/tabby/0900.jpg"), folder_and_name("cat.jpg")
    ('tabby/0900.jpg', 'cat.jpg')
    """
    return "/".join(pathlib.Path(path).parts[-2:]) if pathlib.Path(path).parent.name else pathlib.Path(path).name


def matched_outputs(
    images: Images, network: Network, names: Sequence[str], required: bool, otherwise: str, decides: bool = True
) -> Ints | None:
    """Return the output that stands for each class of the images.

    Args:
        images: labelled images.
        network: the network that has the outputs.
        names: names of the outputs; empty where they are unknown.
        required: whether the command cannot go on where classes and outputs cannot be matched.
        otherwise: what the command does without them, for a note to the user.
        decides: whether the command needs a network that decides; others go on with one that returns no scores.

    Returns:
        int64 [classes], or None where classes and outputs cannot be matched.

    Raises:
        DataError: they cannot be matched, and `required` is set.
        CaptureError: the network returns no scores of classes, and `required` or `decides` is set.
    """
    from deconvviz.models.labels import outputs_of

    try:
        return outputs_of(images.classes, network.width, names)
    except (DataError, CaptureError) as error:
        if required or (decides and isinstance(error, CaptureError)):
            raise
        click.echo(f"note: {otherwise}: {error}", err=True)
        return None


def class_number(text: str | None, names: Sequence[str]) -> int | None:
    """Return the number of a class from its number or its name as text; None stays None.

    Args:
        text: what the user typed.
        names: names of the outputs; empty where they are unknown.

    Raises:
        TargetError: no output has this name, or several have it.

    >>> class_number("owl", ["cat", "owl"]), class_number("7", [])
    (1, 7)
    """
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    from deconvviz.models.labels import output_named

    return output_named(text, names)


def numbers(text: str, example: str = "0.485,0.456,0.406") -> tuple[float, ...]:
    """Read comma-separated numbers; raises DataError, with an example, for other text.

    >>> numbers("0.5,1e-3")
    (0.5, 0.001)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected numbers such as {example}") from None


def integers(text: str) -> tuple[int, ...]:
    """Read comma-separated whole numbers; raises DataError for other text.

    >>> integers("1,2,5")
    (1, 2, 5)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{text!r} given; expected whole numbers such as 1,2,5") from None


def names_of(text: str) -> list[str]:
    """Read comma-separated names.

    >>> names_of("grad-cam, rise")
    ['grad-cam', 'rise']
    """
    return [name.strip() for name in text.split(",")]


def channels_of(text: str, how_many: str | None = None) -> str | list[int]:
    """Read which channels to show.

    Args:
        text: one of CHANNEL_CHOICES, or comma-separated numbers and ranges.
        how_many: the command's parameter that says how many a word stands for, if it has one.

    Returns:
        The word, or the numbers.

    Raises:
        DataError: the text is something else; or it is numbers, and how many was given, too.

    >>> channels_of("5,40,100-103"), channels_of("active")
    ([5, 40, 100, 101, 102, 103], 'active')
    """
    if text in CHANNEL_CHOICES:
        return text
    channels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numeric = first.isdecimal() and (last.isdecimal() or not dash)
        if not numeric or not 0 <= int(last or first) - int(first) < MOST_CHANNELS:
            raise DataError(
                f"channels {text!r} given; expected {', '.join(CHANNEL_CHOICES)} or numbers such as 5,40,100-110"
            )
        channels += range(int(first), int(last or first) + 1)
    if how_many is not None and (given := typed(how_many)):
        raise DataError(
            f"{next(iter(given))} given beside the numbers {text}; it is for {', '.join(CHANNEL_CHOICES)}: leave it out"
        )
    return list(dict.fromkeys(channels))


def position_of(text: str) -> tuple[int, int]:
    """Read a position on a map, "y,x"; raises DataError for other text.

    >>> position_of("6,7")
    (6, 7)
    """
    y, comma, x = text.partition(",")
    if not comma or not y.strip().isdecimal() or not x.strip().isdecimal():
        raise DataError(f"position {text!r} given; expected y,x such as 6,7")
    return int(y), int(x)

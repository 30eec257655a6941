"""deconvviz visualise: what a network would like best."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import CANVASES, OBJECTIVES
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import (
    OpenedModel,
    channels_of,
    class_number,
    open_model,
    output_names,
    position_of,
    read_image,
)
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import (
    ModelOptions,
    classes_option,
    figure_options,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, check_place, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.studies.visualisation.captions import NOT_A_PHOTO, caption_of, title_of
from deconvviz.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.results.directions import Directions
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.visualisation.result import Inversion, Visualisation
    from deconvviz.types import Floats

MOST = 100  # pictures on one page
MOST_MINED = 9  # channels that are taken where a mined file is given and no channels are


@dataclass(frozen=True, kw_only=True)
class WantedChoice:
    """What a picture is to make large.

    Attributes:
        objective: one of `choices.OBJECTIVES`; None is "class" where classes are given, "direction" where a file of
            directions is, and "channel" otherwise.
        channels: numbers as text; None takes those that a mined file ranks first.
        targets: classes, by number or name.
        position: of the unit, "y,x".
        directions: path of a file of directions, .npz or .npy.
        image: path of the picture to begin with.
    """

    objective: str | None
    channels: str | None
    targets: tuple[str, ...]
    position: str | None
    directions: str | None
    image: str | None

    def kind(self) -> str:
        """Return the objective; raises DataError where two were asked for."""
        implied = "class" if self.targets else "direction" if self.directions else self.objective or "channel"
        if self.objective not in (None, implied) and (self.objective, implied) != ("cosine", "direction"):
            given = "--target" if self.targets else "--direction"
            raise DataError(f"--objective {self.objective} and {given} given; leave one of them out")
        return self.objective or implied


@dataclass(frozen=True, kw_only=True)
class Ascending:
    """How a picture is optimised; see `VisualisationOptions`."""

    canvas: str
    steps: int
    rate: float | None
    size: int | None
    views: int | None
    distort: bool
    variants: int
    diversity: float
    tv: float
    l2: float

    def keywords(self) -> dict[str, Any]:
        """Return these options as keyword arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _wanted_options() -> tuple[Any, ...]:
    return (
        click.option(
            "--objective",
            type=click.Choice(OBJECTIVES),
            help="What is made large: the mean of a channel, one unit of it, a class's score, a direction W (mean of "
            "W . A, or its cosine), or the layer's mean square (dream), from noise or from --image.  [default: "
            "channel; class with --target, direction with --direction]",
        ),
        click.option("-c", "--channels", help="Channels of the layer, or rows of --direction, such as 5,40,100-110."),
        click.option(
            "--target",
            "targets",
            multiple=True,
            metavar="CLASS",
            help="A class, by its number or name; give the option several times for several classes.",
        ),
        click.option(
            "--position", metavar="y,x", help="Of --objective unit on the layer's map.  [default: the centre]"
        ),
        click.option(
            "--direction",
            "directions",
            metavar="FILE",
            help="What `deconvviz directions` wrote, .npz, or an array, .npy: a row of numbers for each direction, one "
            "for each channel of the layer.",
        ),
        click.option(
            "--image", metavar="FILE", help="Begin with this picture instead of nearly grey noise (DeepDream)."
        ),
    )


def _ascent_options() -> tuple[Any, ...]:
    positive = FiniteRange(0, min_open=True)
    return (
        click.option(
            "--canvas",
            default="spectral",
            type=click.Choice(CANVASES),
            help="What is optimised: Fourier coefficients in decorrelated colours, plain pixels, or the phase alone, "
            "with the magnitudes of the photos of --store (MACO).",
        ),
        click.option("--steps", default=512, type=click.IntRange(1), help="Steps of the optimiser."),
        click.option("--rate", type=positive, help="Learning rate.  [default: 0.05; 1 of a phase]"),
        click.option(
            "--size",
            type=click.IntRange(8, 2048),
            help="Side of the pictures in pixels.  [default: 128, or the network's input where the layer runs at no "
            "other; that input for a class; 512 for a phase]",
        ),
        click.option(
            "--views", type=click.IntRange(1), help="Views of a picture in a step.  [default: 1; 6 of a phase]"
        ),
        click.option(
            "--distort/--no-distort", default=True, help="Move, scale and turn each view a little, at random."
        ),
        click.option(
            "--variants", default=1, type=click.IntRange(1), help="Pictures of each channel, unlike each other."
        ),
        click.option(
            "--diversity",
            cls=Dependent,
            needs="--variants",
            default=1.0,
            type=FiniteRange(0),
            help="How much they are kept unlike.",
        ),
        click.option("--tv", default=0.0, type=FiniteRange(0), help="Weight of the roughness that is taken off."),
        click.option("--l2", default=0.0, type=FiniteRange(0), help="Weight of the distance from grey."),
    )


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is read or written besides the figure.

    Attributes:
        mined: path of a mined file.
        store: path of the store whose magnitudes a phase takes.
        save: path of the file of the pictures.
    """

    mined: str | None
    store: str | None
    save: str | None


@click.command(epilog=NOT_A_PHOTO)
@click.argument("model")
@click.option("-l", "--layer", help="Name of a layer, as `deconvviz layers MODEL` lists it; none for --target.")
@option_group("wanted", WantedChoice, *_wanted_options())
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; a table OUT.csv comes beside it.")
@option_group("ascent", Ascending, *_ascent_options())
@option_group(
    "files",
    Beside,
    click.option("--mined", metavar="FILE", help="A mined file: each channel's strongest activation is told beside."),
    click.option("--store", metavar="STORE", help="Packed photos whose magnitudes --canvas phase takes."),
    click.option("--save", metavar="FILE.h5", help="Also write the pictures as arrays."),
)
@classes_option
@figure_options("Pictures in a row.")
@run_options(
    batch_size="Pictures that are made at once.",
    default_batch=9,
    precision="Precision of the passes.",
    seed="Of everything that is drawn at random.",
)
@model_options
def visualise(
    model: str,
    layer: str | None,
    wanted: WantedChoice,
    out: str,
    ascent: Ascending,
    files: Beside,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Make the picture that a unit, a channel, a class or a direction would like best.

    Gradient ascent begins with noise, or with --image. What it takes is printed before it begins.

    \b
    Examples:
      deconvviz visualise demo -l conv3 -c 1,5,9 --steps 64 -o wanted.png
      deconvviz visualise torchvision:squeezenet1_0 -l features.7 -c 150 --mined mined.h5 -o wanted.png
      deconvviz visualise torchvision:squeezenet1_0 --target tabby -o tabby.png
      deconvviz visualise torchvision:squeezenet1_0 -l features.7 --objective dream --image cat.jpg -o dream.png
    """
    from deconvviz.studies.visualisation.figure import draw_visualisation
    from deconvviz.studies.visualisation.visualise import visualise as make_pictures

    kind = wanted.kind()
    _check_visualise(layer, out, kind, wanted, ascent, files)
    mined, of_mined = _mined_layer(files.mined, layer, kind)
    channels = _channels(kind, wanted, mined)
    directions = None if wanted.directions is None else _directions(wanted.directions)
    start = None if wanted.image is None else read_image(wanted.image)
    opened = open_model(model, options, [layer] if layer else [])
    outputs = output_names(opened.loaded, names, opened.network) if kind == "class" else ()
    rows = None if directions is None else _rows_of(directions, str(wanted.directions), opened, str(layer))
    if kind == "class":
        channels = [_class_of(target, outputs) for target in wanted.targets]
    elif rows is not None and channels is None:
        channels = list(range(len(rows)))
    spectrum, photos = _spectrum(files.store, opened.preprocess, ascent.size, run)
    visualisation = make_pictures(
        opened.network,
        layer,
        channels or [0],
        preprocess=opened.preprocess,
        spectrum=spectrum,
        mined=mined if kind in ("channel", "unit") else None,
        sources={**sources(opened.loaded), **photos, **of_mined},
        objective=kind,  # type: ignore[arg-type]
        position=None if wanted.position is None else position_of(wanted.position),
        directions=rows,
        start=None if start is None else opened.preprocess.picture(start),
        **ascent.keywords(),
        **run.keywords(),
    )
    caption = caption_of(visualisation, opened.preprocess)
    title = title_of(visualisation, opened.name, outputs)
    shown = opened.preprocess.shown
    save_figure(draw_visualisation(visualisation, title, caption, page, outputs, shown), out, caption)
    write_arrays(visualisation, out, files.save)


def _check_visualise(
    layer: str | None, out: str, kind: str, wanted: WantedChoice, ascent: Ascending, files: Beside
) -> None:
    """Raise DataError, before anything is loaded, where what was typed does not go together."""
    check_figure(out)
    if kind == "class" and not wanted.targets:
        raise DataError("--objective class given; name a class with --target")
    if kind == "class" and layer is not None:
        raise DataError("--layer and --target given; a class is read from the network's output: leave --layer out")
    if kind != "class" and layer is None:
        raise DataError("no layer given; name one with -l, or a class with --target")
    if kind in ("direction", "cosine") and wanted.directions is None:
        raise DataError(f"--objective {kind} given; give the directions with --direction FILE")
    if (files.store is None) == (ascent.canvas == "phase"):
        raise DataError(
            "--canvas phase takes the magnitudes of photos: name a packed store with --store"
            if files.store is None
            else f"--store given; --canvas {ascent.canvas} takes none"
        )
    if files.save:
        check_arrays(files.save)


def check_arrays(path: str) -> None:
    """Raise DataError, before the work, where the file of the pictures has another ending or no folder."""
    if pathlib.Path(path).suffix not in (".h5", ".hdf5"):
        raise DataError(f"--save {path} given; expected a name that ends in .h5")
    check_place(path)


def write_arrays(result: Visualisation | Inversion, out: str, save: str | None) -> None:
    """Write the table beside the figure `out`, and the file of the pictures where one is named; print the result."""
    result.save_csv(beside(out, ".csv"))
    click.echo(f"wrote {beside(out, '.csv')}")
    if save:
        result.save(save)
        click.echo(f"wrote {save}")
    click.echo(repr(result))


def _mined_layer(path: str | None, layer: str | None, kind: str) -> tuple[dict[int, float] | None, dict[str, Any]]:
    """Return channel -> its strongest activation, the most active channels first, and from which mined file it is.

    The file is not told where the pictures are not those of channels.
    """
    if path is None:
        return None, {}
    from deconvviz.studies.mining.result import load_mined

    if layer is None:
        raise DataError("--mined and --target given; what was mined are channels of layers: leave --mined out")
    activity = load_mined(path)[layer].activity
    order = (-activity.mean).argsort(kind="stable")
    origin = {"mined": str(pathlib.Path(path).resolve()), "mined_images": activity.images}
    strongest = {int(channel): float(activity.maximum[channel]) for channel in order}
    return strongest, origin if kind in ("channel", "unit") else {}


def _channels(kind: str, wanted: WantedChoice, mined: dict[int, float] | None) -> list[int] | None:
    """Return the channels that were asked for; None where the file of directions, classes or the layer says which."""
    if wanted.channels is not None:
        if kind in ("class", "dream"):
            raise DataError(f"channels {wanted.channels} given; --objective {kind} takes none: leave -c out")
        channels = channels_of(wanted.channels)
        if isinstance(channels, str):
            raise DataError(f"channels {wanted.channels} given; expected numbers such as 5,40,100-110")
        if not 1 <= len(channels) <= MOST:
            raise DataError(f"{counted(len(channels), 'channel')} given; a page holds 1 to {MOST}")
        return channels
    if kind not in ("channel", "unit"):
        return None
    if mined is None:
        raise DataError(
            "no channel given; name some with -c, or give a mined file with --mined, whose most active are taken"
        )
    return sorted(list(mined)[:MOST_MINED])


def _class_of(target: str, outputs: Sequence[str]) -> int:
    number = class_number(target, outputs)
    assert number is not None
    return number


def _directions(path: str) -> Directions:
    from deconvviz.results.directions import Directions

    return Directions.load(path)


def _rows_of(directions: Directions, path: str, opened: OpenedModel, layer: str) -> Floats:
    """Return directions, float64 [D, channels]; raises MismatchError where they are of another layer or network."""
    import numpy as np

    from deconvviz.run.directions import require_fitting

    require_fitting(directions, path, opened.network, layer)
    return np.atleast_2d(directions.weights)


def _spectrum(
    store: str | None, preprocess: Preprocess, size: int | None, run: RunOptions
) -> tuple[Floats | None, dict[str, Any]]:
    """Return the mean magnitudes of the photos of a store, and which photos these are."""
    if store is None:
        return None, {}
    from deconvviz.data.datasets import open_images, place_of
    from deconvviz.studies.visualisation.options import PHASE_SIDE
    from deconvviz.studies.visualisation.spectrum import PHOTOS, mean_spectrum

    images = open_images(store)
    photos = {**place_of(images), "photos": min(len(images), PHOTOS)}
    return mean_spectrum(images, preprocess, size or PHASE_SIDE, progress=run.progress), photos

"""deconvviz invert: what of an image a layer still knows, of one network or side by side of two."""

from __future__ import annotations

import copy
import pathlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from deconvviz.choices import CANVASES
from deconvviz.cli.inputs import OpenedModel, integers, load, open_model, read_image
from deconvviz.cli.options import ModelOptions, figure_options, layers_option, model_options, option_group, run_options
from deconvviz.cli.outputs import check_figure, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.studies.visualisation.command import check_arrays, write_arrays
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.visualisation.result import Inversion


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What an inversion is compared with.

    Attributes:
        compare: a second model, or None.
        compare_weights: its weights.
        compare_layers: its layers, in the order of those of the first; empty for the same names.
        snapshots: path of a file of snapshots, or "demo", or None.
        epochs: of the snapshots, as text; None takes the first and the last.
    """

    compare: str | None
    compare_weights: str
    compare_layers: tuple[str, ...]
    snapshots: str | None
    epochs: str | None


@click.command()
@click.argument("model")
@click.argument("image")
@layers_option("Name of a layer; give as many as you like.", required=True)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; a table OUT.csv comes beside it.")
@option_group(
    "compared",
    Compared,
    click.option(
        "--compare", metavar="MODEL2", help="A second network, whose layers are inverted too, in a row below."
    ),
    click.option(
        "--compare-weights", default="DEFAULT", metavar="DEFAULT|FILE|none", help="Weights of MODEL2, as for --weights."
    ),
    click.option(
        "--compare-layer", "compare_layers", multiple=True, help="A layer of MODEL2, for each -l.  [default: the same]"
    ),
    click.option("--snapshots", metavar="FILE", help="Snapshots of a training of MODEL: one row for each epoch."),
    click.option("--epochs", help="Epochs of --snapshots, such as 1,20.  [default: the first and the last]"),
)
@click.option(
    "--canvas",
    default="spectral",
    type=click.Choice(CANVASES[:2]),
    help="What is optimised: Fourier coefficients in decorrelated colours, or plain pixels.",
)
@click.option("--steps", default=512, type=click.IntRange(1), help="Steps of the optimiser.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Learning rate at the start.  [default: 0.05]")
@click.option("--tv", default=0.0, type=click.FloatRange(0), help="Weight of the picture's roughness.")
@click.option("--alpha", default=0.0, type=click.FloatRange(0), help="Weight of the norm that keeps pixels from black.")
@click.option("--save", metavar="FILE.h5", help="Also write the pictures as arrays.")
@figure_options()
@run_options(precision="Precision of the passes.", seed="Of the noise that the optimiser begins with.")
@model_options
def invert(
    model: str,
    image: str,
    layers: tuple[str, ...],
    out: str,
    compared: Compared,
    canvas: str,
    steps: int,
    rate: float | None,
    tv: float,
    alpha: float,
    save: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Find out what of an image a layer still knows: make the picture that the layer takes for it.

    \b
    Examples:
      deconvviz invert torchvision:squeezenet1_0 cat.jpg -l features.3 -l features.7 -l features.12 -o known.png
      deconvviz invert torchvision:resnet18 cat.jpg -l layer3 --compare torchvision:resnet34 -o both.png
      deconvviz invert demo cat.jpg -l conv3 -l conv5 --snapshots demo --epochs 1,64 -o epochs.png
    """
    from deconvviz.studies.visualisation.figure import draw_inversion
    from deconvviz.studies.visualisation.invert import invert as find_again
    from deconvviz.studies.visualisation.invert import side_by_side

    check_figure(out)
    if save:
        check_arrays(save)
    if compared.compare_layers and len(compared.compare_layers) != len(layers):
        raise DataError(
            f"{counted(len(compared.compare_layers), 'layer')} of the second model given; expected one for each -l"
        )
    pixels = read_image(image)
    subjects, origin = _subjects(model, options, compared, layers)
    inversions = [
        find_again(
            subject.opened.network,
            subject.opened.preprocess.picture(pixels),
            subject.layers,
            preprocess=subject.opened.preprocess,
            name=pathlib.Path(image).name,
            called=subject.name,
            sources={"image": str(pathlib.Path(image).resolve()), **origin},
            canvas=canvas,
            steps=steps,
            rate=rate,
            tv=tv,
            alpha=alpha,
            **run.keywords(),
        )
        for subject in subjects
    ]
    inversion = side_by_side(inversions)
    networks = " and ".join(dict.fromkeys(subject.opened.network.name for subject in subjects))
    preprocess = subjects[0].opened.preprocess
    caption = caption_of_inversion(inversion, preprocess)
    title = f"What layers of {networks} know of {inversion.config['image']}"
    save_figure(draw_inversion(inversion, title, caption, page, preprocess.shown), out, caption)
    write_arrays(inversion, out, save)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One row of an inversion: a network, what it is called in the figure, and its layers."""

    opened: OpenedModel
    name: str
    layers: tuple[str, ...]


def _subjects(
    model: str, options: ModelOptions, compared: Compared, layers: tuple[str, ...]
) -> tuple[list[Subject], dict[str, str]]:
    """Open the networks whose layers are inverted, and return them with where the first came from."""
    if compared.snapshots is not None:
        if compared.compare is not None:
            raise DataError("--compare and --snapshots given; leave one of them out")
        return _epochs(model, options, compared, layers)
    if compared.epochs is not None:
        raise DataError("--epochs given; name the file of their weights with --snapshots")
    first = open_model(model, options)
    subjects = [Subject(opened=first, name=_short(model), layers=layers)]
    if compared.compare is not None:
        second = open_model(compared.compare, replace(options, weights=compared.compare_weights))
        other = compared.compare_layers or layers
        subjects.append(Subject(opened=second, name=_short(compared.compare), layers=other))
        if compared.compare == model:  # the same network with other weights
            names = (pathlib.PurePath(name).name for name in (options.weights, compared.compare_weights))
            subjects = [replace(subject, name=name) for subject, name in zip(subjects, names, strict=True)]
    for subject in subjects:  # before the work
        for layer in subject.layers:
            subject.opened.network.layer(layer)
    return subjects, sources(first.loaded)


def _short(model: str) -> str:
    """Return what a model is called in its library: "resnet18" of "torchvision:resnet18"."""
    return model.partition(":")[2] if model.startswith(("torchvision:", "timm:")) else model


def _epochs(
    model: str, options: ModelOptions, compared: Compared, layers: tuple[str, ...]
) -> tuple[list[Subject], dict[str, str]]:
    """Open the network with the weights of each epoch; see `_subjects`."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.run.opening import captured
    from deconvviz.run.snapshots import with_weights

    path = DEMO_SNAPSHOTS if compared.snapshots == "demo" else str(compared.snapshots)
    snapshots = Snapshots(path)
    kept = snapshots.epochs
    epochs = integers(compared.epochs) if compared.epochs else tuple(dict.fromkeys((kept[0], kept[-1]))) if kept else ()
    if not epochs:
        raise DataError(f"{path} holds the weights of no epoch")
    loaded, preprocess = load(model, options, uses_weights=False)
    subjects, advice = [], "give the model that was trained"
    for epoch in epochs:
        # A copy: a network shares its weights with the module that it was captured of.
        loaded_epoch = replace(loaded, model=with_weights(copy.deepcopy(loaded.model), snapshots, epoch, advice))
        network = captured(loaded_epoch, preprocess, options.device, options.outputs)
        opened = OpenedModel(network, preprocess, loaded_epoch)
        subjects.append(Subject(opened=opened, name=f"epoch {epoch}", layers=layers))
    return subjects, {**sources(loaded), "snapshots": str(pathlib.Path(path).resolve())}


def caption_of_inversion(inversion: Inversion, preprocess: Preprocess) -> str:
    """Return what the figure shows: what was minimised, and how the errors are measured."""
    config = inversion.config
    added = [
        f"{config[name]:g} of {what}" for name, what in (("tv", "roughness"), ("alpha", "the norm")) if config[name]
    ]
    canvas = {"spectral": "Fourier coefficients in decorrelated colours", "pixels": "pixels"}[config["canvas"]]
    return (
        f"From each layer the picture whose values there are nearest to those of {config['image']}, found in "
        f"{config['steps']} steps on {canvas} from noise{', with ' + ' and '.join(added) if added else ''}. What the "
        "layer lost, the picture does not show.\n"
        "Error at the layer: squared distance of the values over the squared size of the image's. In pixels: root mean "
        f"squared difference, in units of the range from black to white.{preprocess.shown_words()}"
    )

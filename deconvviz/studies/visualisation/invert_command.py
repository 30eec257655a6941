"""deconvviz invert: what of an image a layer still knows, of one network or side by side of two."""

from __future__ import annotations

import copy
import pathlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from deconvviz.choices import CANVASES
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import OpenedModel, integers, load, open_model, opened_model, read_image
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import ModelOptions, figure_options, layers_option, model_options, option_group, run_options
from deconvviz.cli.outputs import check_figure, save_figure, sources
from deconvviz.errors import DataError, LayerNotFound, MismatchError
from deconvviz.studies.visualisation.captions import caption_of_inversion
from deconvviz.studies.visualisation.command import check_arrays, write_arrays
from deconvviz.words import counted, network_called

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions


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
        "--compare-weights",
        cls=Dependent,
        needs="--compare",
        default="DEFAULT",
        metavar="DEFAULT|FILE|none",
        help="Weights of MODEL2, as for --weights.",
    ),
    click.option(
        "--compare-layer",
        "compare_layers",
        cls=Dependent,
        needs="--compare",
        multiple=True,
        help="A layer of MODEL2, for each -l.  [default: the same]",
    ),
    click.option("--snapshots", metavar="FILE", help="Snapshots of a training of MODEL: one row for each epoch."),
    click.option(
        "--epochs",
        cls=Dependent,
        needs="--snapshots",
        help="Epochs of --snapshots, such as 1,20.  [default: the first and the last]",
    ),
)
@click.option(
    "--canvas",
    default="spectral",
    type=click.Choice(CANVASES[:2]),
    help="What is optimised: Fourier coefficients in decorrelated colours, or plain pixels.",
)
@click.option("--steps", default=512, type=click.IntRange(1), help="Steps of the optimiser.")
@click.option("--rate", type=FiniteRange(0, min_open=True), help="Learning rate at the start.  [default: 0.05]")
@click.option("--tv", default=0.0, type=FiniteRange(0), help="Weight of the picture's roughness.")
@click.option("--alpha", default=0.0, type=FiniteRange(0), help="Weight of the norm that keeps pixels from black.")
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
    networks = " and ".join(dict.fromkeys(subject.opened.name for subject in subjects))
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
    first = _with_layers(open_model(model, options, layers), layers)
    subjects = [Subject(opened=first, name=network_called(model, model), layers=layers)]
    if compared.compare is not None:
        other = compared.compare_layers or layers
        second = _second(compared.compare, replace(options, weights=compared.compare_weights), other, compared)
        subjects.append(Subject(opened=second, name=network_called(compared.compare, compared.compare), layers=other))
        if compared.compare == model:  # the same network with other weights
            names = (pathlib.PurePath(name).name for name in (options.weights, compared.compare_weights))
            subjects = [replace(subject, name=name) for subject, name in zip(subjects, names, strict=True)]
    return subjects, sources(first.loaded)


def _with_layers(opened: OpenedModel, layers: tuple[str, ...]) -> OpenedModel:
    """Return the model; raises LayerNotFound, before the work, where it lacks a layer."""
    for layer in layers:
        opened.network.layer(layer)
    return opened


def _second(model: str, options: ModelOptions, layers: tuple[str, ...], compared: Compared) -> OpenedModel:
    """Open the model with which the first one is compared; an error about its layers says how to name others."""
    try:
        return _with_layers(open_model(model, options, layers), layers)
    except (LayerNotFound, MismatchError) as error:
        if compared.compare_layers:
            raise
        raise type(error)(f"{error}; name the layers of {model} with --compare-layer, one for each -l") from error


def _epochs(
    model: str, options: ModelOptions, compared: Compared, layers: tuple[str, ...]
) -> tuple[list[Subject], dict[str, str]]:
    """Open the network with the weights of each epoch; see `_subjects`."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots
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
        opened = _with_layers(opened_model(loaded_epoch, preprocess, options, layers), layers)
        subjects.append(Subject(opened=opened, name=f"epoch {epoch}", layers=layers))
    return subjects, {**sources(loaded), "snapshots": str(pathlib.Path(path).resolve())}

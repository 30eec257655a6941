"""deconvviz cam"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from deconvviz.choices import CONVENTIONS
from deconvviz.cli.explaining import CAM_NOTE, DISPLAY_NOTE, MethodOptions, method_options, note_of, own_methods
from deconvviz.cli.inputs import class_number, folder_and_name, open_model, output_names, read_image
from deconvviz.cli.options import ModelOptions, classes_option, figure_options, model_options, run_options
from deconvviz.cli.outputs import check_figure, check_place, save_figure
from deconvviz.progress import write_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deconvviz.cam.explain import Explainer
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.types import Picture


def _list_methods(context: click.Context, _: click.Parameter, requested: bool) -> None:
    """Print the methods with their options and sources, and exit."""
    if not requested or context.resilient_parsing:
        return
    from deconvviz.cam.catalogue import method_declarations

    for method in method_declarations().values():
        options = ", ".join(f"{key}={value!r}" for key, value in method.defaults.items())
        click.echo(f"{method.name:33s}{' '.join(method.docstring.split())[:150]}")
        if options:
            click.echo(f"{'':33s}options: {options}")
        click.echo(f"{'':33s}passes an image: {method.keywords['passes']}")
    click.echo(f"\n{PASSES_NOTE}")
    context.exit()


PASSES_NOTE = (
    "A tail goes from the layer to the output. K: channels of the layer; P: its positions; layers: how many are "
    "explained; windows: those that fit into the image; inner: whatever the method within runs."
)


@click.command(epilog=CAM_NOTE)
@click.argument("methods", callback=own_methods)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; or .npz for the maps themselves.")
@click.option("-t", "--target", help="Number or name of the class to explain.  [default: each image's own top class]")
@click.option(
    "--convention",
    default="paper",
    type=click.Choice(CONVENTIONS),
    help="In which order a map is resized and scaled to 0..1.",
)
@click.option(
    "--signed",
    is_flag=True,
    help="Show maps as their equation gives them, what speaks against the class too: zero is pale, red is for it, "
    "blue against it.",
)
@click.option("--colours", help="Name of a matplotlib colour map.  [default: viridis; coolwarm with --signed]")
@figure_options("Methods in a row.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_methods, help="List the methods and exit."
)
@method_options
@run_options(
    batch_size="Masked images or changed values in one pass.",
    default_batch=32,
    precision="Precision of masked images and changed values; gradients are computed in fp32.",
    seed="Seed of the methods that draw masks, noise or orders.",
)
@classes_option
@model_options
def cam(
    methods: tuple[str, ...],
    model: str,
    images: tuple[str, ...],
    out: str,
    target: str | None,
    convention: str,
    signed: bool,
    colours: str | None,
    page: Page,
    how: MethodOptions,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Show where in an image a network found its class.

    METHODS is one method, or several with commas between them; `deconvviz cam --list` lists them with their options.

    \b
    Examples:
      deconvviz cam grad-cam torchvision:squeezenet1_0 cat.jpg -l features.12 -o cam.png
      deconvviz cam grad-cam,score-cam,rise torchvision:resnet18 *.jpg -l layer4 --option masks=1000 -o sheet.png
      deconvviz cam l-cam-img torchvision:squeezenet1_0 cat.jpg --explainer lcam.pth -o cam.png
    """
    from deconvviz.figures.overlay import SIGNED, VIRIDIS, Shades, draw_maps
    from deconvviz.figures.sheet import image_label, shortened
    from deconvviz.models.labels import class_label

    if out.endswith(".npz"):
        check_place(out)
    else:
        check_figure(out)
    photos = [read_image(path) for path in images]
    opened = open_model(model, options, how.layers)
    network, preprocess, loaded = opened
    explainers = _explainers(methods, opened, how, run, convention)
    class_names = output_names(loaded, names, network)
    pictures = [preprocess.picture(photo) for photo in photos]
    explained = _explained(opened, explainers, pictures, images, class_number(target, class_names), signed, run)
    maps = [image.maps for image in explained]
    if out.endswith(".npz"):
        _save_arrays(out, methods, maps, signed)
        return
    labels = []
    for path, image in zip(images, explained, strict=True):
        label = class_names[image.label] if len(class_names) == network.outputs else class_label(image.label)
        labels.append(f"{image_label(folder_and_name(path), 26)}\n{shortened(label, 22)}, p {image.probability:.2f}")
    passes = "; ".join(f"{explainer.method.name}: {_counted(explainer.passes)}" for explainer in explainers)
    kind = SIGNED_MAPS if signed else FINISHED[convention]
    lengths = _lengths(explainers, preprocess) + preprocess.shown_words()
    caption = f"p is the probability of the class. {kind}{lengths}\n{note_of(methods)} {DISPLAY_NOTE}"
    shades = Shades(colours or (SIGNED if signed else VIRIDIS.colours), signed)
    title = f"{network.name}{_place(explainers)}"
    displays = [preprocess.display(picture) for picture in pictures]
    figure = draw_maps(displays, maps, labels, methods, title, caption, shades, page)
    save_figure(figure, out, caption, f"Passes over the last image (tail: from the layer to the output): {passes}.")


FINISHED = {
    "paper": "Maps are resized to the image, then scaled from their lowest value (0) to their highest (1).",
    "pytorch-grad-cam": "What is positive in a map is scaled to 0..1, resized to the image, and scaled again.",
    "torch-cam": "Maps are scaled from their lowest value (0) to their highest (1), then resized to the image.",
}
SIGNED_MAPS = (
    "Maps are as their equation gives them, each divided by its largest absolute value: pale is zero, red speaks for "
    "the class and blue against it."
)


class ExplainedImage(NamedTuple):
    """One image's maps, and the class that they explain.

    Attributes:
        maps: a map for each method, float32 [H, W] in 0..1; signed ones are in -1..1.
        label: the output that is explained.
        probability: its probability.
    """

    maps: list[NDArray[np.float32]]
    label: int
    probability: float


def _explainers(
    methods: Sequence[str], opened: OpenedModel, how: MethodOptions, run: RunOptions, convention: str
) -> list[Explainer]:
    from deconvviz.cam.explain import cam
    from deconvviz.cam.registry import METHODS

    network, preprocess, _ = opened
    options_by_method = how.by_method(methods)
    explainers = [
        cam(
            method,
            network,
            METHODS[method].layers_for(how.layers),
            convention=convention,
            batch_size=run.images_at_once(network.device),
            precision=run.precision,
            seed=run.seed,
            preprocess=preprocess,
            **options_by_method[method],
        )
        for method in methods
    ]
    if not how.layers and (place := _place(explainers)):
        click.echo(f"note: no layer is named; the maps are those{place}, the last with rows and columns: -l", err=True)
    return explainers


def _place(explainers: Sequence[Explainer]) -> str:
    """Return where maps are made, for a title: " at " and the layers, or nothing where no method explains a layer."""
    layers = [layer for each in explainers if each.method.needs != "image" for layer in each.layers]
    return f" at {', '.join(dict.fromkeys(layers))}" if layers else ""


def _explained(
    opened: OpenedModel,
    explainers: Sequence[Explainer],
    pictures: Sequence[Picture],
    names: Sequence[str],
    target: int | None,
    signed: bool,
    run: RunOptions,
) -> list[ExplainedImage]:
    """Explain pictures one by one; the label and its probability are read off the first method's own pass.

    A map that is the same everywhere is told of by the name of its image's file.
    """
    from deconvviz.cam.explain import constant_maps_allowed

    network, preprocess, _ = opened
    explained = []
    with run.bar("image", len(pictures), "explaining") as bar:
        for picture, name in zip(pictures, names, strict=True):
            x = preprocess.tensor(picture[None], network.device, network.dtype)
            with constant_maps_allowed():
                maps = [_map(explainer, x, target, signed) for explainer in explainers]
            for explainer, map_ in zip(explainers, maps, strict=True):
                if map_.min() == map_.max():
                    write_line(f"warning: {explainer.method.name} gave a constant map for {name}; it shows nothing")
            probabilities = network.readout.probabilities_of(explainers[0].output)[0]
            label = int(probabilities.argmax()) if target is None else target
            explained.append(ExplainedImage(maps, label, float(probabilities[label])))
            bar.update()
    return explained


def _map(explainer: Explainer, x: Tensor, target: int | None, signed: bool) -> NDArray[np.float32]:
    """Return the map of one image, float32 [H, W]."""
    from deconvviz.cam.shaping import signed_shares

    maps = signed_shares(explainer(x, target, raw=True), (x.shape[2], x.shape[3])) if signed else explainer(x, target)
    array: NDArray[np.float32] = maps[0].float().cpu().numpy()
    return array


def _counted(passes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in passes.items())


def _lengths(explainers: Sequence[Explainer], preprocess: Preprocess) -> str:
    """Return a sentence with the methods' options that are lengths, or nothing where they have none."""
    texts = []
    for explainer in explainers:
        lengths = explainer.lengths(preprocess.shape[1:])
        if lengths:
            options = ", ".join(f"{name} {_rounded(value)}" for name, value in lengths.items())
            texts.append(f"{explainer.method.name}: {options}")
    return f" In pixels: {'; '.join(texts)}." if texts else ""


def _rounded(value: float | Sequence[float]) -> str:
    """Return a length, or those of a blur, as text."""
    return " and ".join(f"{each:.3g}" for each in ([value] if isinstance(value, int | float) else value))


def _save_arrays(out: str, methods: Sequence[str], maps: Sequence[Sequence[NDArray[np.float32]]], signed: bool) -> None:
    """Write the maps: an array [images, H, W] for each method."""
    import numpy as np

    from deconvviz.results.files import atomic

    arrays = {method: np.stack([of_image[number] for of_image in maps]) for number, method in enumerate(methods)}
    with atomic(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    click.echo(f"wrote {out}: {', '.join(methods)}, each [{len(maps)}, H, W] in {'-1' if signed else '0'}..1")

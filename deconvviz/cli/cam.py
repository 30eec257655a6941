"""deconvviz cam"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.inputs import captured, load, output_names, read_image
from deconvviz.cli.options import ModelOptions, classes_option, explainer_option, model_options
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError, TargetError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAM_NOTE = (
    "Maps of different methods are each scaled to their own range: brightness does not compare between them. guided "
    "and deconvnet change little when the weights are randomised, so they are no evidence for the decision."
)


def _list_methods(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from deconvviz.cam import explain  # noqa: F401, the methods register
    from deconvviz.cam.registry import METHODS

    for method in METHODS.values():
        options = ", ".join(f"{key}={value!r}" for key, value in method.options.items())
        click.echo(f"{method.name:18s}{' '.join(method.source.split())[:150]}")
        if options:
            click.echo(f"{'':18s}options: {options}")
    context.exit()


@click.command(epilog=CAM_NOTE)
@click.argument("methods")
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-l", "--layer", "layers", multiple=True, help="The layer to explain; several are fused.")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; or .npz for the maps themselves.")
@click.option("-t", "--target", help="The class, its number or its name.  [default: each image's own top class]")
@click.option(
    "--convention",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "pytorch-grad-cam", "torch-cam"]),
    help="Order of resizing and normalising.",
)
@click.option("--option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the methods that have it.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Masked images at once.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--colours", default="viridis", show_default=True, help="A matplotlib colour map.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_methods, help="List the methods and exit."
)
@explainer_option
@classes_option
@model_options
def cam(
    methods: str,
    model: str,
    images: tuple[str, ...],
    layers: tuple[str, ...],
    out: str,
    target: str | None,
    convention: str,
    given: tuple[str, ...],
    batch_size: int,
    precision: str,
    colours: str,
    explainer_files: tuple[str, ...],
    names: str | None,
    options: ModelOptions,
) -> None:
    """Show where in an image a network found its class.

    METHODS is one, or several with commas between; `deconvviz cam --list` tells them, with their options.

    \b
    Examples:
      deconvviz cam grad-cam torchvision:squeezenet1_0 cat.jpg -l features.12 -o cam.png
      deconvviz cam grad-cam,score-cam,rise torchvision:resnet18 *.jpg -l layer4 --option masks=1000 -o sheet.png
      deconvviz cam l-cam-img torchvision:squeezenet1_0 cat.jpg --explainer lcam.pth -o cam.png
    """
    import torch

    from deconvviz.cam.explain import cam as explainer
    from deconvviz.figures.overlay import draw_maps

    chosen = [name.strip() for name in methods.split(",")]
    if not out.endswith(".npz"):
        check_figure(out)
    pixels = [read_image(path) for path in images]
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    shared: dict[str, Any] = {"convention": convention, "batch_size": batch_size, "precision": precision}
    own = methods_options(chosen, given, explainer_files)
    explainers = [explainer(name, network, layers_of(name, layers), **shared, **own[name]) for name in chosen]
    called = output_names(loaded, names)
    wanted = class_of(target, called)
    pictures = [preprocess.picture(one) for one in pixels]
    maps, labels = [], []
    for path, picture in zip(images, pictures, strict=True):
        x = preprocess.tensor(picture[None], network.device, network.dtype)
        with torch.no_grad():
            shares = network(x).float().softmax(1)[0]
        best = int(shares.argmax()) if wanted is None else wanted
        maps.append([one(x, wanted)[0].float().cpu().numpy() for one in explainers])
        label = called[best][:22] if len(called) == len(shares) else f"class {best}"
        labels.append(f"{pathlib.Path(path).name[:24]}\n{label}, p {float(shares[best]):.2f}")
    if out.endswith(".npz"):
        _save_arrays(out, chosen, maps)
        return
    where = f" at {', '.join(layers)}" if layers else ""
    passes = "; ".join(f"{one.method.name}: {_counted(one.passes)}" for one in explainers)
    caption = f"Each map is scaled to its own range ({convention}). Passes over the last image: {passes}.\n{CAM_NOTE}"
    save_figure(draw_maps(pictures, maps, labels, chosen, f"{network.name}{where}", caption, colours), out, caption)


def class_of(text: str | None, names: Sequence[str]) -> int | None:
    """Read a class's number or name; raises TargetError for a name that is none."""
    if text is None or text.isdigit():
        return None if text is None else int(text)
    if text not in names:
        known = nearest(text, names) if names else "the model's outputs have no names; give a number, or --classes FILE"
        raise TargetError(f"no class {text!r}; {known}")
    return names.index(text)


def own_options(name: str, given: tuple[str, ...]) -> dict[str, Any]:
    """Return the options among KEY=VALUE that this method has; raises DataError for one without a value."""
    from deconvviz.cam.registry import METHODS

    known = set(METHODS[name].options) | ({"method"} if METHODS[name].needs == "inner" else set())
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise DataError(f"option {text!r} given; expected KEY=VALUE, such as masks=1000")
        if key in known:
            try:
                found[key] = json.loads(value)
            except json.JSONDecodeError:
                found[key] = value
    return found


def methods_options(names: Sequence[str], given: tuple[str, ...], trained: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method, of a trained one the explainer, read once, among them.

    Raises DataError for a file of a method that was not asked for.
    """
    from deconvviz.cam.learned.files import load_explainer

    found = {name: own_options(name, given) for name in names}
    for path in trained:
        explainer = load_explainer(path)
        if explainer.name not in found:
            kind = explainer.name
            raise DataError(f"{path} is an explainer of {kind}, and the methods are {', '.join(names)}; ask for {kind}")
        found[explainer.name]["explainer"] = explainer
    return found


def layers_of(method: str, layers: Sequence[str]) -> Sequence[str]:
    """Return the layers for a method; a trained one has its own."""
    from deconvviz.cam.registry import METHODS

    return () if METHODS[method].needs == "trained" else layers


def _counted(passes: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in passes.items())


def _save_arrays(out: str, names: list[str], maps: list[list[NDArray[Any]]]) -> None:
    import numpy as np

    from deconvviz.results.files import atomic

    arrays = {name: np.stack([row[m] for row in maps]) for m, name in enumerate(names)}
    with atomic(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    click.echo(f"wrote {out}: {', '.join(names)}, each [{len(maps)}, H, W] in 0..1")

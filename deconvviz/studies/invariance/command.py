"""deconvviz invariance"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import captured, integers, load, matched_outputs, numbers, output_names
from deconvviz.cli.options import ModelOptions, classes_option, model_options
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deconvviz.data.datasets import Images
    from deconvviz.graph.network import Network
    from deconvviz.studies.invariance.result import Invariance

KINDS = ("translate-y", "translate-x", "scale", "rotation")
MOST = 4096  # steps of one kind


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; the values go beside it as .csv.")
@click.option(
    "-l",
    "--layer",
    "layers",
    multiple=True,
    help="A layer; give as many as you like.  [default: the first one, and what the classifier reads]",
)
@click.option("--images", "picked", metavar="N,N,...", help="Which images.  [default: the first --count]")
@click.option("--count", default=5, show_default=True, type=click.IntRange(1), help="So many images, the first ones.")
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="The transforms, with commas between.")
@click.option(
    "--steps",
    multiple=True,
    metavar="KIND=FROM:TO:STEP",
    help="Another range, or KIND=A,B,...: pixels, factors, degrees.  [default: the paper's, by the input's side]",
)
@click.option("--step", "sizes", multiple=True, metavar="KIND=SIZE", help="Another step in a kind's own range.")
@click.option(
    "--padding",
    default="reflect",
    show_default=True,
    type=click.Choice(["reflect", "mean", "border"]),
    help="What comes into view; border: the image beyond the crop (a larger --resize leaves more of it).",
)
@click.option("--interpolation", default="bilinear", show_default=True, type=click.Choice(["bilinear", "bicubic"]))
@click.option("--depth", is_flag=True, help="Also score every convolution and linear layer: .depth.png, .depth.csv.")
@click.option("--units", metavar="LAYER", help="Also score this layer's filters: .units.csv.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Filters told of --units.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Pictures in one pass.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@classes_option
@model_options
def invariance(
    model: str,
    images: str,
    out: str,
    layers: tuple[str, ...],
    picked: str | None,
    count: int,
    kinds: str,
    steps: tuple[str, ...],
    sizes: tuple[str, ...],
    padding: str,
    interpolation: str,
    depth: bool,
    units: str | None,
    top: int,
    batch_size: int,
    quiet: bool,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Measure how a network's layers and its output change as images are moved, scaled and turned.

    IMAGES is a packed store, a folder of classes or scenes[:COUNT[:SEED]]. The figure is the paper's figure 5. The
    probability is that of the image's own label, where labels and outputs can be matched, else of its top class.

    \b
    Examples:
      deconvviz invariance torchvision:squeezenet1_0 photos.h5 -o invariance.png
      deconvviz invariance demo scenes:40:7 --count 20 --depth --units relu5 -o invariance.png
      deconvviz invariance demo scenes --kinds scale,rotation --steps scale=0.5:2:0.1 --padding mean -o invariance.png
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.graph.choose import by_depth, first_and_last
    from deconvviz.studies.invariance.figure import draw_invariance
    from deconvviz.studies.invariance.measure import invariance as measure
    from deconvviz.studies.invariance.result import strips

    check_figure(out)
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    found_images, called = open_images(images), output_names(loaded, names)
    chosen = list(integers(picked)) if picked is not None else list(range(min(count, len(found_images))))
    shown = layers or first_and_last(network)
    every = sorted({*by_depth(network), *shown}, key=list(network.layers).index) if depth else shown
    found = measure(
        network,
        found_images,
        every,
        preprocess=preprocess,
        kinds=kinds.replace(" ", "").split(","),
        steps=_steps(steps, sizes, network.input_shape),
        which=chosen,
        padding=padding,
        interpolation=interpolation,
        units=(units,) if units else (),
        batch_size=batch_size,
        outputs=_outputs(found_images, chosen, network, called, names is not None),
        progress=not quiet,
    )
    caption = (
        f"x: the image, Tx: transformed ({padding} padding, {interpolation}), f: all values of the layer. The paper "
        "does not state the unit of its distance. Vertical scales differ between panels."
    )
    tags = [called[target] if called else f"output {target}" for target in found.targets]
    tags = [f"{pathlib.PurePath(name).stem}: {tag}" for name, tag in zip(found.images, tags, strict=True)]
    pictures = strips(found, found_images, preprocess)
    save_figure(
        draw_invariance(found, pictures, shown, tags, f"{network.name} under transforms", caption), out, caption
    )
    found.save_csv(_beside(out, ".csv"))
    click.echo(f"wrote {_beside(out, '.csv')}")
    if depth:
        _depth(found, network.name, out)
    if units:
        _units(found, units, top, out)
    click.echo(repr(found))
    if "rotation" in found.steps:
        _symmetry(found, tags)


def _outputs(
    images: Images, chosen: Sequence[int], network: Network, names: Sequence[str], needed: bool
) -> NDArray[np.int64] | None:
    """Return the output of each class, None where labels and outputs cannot be matched; needed: then complain."""
    own = "each image's own top class is followed"
    outputs = matched_outputs(images, network, names, needed, own)
    if outputs is None:
        return None
    if any(0 <= i < len(images) and images.labels[i] < 0 for i in chosen) and not needed:
        click.echo(f"note: {own}: not all images have a label", err=True)
        return None
    return outputs


def _steps(ranges: Sequence[str], sizes: Sequence[str], shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Read KIND=FROM:TO:STEP, KIND=A,B,... and KIND=SIZE; raises DataError for other text."""
    from deconvviz.data.transforms import default_steps

    found: dict[str, list[float]] = {}
    for text in sizes:
        kind, value = _parted(text, "KIND=SIZE, such as rotation=15")
        size = numbers(value, "10")
        own = default_steps(kind, *shape[-2:])
        first = float(own[0]) if len(size) != 1 or size[0] <= 0 or own[0] >= 0 else -(own[-1] // size[0]) * size[0]
        found[kind] = _range(text, first, float(own[-1]), *size)
    for text in ranges:
        kind, value = _parted(text, "KIND=FROM:TO:STEP or KIND=A,B,..., such as scale=0.5:2:0.1")
        parts = [numbers(part, "-20:20:5 or 0,45,90") for part in value.split(":")]
        if len(parts) == 1:
            found[kind] = list(parts[0])
        elif len(parts) == 3:
            found[kind] = _range(text, *(part[0] for part in parts))
        else:
            raise DataError(f"steps {text!r} given; expected KIND=FROM:TO:STEP or KIND=A,B,...")
    return found


def _parted(text: str, expected: str) -> tuple[str, str]:
    kind, equals, value = text.partition("=")
    if not equals or kind not in KINDS:
        raise DataError(f"{text!r} given; expected {expected}; the kinds are {', '.join(KINDS)}")
    return kind, value


def _range(text: str, first: float, last: float, size: float, *more: float) -> list[float]:
    if more or not size > 0 or not (last - first) / size < MOST:
        raise DataError(f"{text!r} given; expected one positive step, and at most {MOST} of them")
    return [round(first + n * size, 9) for n in range(int((last - first) / size + 1e-9) + 1)]


def _depth(found: Invariance, network: str, out: str) -> None:
    from deconvviz.studies.invariance.figure import draw_depth

    caption = (
        f"{len(found.images)} images. Score: 1 - mean ||f(Tx) - f(x)|| / mean ||f(x') - f(x)||, x' other images, "
        "clipped to 0..1: 1 where nothing changes, 0 where a transformed image is as far away as another one. "
        "Bars: 95 % bootstrap intervals over the images."
    )
    scores = {kind: found.scores(kind) for kind in found.steps}
    figure = draw_depth(scores, f"{network}: invariance against depth", caption)
    save_figure(figure, _beside(out, f".depth{pathlib.Path(out).suffix}"), caption)
    found.save_scores(_beside(out, ".depth.csv"))
    click.echo(f"wrote {_beside(out, '.depth.csv')}")


def _units(found: Invariance, layer: str, top: int, out: str) -> None:
    found.save_units(_beside(out, ".units.csv"), layer)
    click.echo(f"wrote {_beside(out, '.units.csv')}")
    scores = found.per_unit(layer)
    for n, kind in enumerate(found.steps):
        most, least = (", ".join(f"{c} ({scores[n, c]:.2f})" for c in some) for some in found.ranked(layer, kind, top))
        click.echo(f"{layer} under {kind}: most invariant filters {most}; least {least}")


def _symmetry(found: Invariance, tags: Sequence[str]) -> None:
    index = found.symmetry()
    known = [n for n in (-index).argsort() if index[n] == index[n]]  # NaN where the steps miss a quarter turn
    if known:
        shown = ", ".join(f"{index[n]:+.2f} {tags[n]}" for n in known[:3])
        click.echo(f"P(class) at 90, 180 and 270 degrees against in between: {index[known].mean():+.2f}; most: {shown}")


def _beside(out: str, ending: str) -> str:
    return str(pathlib.Path(out).with_suffix(ending))

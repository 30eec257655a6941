"""deconvviz invariance"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deconvviz.choices import INTERPOLATIONS, PADDINGS, TRANSFORMS
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import integers, matched_outputs, names_of, numbers, open_model, output_names
from deconvviz.cli.options import (
    ModelOptions,
    classes_option,
    figure_options,
    layers_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, save_figure
from deconvviz.errors import DataError
from deconvviz.registry import require_name
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.invariance.result import Invariance
    from deconvviz.types import Ints

MOST_STEPS = 4096  # of one kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformChoice:
    """The transforms that the command line asks for.

    Attributes:
        kinds: their names, with commas between.
        ranges: texts KIND=FROM:TO:STEP or KIND=A,B,...
        sizes: texts KIND=SIZE, another step in a kind's own range.
        padding: what comes into view.
        interpolation: how pixels are made.
    """

    kinds: str
    ranges: tuple[str, ...]
    sizes: tuple[str, ...]
    padding: str
    interpolation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreChoice:
    """The scores that the command line asks for.

    Attributes:
        depth: whether every convolution and linear layer is scored.
        units: the layer whose filters are scored, or None.
        top: filters that are named in what is printed.
    """

    depth: bool
    units: str | None
    top: int


transform_options = option_group(
    "transforms",
    TransformChoice,
    click.option("--kinds", default=",".join(TRANSFORMS), help="Kinds of transforms, with commas between."),
    click.option(
        "--steps",
        "ranges",
        multiple=True,
        metavar="KIND=FROM:TO:STEP",
        help="Another range, or KIND=A,B,...: pixels, factors, degrees.  [default: the paper's, by the input's side]",
    ),
    click.option("--step", "sizes", multiple=True, metavar="KIND=SIZE", help="Another step in a kind's own range."),
    click.option(
        "--padding",
        default="reflect",
        type=click.Choice(PADDINGS),
        help="What comes into view; border: the image beyond the crop (a larger --resize leaves more of it).",
    ),
    click.option(
        "--interpolation",
        default="bilinear",
        type=click.Choice(INTERPOLATIONS),
        help="How pixels between pixels are made.",
    ),
)

score_options = option_group(
    "scores",
    ScoreChoice,
    click.option(
        "--depth", is_flag=True, help="Also score all convolutions and linear layers: .depth.png, .depth.csv."
    ),
    click.option("--units", metavar="LAYER", help="Also score the filters of this layer: .units.csv."),
    click.option(
        "--top",
        cls=Dependent,
        needs="--units",
        default=5,
        type=click.IntRange(1),
        help="Filters of --units that are printed.",
    ),
)


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; the values go beside it as .csv.")
@layers_option("A layer; repeat for several.  [default: the first one, and what the classifier reads]")
@click.option("--images", "indices", metavar="N,N,...", help="Indices of the images.  [default: the first --count]")
@click.option("--count", default=5, type=click.IntRange(1), help="Take this many images.")
@transform_options
@score_options
@figure_options()
@run_options(batch_size="Pictures in one pass.", default_batch=32)
@classes_option
@model_options
def invariance(
    model: str,
    images: str,
    out: str,
    layers: tuple[str, ...],
    indices: str | None,
    count: int,
    transforms: TransformChoice,
    scores: ScoreChoice,
    page: Page,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Measure how a network's layers and its output change as images are moved, scaled and turned.

    IMAGES is a packed store, a folder of classes or scenes[:COUNT[:SEED]]. The figure is the paper's figure 5. The
    probability is that of the image's own label, where labels and outputs can be matched, else of its most probable
    class.

    \b
    Examples:
      deconvviz invariance torchvision:squeezenet1_0 photos.h5 -o invariance.png
      deconvviz invariance demo scenes:40:7 --count 20 --depth --units relu5 -o invariance.png
      deconvviz invariance demo scenes --kinds scale,rotation --steps scale=0.5:2:0.1 --padding mean -o invariance.png
    """
    kinds = _kinds(transforms.kinds)  # before torch is imported
    from deconvviz.data.datasets import labels_of, open_images
    from deconvviz.data.sampling import spread
    from deconvviz.graph.choose import first_and_last
    from deconvviz.models.labels import class_label
    from deconvviz.studies.invariance.measure import invariance as measure

    check_figure(out)
    opened = open_model(model, options, layers)
    network, preprocess, loaded = opened
    dataset = open_images(images)
    class_names = output_names(loaded, names, network, dataset)
    chosen_images = spread(labels_of(dataset), count).tolist() if indices is None else list(integers(indices))
    drawn_layers = layers or first_and_last(network)
    result = measure(
        network,
        dataset,
        _by_depth(network, drawn_layers, len(chosen_images)) if scores.depth else drawn_layers,
        preprocess=preprocess,
        which=chosen_images,
        outputs=_outputs(dataset, chosen_images, network, class_names, names is not None),
        units=(scores.units,) if scores.units else (),
        kinds=kinds,
        steps=read_steps(transforms.ranges, transforms.sizes, network.input_shape),
        padding=transforms.padding,
        interpolation=transforms.interpolation,
        **run.keywords(),
    )
    targets = [class_names[target] if class_names else class_label(target) for target in result.targets]
    labels = [f"{pathlib.PurePath(image).stem}: {target}" for image, target in zip(result.images, targets, strict=True)]
    _save_curves(result, dataset, preprocess, drawn_layers, labels, class_names, opened.name, out, page)
    if scores.depth:
        _save_depth(result, opened.name, out, page.beside())
    if scores.units:
        _save_units(result, scores.units, scores.top, out)
    click.echo(repr(result))
    if "rotation" in result.steps:
        _print_symmetry(result, labels)


def _kinds(text: str) -> list[str]:
    """Return the kinds of transforms that were typed; raises DeconvvizError for one that does not exist."""
    kinds = names_of(text)
    for kind in kinds:
        require_name("transform", kind, TRANSFORMS)
    return kinds


def _by_depth(network: Network, drawn_layers: Sequence[str], count: int) -> list[str]:
    """Return the layers that are measured for --depth, with those that are drawn.

    Raises:
        DataError: there is a single image, whose score is not defined.
        LayerNotFound: a layer does not exist.
    """
    from deconvviz.graph.choose import by_depth

    if count < 2:
        raise DataError("--depth of one image given; its score compares images with each other: give two or more")
    own_names = {network.layer(name).name for name in drawn_layers}  # refuses a layer that does not exist
    return sorted({*by_depth(network), *own_names}, key=list(network.layers).index)


def _outputs(
    images: Images, indices: Sequence[int], network: Network, names: Sequence[str], required: bool
) -> Ints | None:
    """Return the output of each class, None where labels and outputs cannot be matched; `required` raises instead."""
    otherwise = "each image's own most probable class is followed"
    outputs = matched_outputs(images, network, names, required, otherwise)
    if outputs is None:
        return None
    if any(0 <= index < len(images) and images.labels[index] < 0 for index in indices) and not required:
        click.echo(f"note: {otherwise}: not all images have a label", err=True)
        return None
    return outputs


# --- steps ------------------------------------------------------------------------------------------------------------


def read_steps(ranges: Sequence[str], sizes: Sequence[str], shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Read the steps of kinds.

    Args:
        ranges: texts KIND=FROM:TO:STEP or KIND=A,B,...; they replace those of `sizes`.
        sizes: texts KIND=SIZE: steps of this size in the kind's own range, 0 among them where that lies on both sides.
        shape: of the pictures, (..., height, width).

    Raises:
        DataError: another text.

    >>> read_steps(["scale=1:2:0.5"], ["translate-y=25"], (3, 224, 224))
    {'translate-y': [-50.0, -25.0, 0.0, 25.0, 50.0], 'scale': [1.0, 1.5, 2.0]}
    """
    steps = {}
    for text in sizes:
        kind, value = _split(text, "KIND=SIZE, such as rotation=15")
        steps[kind] = _steps_of_size(text, kind, numbers(value, "10"), shape)
    for text in ranges:
        kind, value = _split(text, "KIND=FROM:TO:STEP or KIND=A,B,..., such as scale=0.5:2:0.1")
        parts = [numbers(part, "-20:20:5 or 0,45,90") for part in value.split(":")]
        if len(parts) == 1:
            steps[kind] = list(parts[0])
        elif list(map(len, parts)) == [1, 1, 1]:
            steps[kind] = _spaced(text, *(part[0] for part in parts))
        else:
            raise DataError(f"steps {text!r} given; expected KIND=FROM:TO:STEP or KIND=A,B,...")
    return steps


def _split(text: str, expected: str) -> tuple[str, str]:
    kind, equals, value = text.partition("=")
    if not equals or kind not in TRANSFORMS:
        raise DataError(f"{text!r} given; expected {expected}; the kinds are {', '.join(TRANSFORMS)}")
    return kind, value


def _steps_of_size(text: str, kind: str, sizes: tuple[float, ...], shape: tuple[int, ...]) -> list[float]:
    from deconvviz.data.transforms import default_steps

    size = sizes[0] if len(sizes) == 1 else 0.0  # 0 is refused below
    default = default_steps(kind, *shape[-2:])
    first, last = float(default[0]), float(default[-1])
    if first < 0 < size:
        first = -(last // size) * size
    return _spaced(text, first, last, size)


def _spaced(text: str, first: float, last: float, size: float) -> list[float]:
    if not size > 0 or not (last - first) / size < MOST_STEPS:
        raise DataError(f"{text!r} given; expected one positive step, and at most {MOST_STEPS} of them")
    return [round(first + n * size, 9) for n in range(int((last - first) / size + 1e-9) + 1)]


# --- what is written --------------------------------------------------------------------------------------------------


def _save_curves(
    result: Invariance,
    images: Images,
    preprocess: Preprocess,
    layers: Sequence[str],
    labels: Sequence[str],
    class_names: Sequence[str],
    network: str,
    out: str,
    page: Page,
) -> None:
    from deconvviz.studies.invariance.figure import draw_invariance
    from deconvviz.studies.invariance.measure import example_strips

    padding, interpolation = result.config["padding"], result.config["interpolation"]
    strips = example_strips(result, images, preprocess)
    shown = min(len(pictures) for _, pictures in strips.values())
    of_first = f" Examples are of the first {shown} of {len(labels)} images." if shown < len(labels) else ""
    caption = (
        f"x is the image, Tx the transformed image ({padding} padding, {interpolation} interpolation), f all values of "
        "the layer. The paper does not state the unit of its distance. The vertical scales of the panels differ. The "
        "class of each image is named below: that of its label, or else the one that the network finds in the image "
        f"as it is.{of_first}{preprocess.shown_words()}"
    )
    title = f"{network} under transforms"
    save_figure(draw_invariance(result, strips, layers, labels, title, caption, page), out, caption)
    table = beside(out, ".csv")
    result.save_csv(table, class_names)
    click.echo(f"wrote {table}")


def _save_depth(result: Invariance, network: str, out: str, page: Page) -> None:
    from deconvviz.studies.invariance.figure import draw_depth

    caption = (
        f"{counted(len(result.images), 'image')}. Score: 1 - mean ||f(Tx) - f(x)|| / mean "
        "||f(x') - f(x)||, where x' are other "
        "images, clipped to 0..1. It is 1 where nothing changes, and 0 where a transformed image is as far away as "
        "another image. Bars: 95 % bootstrap intervals over the images."
    )
    scores = {kind: result.scores(kind) for kind in result.steps}
    figure = draw_depth(scores, f"{network}: invariance against depth", caption, page)
    save_figure(figure, beside(out, f".depth{pathlib.Path(out).suffix}"), caption)
    table = beside(out, ".depth.csv")
    result.save_scores(table)
    click.echo(f"wrote {table}")


def _save_units(result: Invariance, layer: str, top: int, out: str) -> None:
    table = beside(out, ".units.csv")
    result.save_units(table, layer)
    click.echo(f"wrote {table}")
    scores = result.per_unit(layer)
    for n, kind in enumerate(result.steps):
        most, least = (
            ", ".join(f"{channel} ({scores[n, channel]:.2f})" for channel in channels)
            for channels in result.ranked(layer, kind, top)
        )
        click.echo(f"{layer} under {kind}: most invariant filters {most}; least {least}")


def _print_symmetry(result: Invariance, labels: Sequence[str]) -> None:
    index = result.symmetry()
    finite = [n for n in (-index).argsort() if index[n] == index[n]]  # NaN where the steps miss a quarter turn
    if finite:
        highest = ", ".join(f"{index[n]:+.2f} {labels[n]}" for n in finite[:3])
        mean = index[finite].mean()
        click.echo(f"P(class) at 90, 180 and 270 degrees against in between: {mean:+.2f}; most: {highest}")

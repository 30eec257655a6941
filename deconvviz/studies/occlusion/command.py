"""deconvviz occlude"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from deconvviz.choices import BORDERS, OCCLUDER_FILLS, STRONGEST
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import (
    are_photos,
    class_number,
    folder_and_name,
    integers,
    matched_outputs,
    open_model,
    output_names,
    read_image,
)
from deconvviz.cli.notes import NO_SWITCHES_NOTE, PROJECTION_NOTE
from deconvviz.cli.options import (
    ModelOptions,
    classes_option,
    figure_options,
    model_options,
    option_group,
    rule_option,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, save_figure
from deconvviz.errors import DataError, MismatchError
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.occlusion.result import Occlusion
    from deconvviz.types import Array, Picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquareChoice:
    """The square and the map that the command line asks for.

    Attributes:
        square: (height, width) of the square in pixels; None takes a share of the image's side, and so does the stride.
        stride: (rows, columns) between two places of the square in pixels.
        fill: what stands in the square.
        border: whether windows end with the image ("flush") or reach over its edge ("beyond").
        channel: the map that is watched; None takes the strongest.
        strongest: by which of a map's numbers it is chosen, "max" or "sum".
        rule: of the map's projection.
    """

    square: tuple[int, int] | None
    stride: tuple[int, int] | None
    fill: str
    border: str
    channel: int | None
    strongest: str
    rule: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinedChoice:
    """Where projections from other images are taken from.

    Attributes:
        mined: path of a mined file, or None.
        mined_images: path of the images that were mined; None takes it from the mined file.
    """

    mined: str | None
    mined_images: str | None


class Subjects(NamedTuple):
    """The images that are occluded.

    Attributes:
        names: of the images.
        pictures: [N, H, W, C], as the network sees them.
        targets: the output of each image's label; None where labels and outputs cannot be matched.
    """

    names: list[str]
    pictures: Picture
    targets: list[int] | None


def _sides(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read SIDE or HEIGHTxWIDTH; None stays None."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} given; expected pixels such as 32, or HEIGHTxWIDTH such as 24x48")
    return int(parts[0]), int(parts[-1])


square_options = option_group(
    "square",
    SquareChoice,
    click.option(
        "--square",
        callback=_sides,
        metavar="PIXELS",
        help="The square: SIDE or HEIGHTxWIDTH.  [default: 1/7 of the image's shorter side, 32 px of 224]",
    ),
    click.option(
        "--stride",
        callback=_sides,
        metavar="PIXELS",
        help="Between two places, as above.  [default: 1/14 of the image's shorter side, 16 px of 224]",
    ),
    click.option("--fill", default="grey", type=click.Choice(OCCLUDER_FILLS), help="What stands in the square."),
    click.option(
        "--border",
        default="flush",
        type=click.Choice(BORDERS),
        help="Windows end with the image, or reach over its edge.",
    ),
    click.option("--channel", type=click.IntRange(0), help="The map to watch.  [default: the strongest]"),
    click.option(
        "--strongest",
        default="max",
        type=click.Choice(STRONGEST),
        help="The strongest map is the one with the largest maximum, or with the largest sum.",
    ),
    rule_option,
)

mined_options = option_group(
    "elsewhere",
    MinedChoice,
    click.option(
        "--mined", metavar="FILE", help="A mined file of this network: adds projections of the map from other images."
    ),
    click.option(
        "--mined-images",
        cls=Dependent,
        needs="--mined",
        metavar="STORE",
        help="The images that were mined.  [default: where the file says they are]",
    ),
)


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The figure: .png, .pdf or .svg; the values go beside it as .csv.")
@click.option(
    "-l", "--layer", help="The layer whose strongest map is watched.  [default: the last before the classifier]"
)
@click.option(
    "-t", "--target", help="The class to follow, its number or its name.  [default: the label, else the most probable]"
)
@square_options
@mined_options
@click.option("--images", "indices", metavar="N,N,...", help="Indices of the images of a store.  [default: 0]")
@figure_options()
@run_options(batch_size="Occluded images in one pass.", default_batch=32, precision="Precision of the forward passes.")
@classes_option
@model_options
def occlude(
    model: str,
    images: tuple[str, ...],
    out: str,
    layer: str | None,
    target: str | None,
    square: SquareChoice,
    elsewhere: MinedChoice,
    indices: str | None,
    page: Page,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Cover an image piece by piece and see what the network still finds.

    IMAGES are picture files, or one packed store, folder of classes or scenes:COUNT, of which --images chooses. All
    panels come from the same forward passes, one for each place of the square.

    \b
    Examples:
      deconvviz occlude torchvision:squeezenet1_0 dog.jpg -o occlusion.png
      deconvviz occlude demo scenes:20:7 --images 0,3 --square 16 --stride 4 -o occlusion.png
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.occlusion.figure import draw_occlusions
    from deconvviz.studies.occlusion.measure import occlude as measure
    from deconvviz.studies.occlusion.result import save_occlusions

    check_figure(out)
    opened = open_model(model, options, [layer] if layer else ())
    network, preprocess, loaded = opened
    if are_photos(images):
        class_names = output_names(loaded, names, network)
        subjects = _from_files(images, indices, preprocess)
    else:
        dataset = open_images(images[0])
        class_names = output_names(loaded, names, network, dataset)
        outputs = OutputNames(network, class_names, names is not None)
        subjects = _from_store(images[0], dataset, integers(indices or "0"), preprocess, outputs)
    chosen_class = class_number(target, class_names)
    occlusions = measure(
        network,
        subjects.pictures,
        layer,
        preprocess=preprocess,
        targets=subjects.targets if chosen_class is None else [chosen_class] * len(subjects.names),
        names=subjects.names,
        **dataclasses.asdict(square),
        **run.keywords(),
    )
    others = [_projections_elsewhere(occlusion, network, elsewhere) for occlusion in occlusions]
    caption = _caption(network, occlusions, square) + preprocess.shown_words()
    title = f"Occlusion of {opened.name}"
    figure = draw_occlusions(occlusions, others, class_names, title, caption, page, preprocess.shown)
    save_figure(figure, out, caption)
    table = beside(out, ".csv")
    save_occlusions(occlusions, table, class_names)
    click.echo(f"wrote {table}")
    for occlusion in occlusions:
        click.echo(occlusion.summary(class_names))


def _caption(network: Network, occlusions: Sequence[Occlusion], square: SquareChoice) -> str:
    config, windows = occlusions[0].config, len(occlusions[0].windows)
    size, stride = ("x".join(map(str, dict.fromkeys(config[name]))) for name in ("square", "stride"))
    return (
        f"A square of {size} pixels (fill: {square.fill}) is put at {counted(windows, 'place')}, "
        f"{stride} pixels apart. The axes "
        "of (b), (d) and (e) are the place of the square's centre, over the image in grey. (c): the contrast of each "
        f"projection is stretched by itself. {_rules(network, occlusions)} Precision: {config['precision']}."
    )


def _rules(network: Network, occlusions: Sequence[Occlusion]) -> str:
    """Return by which rule the map is projected on each image and why, as a sentence for the caption."""
    from deconvviz.deconv.choice import lacks_switches

    config = occlusions[0].config
    if not config["why"]:
        note = f" {NO_SWITCHES_NOTE}" if lacks_switches(network, config["layer"], config["rule"]) else ""
        return f"The rule is {config['rule']}.{note}"
    if len(occlusions) == 1:
        return f"The rule is {occlusions[0].config['why']}"
    return "Rules, chosen on each image. " + " ".join(f"{one.name}: {one.config['why']}" for one in occlusions)


# --- images -----------------------------------------------------------------------------------------------------------


class OutputNames(NamedTuple):
    """What is known of the network's outputs.

    Attributes:
        network: whose outputs they are.
        names: of the outputs; empty where they are unknown.
        required: whether it is an error that labels and outputs cannot be matched.
    """

    network: Network
    names: Sequence[str]
    required: bool


def _from_files(paths: Sequence[str], indices: str | None, preprocess: Preprocess) -> Subjects:
    from deconvviz.arrays import stacked

    if indices is not None:
        raise DataError("--images chooses from a store; picture files are all taken")
    pictures = stacked([preprocess.picture(read_image(path)) for path in paths])
    return Subjects([folder_and_name(path) for path in paths], pictures, None)


def _from_store(
    source: str, dataset: Images, indices: Sequence[int], preprocess: Preprocess, outputs: OutputNames
) -> Subjects:
    """Take images from a store, a folder of classes, or scenes; `source` is how they were named."""
    from deconvviz.data.feed import Feed

    outside = [index for index in indices if not 0 <= index < len(dataset)]
    if outside:
        raise DataError(f"image {outside[0]} of {source} given; expected 0 to {len(dataset) - 1}")
    feed = Feed(dataset, preprocess, indices)
    places = range(len(feed))
    targets = None
    if (feed.labels >= 0).all():
        otherwise = "each image's own most probable class is followed"
        of_class = matched_outputs(dataset, outputs.network, outputs.names, outputs.required, otherwise)
        targets = None if of_class is None else of_class[feed.labels].tolist()
    return Subjects([pathlib.PurePath(feed.name(place)).name for place in places], feed.pictures(places), targets)


def _projections_elsewhere(occlusion: Occlusion, network: Network, elsewhere: MinedChoice) -> list[Array]:
    """Return the projections of the same map from the three strongest other images of a mined file, [h, w, C] each."""
    if elsewhere.mined is None:
        return []
    import deconvviz as dv
    from deconvviz.data.datasets import open_store
    from deconvviz.graph.digest import architecture
    from deconvviz.results.results import other_network

    mined, config = dv.load_mined(elsewhere.mined), occlusion.config
    if mined.config["model_fingerprint"] != network.fingerprint:
        what = other_network(mined.sources.get("architecture"), architecture(network))
        raise MismatchError(
            f"{elsewhere.mined} was mined with {what}; mine again, or give what it was mined with (--weights)"
        )
    with open_store(elsewhere.mined_images or mined.sources["images"]) as images:
        how = {"rule": config["rule"], "crop": "energy", "progress": False}
        panels = dv.layer_panels(mined, images, network, config["layer"], [occlusion.channel], **how)
    panel = panels.panels[0]
    others = [n for n, name in enumerate(panel.images) if pathlib.PurePath(name).name != occlusion.name]
    return [panel.projections[n] for n in others[:3]]

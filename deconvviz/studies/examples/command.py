"""deconvviz examples"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.following import PICTURE, following
from deconvviz.cli.inputs import class_number, open_model, output_names, read_image
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    limit_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure_and_table, save_result, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.examples.result import Examples, Suspects


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What the command line says of how training images are compared.

    Attributes:
        layer: the embedding; None for the default.
        count: images in a row.
        target: the class that is explained, as text; None for the predicted one.
        against: the class whose nearest images stand beside, as text; None for the default.
        snapshots: path of the snapshots of the training, or "demo"; None for no TracIn.
        lengths: whether TracIn keeps the lengths of embeddings.
        damping: of the Hessian; None for the default.
        features: path of a file that keeps the embeddings; None for a temporary one.
    """

    layer: str | None
    count: int
    target: str | None
    against: str | None
    snapshots: str | None
    lengths: bool
    damping: float | None
    features: str | None


compared_options = option_group(
    "compared",
    Compared,
    click.option("-l", "--layer", help="The embedding.  [default: the layer that the classifier reads]"),
    click.option("-k", "--count", default=8, type=click.IntRange(1, 40), help="Training images in a row."),
    click.option("-t", "--target", metavar="CLASS", help="The class that is explained.  [default: the predicted one]"),
    click.option(
        "--against",
        metavar="CLASS",
        help="The class whose nearest images stand beside, such as the true one.  [default: the second most probable]",
    ),
    click.option(
        "--snapshots",
        metavar="FILE",
        help="Snapshots of the training, or demo: which images taught the decision (TracIn).",
    ),
    click.option(
        "--lengths",
        cls=Dependent,
        needs="--snapshots",
        is_flag=True,
        help="TracIn with the lengths of embeddings, as its paper has it: images with long ones come first more often.",
    ),
    click.option(
        "--damping",
        type=FiniteRange(0, min_open=True),
        help="Added to the diagonal of the Hessian.  [default: 0.1 of its mean]",
    ),
    click.option(
        "--features",
        metavar="FILE.h5",
        help="Keep the embeddings here; an unfinished file is resumed.",
    ),
)


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="[IMAGE] DATA")
@click.option("-o", "--out", required=True, help="The figure, .png, .pdf or .svg; the table OUT.csv comes beside it.")
@click.option("--self", "suspicious", is_flag=True, help="Order the training images: wrong labels come first.")
@compared_options
@limit_option
@classes_option
@figure_options(columns="Pictures in a row.  [default: --count; 8 with --self]")
@run_options(batch_size="Images in a pass.", precision="Precision of the network.", workers=DECODING)
@model_options
def examples(
    model: str,
    paths: tuple[str, ...],
    out: str,
    suspicious: bool,
    compared: Compared,
    limit: int | None,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Explain a decision by training images, or find those with wrong labels.

    The figure shows the training images that are nearest to IMAGE, of each of two classes; with --snapshots those that
    taught the decision (TracIn); those without which the network would be less sure (influence functions of the last
    layer); and prototypes and criticisms of the class. With --self it shows the training images whose influence on
    themselves is largest, and the table holds all of them in this order; no IMAGE is needed then. If both are asked
    for, the suspicious images go to OUT.suspicious.png and OUT.suspicious.csv.

    DATA are the training images: a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]],
    generated pictures. With --features, the same command resumes what was interrupted.

    \b
    Examples:
      deconvviz examples torchvision:resnet18 cat.jpg train.h5 --features embedded.h5 -o examples.png
      deconvviz examples zfnet cat.jpg train.h5 --weights zfnet.pth --snapshots evolution.h5 -o examples.png
      deconvviz examples zfnet train.h5 --weights zfnet.pth --snapshots evolution.h5 --self -o suspicious.png
    """
    image, data = _image_and_data(paths, suspicious)
    suspicious_out = out if image is None else str(beside(out, f".suspicious{pathlib.Path(out).suffix}"))
    for figure in {out, suspicious_out}:
        check_figure_and_table(figure)
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.examples.measure import examples as find_examples
    from deconvviz.studies.examples.measure import suspects as find_suspects

    pixels = None if image is None else read_image(image)
    images, snapshots = open_images(data), _snapshots(compared.snapshots)
    opened = open_model(model, options)
    network, preprocess, loaded = opened
    outputs = output_names(loaded, names, network, images)
    about: dict[str, Any] = {
        "preprocess": preprocess,
        "names": outputs,
        "snapshots": snapshots,
        "model": loaded.model,
        "sources": sources(loaded),
        "limit": limit,
        **{name: getattr(compared, name) for name in ("layer", "count", "lengths", "damping", "features")},
        **run.keywords(),
    }
    if pixels is not None:
        target, against = (class_number(text, outputs) for text in (compared.target, compared.against))
        called, title = pathlib.Path(image or "").name, f"Training images that explain {opened.name}'s decision"
        result = find_examples(network, pixels, images, target=target, against=against, name=called, **about)
        _save(result, out, title, page, preprocess.shown_words())
        if not suspicious:
            words = ("examples", model, data, "--self", *_again(compared))
            click.echo(f"next: {following(*words, '-o', 'suspicious.png', carry=(*PICTURE, 'names'))}")
    if suspicious:
        ordered = find_suspects(network, images, **about)
        page = page if pixels is None else page.beside()
        _save(ordered, suspicious_out, "Training images that may have a wrong label", page, preprocess.shown_words())


def _image_and_data(paths: tuple[str, ...], suspicious: bool) -> tuple[str | None, str]:
    """Return the image, None where none is given, and the training images."""
    if len(paths) == 2:
        return paths[0], paths[1]
    if len(paths) == 1 and suspicious:
        return None, paths[0]
    raise DataError(
        f"{len(paths)} paths given; expected an image and the training images, or with --self the training images alone"
    )


def _snapshots(path: str | None) -> Snapshots | None:
    """Open snapshots; "demo" names those of the packaged network."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots

    return None if path is None else Snapshots(DEMO_SNAPSHOTS if path == "demo" else path)


def _again(compared: Compared) -> list[str]:
    """Return the options of the command that follows which decide what is compared."""
    given = {"--snapshots": compared.snapshots, "--features": compared.features, "-l": compared.layer}
    return [word for option, value in given.items() if value for word in (option, value)]


def _save(result: Examples | Suspects, out: str, title: str, page: Page, shown: str) -> None:
    """Write the figure and the table, and print what was found."""
    from deconvviz.studies.examples.figure import draw_examples, draw_suspects
    from deconvviz.studies.examples.result import Examples

    caption = caption_of(result) + shown
    if isinstance(result, Examples):
        figure = draw_examples(result, title, caption, page)
    else:
        figure = draw_suspects(result, title, caption, page)
    save_result(result, figure, out, caption)


def caption_of(result: Examples | Suspects) -> str:
    """Return what the figure shows: how the images were chosen, and what the numbers are."""
    from deconvviz.studies.examples.result import Examples

    notes = "".join(f" {note}" for note in result.notes)
    if not isinstance(result, Examples):
        return (
            f"The {len(result.pictures)} of {len(result.images)} training images with the largest influence on "
            f"themselves: {MEASURED[result.method]}. Each has its label, the class that the network predicts "
            f"(vermilion where it is another one), and that number. A wrong label is seen by eye.{notes}"
        )
    kinds = [row.kind for row in result.rows]
    tracin = (
        " TracIn sums over the epochs of the training by how much a step on the training image lowered the loss of "
        "this decision (learning rate x product of the last layer's gradients)."
    ) * ("tracin for" in kinds)
    typical = (
        " Prototypes are images whose distribution is closest to that of their class (MMD-critic); criticisms are "
        "those at which the class differs most from its prototypes: above zero it has more images of that kind "
        "than they tell, below zero fewer."
    ) * ("prototypes" in kinds)
    return (
        f"The nearest of {result.total} training images by the cosine of {result.layer}.{tracin} The loss of the "
        "decision would rise, or fall, by so many nats if the image had not been there and the last layer were trained "
        f"again (influence functions).{typical} Classes are vermilion where they are not the decision's.{notes}"
    )


MEASURED = {
    "tracin": "TracIn, the sum over the epochs of learning rate x squared length of the last layer's gradient",
    "influence": "by how much its loss would rise, in nats, if it were left out and the last layer trained again",
    "gradient": "the squared length of the last layer's gradient",
}
"""Method -> what self-influence is."""

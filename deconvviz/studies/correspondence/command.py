"""deconvviz correspond"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import MASK_FILLS, NORMALISATIONS, RANDOM_PLACES, SIGN_ZERO
from deconvviz.cli.inputs import open_model
from deconvviz.cli.options import (
    ModelOptions,
    figure_options,
    layers_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, check_table, save_figure
from deconvviz.errors import DataError
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions

NOTE = (
    "A score is the share of a layer's dimensions that change in different directions when the same part is masked in "
    "two images. Random masks show how low that is by chance; p belongs to one row and is not corrected for their "
    "number. In a layer with positions, parts at like places of all images change like positions, whatever they are. "
    "With three signs, masks that change little count as alike: compare --sign-zero drop and --random-on object."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyChoice:
    """What the command line asks for, see `CorrespondenceOptions`; across_classes is the opposite of its per_class."""

    count: int
    repeats: int
    across_classes: bool
    random: int
    random_on: str
    fill: str
    sign_zero: str
    normalisation: str
    permutations: int

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of `correspondence`."""
        keywords = dataclasses.asdict(self)
        keywords["per_class"] = not keywords.pop("across_classes")
        return keywords


study_options = option_group(
    "study",
    StudyChoice,
    click.option("--count", default=5, type=click.IntRange(2), help="Images in a set."),
    click.option("--repeats", default=10, type=click.IntRange(1), help="Most sets of a part and class."),
    click.option("--across-classes", is_flag=True, help="Sets of images of any classes, not of one."),
    click.option("--random", default=10, type=click.IntRange(1), help="Random masks for each image."),
    click.option(
        "--random-on",
        default="picture",
        type=click.Choice(RANDOM_PLACES),
        help="Where the middles of random masks may be.",
    ),
    click.option("--fill", default="mean", type=click.Choice(MASK_FILLS), help="What masked pixels become."),
    click.option(
        "--sign-zero",
        default="three-valued",
        type=click.Choice(SIGN_ZERO),
        help="Unchanged features have a third sign, are left out, or count as +1.",
    ),
    click.option(
        "--normalisation", default="mean", type=click.Choice(NORMALISATIONS), help="Over dimensions and pairs."
    ),
    click.option("--permutations", default=1000, type=click.IntRange(1), help="Permutations of the test."),
)


@click.command(epilog=NOTE)
@click.argument("model")
@click.argument("images", metavar="PARTS")
@layers_option("A layer's name; repeat for several.", required=True)
@click.option("-o", "--out", required=True, help="The table, .csv; beside it the figure .png.")
@click.option("--boxes", type=click.Path(), help="A CSV file: image,left,top,right,bottom,part (pixels, half-open).")
@click.option("-p", "--part", "parts", multiple=True, help="A part's name; repeat for several.  [default: all]")
@study_options
@figure_options("Layers in a row.")
@run_options(
    batch_size="Masked images in one pass.", default_batch=32, seed="Seed of sets, random masks and permutations."
)
@functools.partial(model_options, part="--model-part")
def correspond(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    boxes: str | None,
    parts: tuple[str, ...],
    study: StudyChoice,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Test whether masking the same part of several images changes a layer in the same way.

    PARTS is scenes:COUNT:SEED, whose parts are known, or images (a packed store, a folder of classes) with --boxes.

    \b
    Examples:
      deconvviz correspond demo scenes:500:1 -l relu5 -l fc7 -o correspondence.csv
      deconvviz correspond torchvision:squeezenet1_0 dogs/ --boxes dogs.csv --across-classes -l features.12 -o t.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.data.truth import open_truth
    from deconvviz.studies.correspondence.figure import draw_correspondence
    from deconvviz.studies.correspondence.measure import correspondence

    table = check_table(out)
    check_figure(beside(table, ".png"))
    dataset = open_images(images)
    truth = open_truth(boxes, dataset)
    if truth is None:
        raise DataError(f"where the parts are in {images} is not known; give --boxes, or scenes:COUNT:SEED")
    opened = open_model(model, options, layers)
    network, preprocess, _ = opened
    result = correspondence(
        network,
        dataset,
        truth,
        parts or None,
        layers,
        preprocess=preprocess,
        **study.keywords(),
        **run.keywords(),
    )
    result.save_csv(table)
    caption = _caption(study) + preprocess.shown_words()
    title = f"Correspondence of parts in {opened.name}"
    figure = draw_correspondence(result, title, caption, page)
    save_figure(figure, beside(table, ".png"), caption)
    click.echo(f"wrote {table}")
    click.echo(repr(result))


def _caption(study: StudyChoice) -> str:
    images = f"{counted(study.count, 'image')}{'' if study.across_classes else ' of one class'}"
    colour = "black" if study.fill == "black" else "the mean colour"
    return (
        f"Score: {study.normalisation} over pairs of {images} of the Hamming distance of the signs "
        f"({study.sign_zero}); lower is tighter.\n"
        "Whiskers: standard errors over the sets (over the pairs of a single set). "
        f"Each image has {study.random} random masks of the part's shape, on the {study.random_on}; masked pixels "
        f"become {colour}.\n"
        f"p: one-sided, by {study.permutations} permutations of which mask of an image is the part."
    )

"""deconvviz ablate"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import names_of
from deconvviz.cli.options import (
    DECODING,
    device_option,
    figure_options,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, command_line, save_figure
from deconvviz.errors import DataError
from deconvviz.registry import require_name
from deconvviz.run.opening import device_of
from deconvviz.studies.training.command import RecipeOptions, ZFNetOptions, recipe_options, zfnet_options
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.ablation.result import VariantTable

# Options of `deconvviz lesion`, which was a part of this command in version 0.1.
LESION_OPTION = re.compile(r"-l.*|--(layer|by|how|count|classes|weights|mean|std)(=.*)?")


class AblateCommand(click.Command):
    """The command, which answers the spelling that version 0.1 had for lesions with the one that replaces it."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the command's name; raises DataError where they ask for lesions."""
        words = list(args)
        lesions = any(LESION_OPTION.fullmatch(word) for word in words)
        rest = [] if lesions else super().parse_args(context, args)
        if lesions or context.params.get("model", "zfnet") != "zfnet":
            command = shlex.join(["deconvviz", "lesion", *words])
            raise DataError(f"`ablate` trains variants of zfnet; to silence parts of a trained network: {command}")
        return rest


@click.command(cls=AblateCommand)
@click.argument("model", metavar="zfnet")
@click.argument("data")
@click.option("-o", "--out", required=True, help="The table, .csv; the figure OUT.png comes beside it.")
@click.option("--variants", default="all", help="Some of table 3's variants, such as full,no-7,no-6-7.")
@click.option("--work", metavar="FOLDER", help="Folder for the trained networks.  [default: OUT without .csv]")
@click.option(
    "--input",
    "input_size",
    type=click.IntRange(1),
    help="Side of the square input: 32, 64, 96 or 224.  [default: the largest that fits the images]",
)
@click.option("--resize", type=click.IntRange(1), help="Shorter side before the crop.  [default: 8/7 of the input]")
@zfnet_options
@recipe_options
@figure_options(width="--figure-width")
@run_options(workers=DECODING)
@device_option
def ablate(
    model: str,
    data: str,
    out: str,
    variants: str,
    work: str | None,
    input_size: int | None,
    resize: int | None,
    zfnet: ZFNetOptions,
    recipe: RecipeOptions,
    page: Page,
    run: RunOptions,
    device: str,
) -> None:
    """Find out which layers a network needs to learn: train it without some, and compare.

    The variants of the paper's table 3 are trained by one recipe: the full network; without layers 3 and 4; without 7;
    without 6 and 7; without all four; and with wider layers. `deconvviz lesion` silences layers or filters of a network
    that is trained already.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures. A
    packed store is read fastest; each variant reads it anew. The same command resumes what was interrupted; a variant
    that is finished is not trained again.

    \b
    Examples:
      deconvviz ablate zfnet scenes:2000 --input 64 --width 0.2 --epochs 10 --validation scenes:500:1 -o ablation.csv
      deconvviz ablate zfnet imagenet.h5 --first alexnet --variants full,no-3-4,no-6-7,no-3-4-6-7 -o ablation.csv
    """
    from deconvviz.studies.ablation.variants import VARIANTS

    table = check_table(out)
    variant_names = list(VARIANTS) if variants == "all" else names_of(variants)
    for name in variant_names:
        require_name("variant", name, VARIANTS)  # before torch is imported
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.ablation.ablate import ablate as train_variants
    from deconvviz.studies.ablation.figure import draw_variants

    folder = work or beside(table, "")
    result = train_variants(
        open_images(data),
        recipe.validation_images(),
        variant_names,
        folder=folder,
        recipe=recipe.recipe(),
        input_size=input_size,
        resize=resize,
        width=zfnet.width,
        first=zfnet.first,
        dropout=zfnet.dropout,
        device=device_of(device),
        workers=run.workers,
        progress=run.progress,
        sources={"command": command_line()},
    )
    result.save_csv(table)
    caption = caption_of(result, data, recipe)
    figure = draw_variants(result, "Layers left out, or wider (Zeiler and Fergus 2013, table 3)", caption, page)
    save_figure(figure, beside(table, ".png"), caption)
    click.echo(f"wrote {table}; the networks are in {folder}")
    click.echo(repr(result))


def caption_of(table: VariantTable, data: str, recipe: RecipeOptions) -> str:
    """Return what the figure shows: the images, the networks, and what the intervals cover."""
    config = table.config
    epochs = table.rows[0].epochs
    others = f" of {recipe.validation}" if recipe.share is None else ""
    return (
        f"Each variant was trained on {data} for {counted(epochs, 'epoch')} by the same recipe, and validated "
        f"on {counted(table.images, 'image')}{others}. Input {config['input_size']} x {config['input_size']} px, width "
        f"{config['width']:g}, layers 1 and 2 of {config['first']}. The errors are those of the finished networks on "
        "central crops.\nThe 95 % intervals are over images (Bonett and Price 2012), not over trainings from other "
        "initial weights."
    )

"""deconvviz pretrain"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import OBJECTIVE_NAMES, TRAINING_PRECISIONS
from deconvviz.cli.explaining import typed_options
from deconvviz.cli.following import announced, following
from deconvviz.cli.numbers import LARGEST_SEED
from deconvviz.cli.options import DECODING, device_option, option_group, run_options
from deconvviz.cli.outputs import check_weights, command_line
from deconvviz.errors import DataError, ModelError
from deconvviz.run.opening import device_of
from deconvviz.studies.training.command import ZFNetSizes, start_options, zfnet_sizes_options
from deconvviz.studies.training.heads_command import network_to_train
from deconvviz.studies.training.snapshots_command import SnapshotOptions, snapshot_options

if TYPE_CHECKING:
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.pretraining.recipe import PretrainingRecipe

ATTENTION = "spatial-attention"
UNLABELLED = 1000  # outputs of a zfnet for images without classes; none of them learns anything


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """What the command line says of the views; the attributes are those of `Views`."""

    crop: float
    colour: float
    jitter: float
    grey: float
    blur: float
    flip: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """What the command line says of the recipe; the attributes are those of `PretrainingRecipe`, but for two.

    Attributes:
        addon: name of the add-on, or None.
        pairs: KEY=VALUE for options of the objective and the add-on.
    """

    objective: str
    addon: str | None
    pairs: tuple[str, ...]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    watched: int
    least_rank: float
    least_spread: float
    precision: str
    seed: int

    def recipe(self, views: ViewOptions) -> PretrainingRecipe:
        """Return the recipe; raises DeconvvizError for a value out of its range."""
        from deconvviz.studies.pretraining.recipe import PretrainingRecipe
        from deconvviz.studies.pretraining.views import Views

        settings = dataclasses.asdict(self)
        del settings["addon"], settings["pairs"]
        drawn = Views(**dataclasses.asdict(views))
        return PretrainingRecipe(**settings, **self._options(), views=drawn)

    def _options(self) -> dict[str, Any]:
        """Hand each option to the objective or to the add-on, whichever has it."""
        from deconvviz.studies.pretraining.attention import SpatialAttention
        from deconvviz.studies.pretraining.keywords import defaults_of
        from deconvviz.studies.pretraining.objectives import OBJECTIVES

        of_addon = defaults_of(SpatialAttention) if self.addon else {}
        known = {**defaults_of(OBJECTIVES[self.objective]), **of_addon}
        given = typed_options(self.pairs, "temperature=0.2")
        for key in given:
            if key not in known:
                listed = ", ".join(f"{name}={default!r}" for name, default in known.items())
                named = f"{self.objective} --with {self.addon}" if self.addon else self.objective
                raise DataError(f"option {key!r} given, which {named} does not have; its options are: {listed}")
        attention = {key: value for key, value in given.items() if key in of_addon}
        return {
            "options": {key: value for key, value in given.items() if key not in of_addon},
            "attention": attention if self.addon else None,
        }


view_options = option_group(
    "views",
    ViewOptions,
    click.option("--crop", default=0.2, metavar="SHARE", help="Smallest share of an image's area that a view shows."),
    click.option("--colour", default=0.5, help="Strength of the changes of colour, 0 to 1."),
    click.option("--jitter", default=0.8, metavar="SHARE", help="Share of the views whose colours are changed."),
    click.option("--grey", default=0.2, metavar="SHARE", help="Share of the views that become grey."),
    click.option("--blur", default=0.5, metavar="SHARE", help="Share of the views that are blurred."),
    click.option("--flip", default=0.5, metavar="SHARE", help="Share of the views that are mirrored."),
)
pretraining_options = option_group(
    "rules",
    PretrainingOptions,
    click.option(
        "--objective",
        default="simclr",
        type=click.Choice(OBJECTIVE_NAMES),
        help="What the embeddings of two views of an image are trained for.",
    ),
    click.option(
        "--with", "addon", type=click.Choice([ATTENTION]), help="An add-on that is removed after the training."
    ),
    click.option(
        "--option",
        "pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the objective or the add-on, such as temperature=0.2 or form=module. May be given several "
        "times.",
    ),
    click.option(
        "--epochs", default=100, help="Passes over the images; a network that has some of them is trained for the rest."
    ),
    click.option(
        "--batch-size", default=256, help="Images in a step, which the loss compares: they must fit in memory."
    ),
    click.option("--lr", default=0.001, help="Learning rate of Adam."),
    click.option("--weight-decay", default=1e-6, help="Weight decay of Adam."),
    click.option("--watched", default=512, help="Images whose embeddings are looked at after each epoch."),
    click.option(
        "--least-rank",
        default=2.0,
        help="Effective rank of embeddings or projections, below which they have collapsed.",
    ),
    click.option("--least-spread", default=0.1, help="Spread of projections, 0 to 1, below which they have collapsed."),
    click.option(
        "--precision",
        default="fp32",
        type=click.Choice(TRAINING_PRECISIONS),
        help="Precision of forward and backward passes; weights stay fp32.",
    ),
    click.option(
        "--seed", default=0, type=click.IntRange(0, LARGEST_SEED), help="Seed of weights, order, views and dropout."
    ),
)


@click.command()
@click.argument("model")
@click.argument("data", metavar="IMAGES")
@click.option("-o", "--out", required=True, help="The trained network, named .pth; an unfinished one is resumed.")
@start_options
@pretraining_options
@view_options
@snapshot_options
@zfnet_sizes_options
@click.option("--commit-every", default=500, type=click.IntRange(1), help="Steps between commits.")
@run_options(workers=DECODING)
@device_option
def pretrain(
    model: str,
    data: str,
    out: str,
    weights: str,
    input_size: int | None,
    resize: int | None,
    rules: PretrainingOptions,
    views: ViewOptions,
    snapshots: SnapshotOptions,
    zfnet: ZFNetSizes,
    commit_every: int,
    run: RunOptions,
    device: str,
) -> None:
    """Train a network without labels, and watch that its embedding does not collapse.

    Two views of an image get embeddings that agree, and those of other images differ. IMAGES is a packed store, a
    folder, or scenes[:COUNT[:SEED]]; labels are not looked at. Other commands take the result as --weights OUT; its
    last layer has learned nothing. A table of each epoch is written beside it, as .csv.
    The same command resumes what was interrupted, and ends with the same weights (on a CPU).

    \b
    Examples:
      deconvviz pretrain zfnet scenes:2000 --input 32 --width 0.25 --epochs 10 -o simclr.pth
      deconvviz pretrain zfnet photos.h5 --objective swav --with spatial-attention --option form=module -o swav.pth
    """
    snapshots.require_place()
    check_weights(out)
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.pretraining.pretrain import pretrain as pretrain_network

    recipe, images = rules.recipe(views), open_images(data)
    if model == "demo":
        raise ModelError("demo is trained already; to train its kind without labels: deconvviz pretrain zfnet")
    arguments = zfnet.arguments(model, images, input_size, UNLABELLED)
    network, preprocess, head = network_to_train(model, weights, arguments, recipe.seed, input_size)
    if head is not None:
        raise ModelError(
            f"{weights} has a head for other classes; pretrain begins from a network with its own last layer"
        )
    result = pretrain_network(
        network,
        images,
        out,
        recipe,
        preprocess=preprocess,
        resize=resize,
        name=model,
        arguments=arguments,
        recorder=snapshots.recorder(),
        device=device_of(device),
        workers=run.workers,
        commit_every=commit_every,
        progress=run.progress,
        sources={"command": command_line(), "weights": weights},
    )
    click.echo(repr(result))
    if result.collapsed:
        epochs = ", ".join(map(str, result.collapsed[:10])) + (" and more" if len(result.collapsed) > 10 else "")
        click.echo(f"warning: the embedding had collapsed after these epochs: {epochs}", err=True)
    click.echo(f"wrote {out} and {pathlib.Path(out).with_suffix('.csv')}; {announced(_next(model, data, out))}")


def _next(model: str, data: str, out: str) -> list[str]:
    """Return the commands that tell what the network has learned."""
    return [
        following("layers", model, "--weights", out),
        following("probe", model, data, "--weights", out, "-o", "probe.csv"),
    ]

"""deconvviz train"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import FIRST_LAYERS, TRAINING_PRECISIONS
from deconvviz.cli.dependent import typed
from deconvviz.cli.following import IMAGE, announced, following
from deconvviz.cli.inputs import integers
from deconvviz.cli.numbers import LARGEST_SEED, FiniteRange
from deconvviz.cli.options import DECODING, Command, device_option, option_group, run_options, with_options
from deconvviz.cli.outputs import check_table, check_weights, command_line
from deconvviz.errors import DataError
from deconvviz.run.opening import device_of
from deconvviz.studies.training.additions_command import AdditionOptions, addition_options
from deconvviz.studies.training.heads_command import HeadOptions, head_options
from deconvviz.studies.training.snapshots_command import SnapshotOptions, marked, snapshot_options

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.training.heads_command import Beginning
    from deconvviz.studies.training.recipe import Recipe

PAPER_RADIUS = 0.1  # `zfnet.PAPER_RADIUS`, whose module needs torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZFNetOptions:
    """What the command line says of every zfnet that it trains.

    Attributes:
        width: factor on all maps and units.
        first: "zfnet" or "alexnet", the kind of layers 1 and 2.
        dropout: share of the units of layers 6 and 7 that is dropped.
    """

    width: float
    first: str
    dropout: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZFNetSizes(ZFNetOptions):
    """What the command line says of one zfnet: beside the above, the sizes of its layers.

    Attributes:
        conv: maps of layers 1 to 5, as text.
        fc: units of layers 6 and 7, as text.
        remove: layers that are left out, as text; empty for none.
    """

    conv: str
    fc: str
    remove: str

    def arguments(self, model: str, images: Images, input_size: int | None, unlabelled: int = 0) -> dict[str, Any]:
        """Return the arguments of `zfnet`; without an input size, the largest that the images have room for.

        Another model has none, and an option of a zfnet that is given for it is refused. Images without classes are
        refused, unless `unlabelled` says how many outputs the network has for them.
        """
        from deconvviz.studies.training.labelled import class_names
        from deconvviz.studies.training.recipe import fitting_input_size

        if model != "zfnet":
            given = typed(*(field.name for field in dataclasses.fields(self)))
            if given:
                raise DataError(f"{next(iter(given))} given for {model}; it is an option of zfnet: leave it out")
            return {}
        classes = len(class_names(images)) or unlabelled
        if not classes:
            raise DataError("the images have no classes; pack a folder with a sub-folder for each class")
        fitting = fitting_input_size(images, self.first)  # reads an image, so that a broken one is found out now
        return {
            "width": self.width,
            "first": self.first,
            "dropout": self.dropout,
            "conv": list(integers(self.conv)),
            "fc": list(integers(self.fc)),
            "remove": list(integers(self.remove)) if self.remove else [],
            "classes": classes,
            "input_size": input_size or fitting,
        }


def start_options(command: Command) -> Command:
    """Add --weights, --input and --resize, handed to a command that trains as `weights`, `input_size`, `resize`."""
    return with_options(
        command,
        click.option(
            "--weights",
            default="none",
            metavar="DEFAULT|FILE|none",
            help="Weights to start from: the model's own, those of a file, or random ones.",
        ),
        click.option(
            "--input",
            "input_size",
            type=click.IntRange(1),
            help="Side of the square input; zfnet: 32, 64, 96 or 224.  "
            "[default: zfnet: the largest that fits the images]",
        ),
        click.option(
            "--resize", type=click.IntRange(1), help="Shorter side before the crop.  [default: 8/7 of the input]"
        ),
    )


def zfnet_options(command: Command) -> Command:
    """Add --width, --first and --dropout, handed to the command as `zfnet`, a `ZFNetOptions`."""
    return option_group("zfnet", ZFNetOptions, *_zfnet_options())(command)


def zfnet_sizes_options(command: Command) -> Command:
    """Add --width, --first, --dropout, --conv, --fc and --remove, handed to the command as `zfnet`, a `ZFNetSizes`."""
    return option_group(
        "zfnet",
        ZFNetSizes,
        *_zfnet_options("zfnet: "),
        click.option("--conv", default="96,256,384,384,256", help="zfnet: Maps of layers 1 to 5."),
        click.option("--fc", default="4096,4096", help="zfnet: Units of layers 6 and 7."),
        click.option("--remove", default="", show_default=False, metavar="3,4", help="zfnet: Layers to leave out."),
    )(command)


def _zfnet_options(of: str = "") -> list[Callable[[Command], Command]]:
    """Return the options of a `ZFNetOptions`; `of` begins each help text where other models are trained too."""
    return [
        click.option("--width", default=1.0, help=f"{of}Factor on all maps and units."),
        click.option(
            "--first",
            default="zfnet",
            type=click.Choice(FIRST_LAYERS),
            help=f"{of}Kind of layers 1 and 2; the paper's table 3 removes layers from alexnet.",
        ),
        click.option("--dropout", default=0.5, help=f"{of}Share of layers 6 and 7 that is dropped."),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What the command line says of the recipe; the attributes are those of `Recipe` but for one.

    Attributes:
        validation: a share of the images that is held out, or other images, as text.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    factor: float
    patience: int
    radius: float | None
    validation: str
    augment: bool
    precision: str
    seed: int

    @property
    def share(self) -> float | None:
        """The share of the images that is held out; None where other images are named."""
        try:
            return float(self.validation)
        except ValueError:
            return None

    def recipe(self, usual_radius: float = PAPER_RADIUS) -> Recipe:
        """Return the recipe; raises TrainingError for a value out of its range.

        Args:
            usual_radius: the limit on filters where none was given.
        """
        from deconvviz.studies.training.recipe import Recipe

        given: dict[str, Any] = {"validation": self.share or 0.0}
        given["radius"] = usual_radius if self.radius is None else self.radius
        return Recipe(**{**dataclasses.asdict(self), **given})

    def validation_images(self) -> Images | None:
        """Open the images to validate on; None where a share of the training images is held out."""
        from deconvviz.data.datasets import open_images

        return open_images(self.validation) if self.share is None else None


recipe_options = option_group(
    "recipe",
    RecipeOptions,
    click.option(
        "--epochs", default=70, help="Passes over the images; a network that has some of them is trained for the rest."
    ),
    click.option("--batch-size", default=128, help="Images in a step."),
    click.option("--lr", default=0.01, help="Learning rate at the beginning."),
    click.option("--momentum", default=0.9, help="Momentum of SGD."),
    click.option("--weight-decay", default=0.0, help="Weight decay of SGD."),
    click.option(
        "--factor",
        default=0.1,
        help="Factor on the learning rate after --patience epochs without a lower validation error.",
    ),
    click.option("--patience", default=5, help="Number of such epochs."),
    click.option(
        "--radius",
        type=FiniteRange(),
        help="Largest root mean square of a filter; 0 sets no limit.  [default: 0.1, as in the paper; where a trained "
        "network is adapted, 0]",
    ),
    click.option(
        "--validation",
        default="0.1",
        metavar="SHARE|DATA",
        help="Share of the images that is held out, or other images to validate on.",
    ),
    click.option("--augment/--no-augment", default=True, help="Crop and flip images at random."),
    click.option(
        "--precision",
        default="fp32",
        type=click.Choice(TRAINING_PRECISIONS),
        help="Precision of forward and backward passes; weights stay fp32.",
    ),
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0, LARGEST_SEED),
        help="Seed of weights, order, crops, flips and dropout.",
    ),
)


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("-o", "--out", required=True, help="The trained network; an unfinished one is resumed.")
@start_options
@snapshot_options
@recipe_options
@head_options
@addition_options
@zfnet_sizes_options
@click.option(
    "--seeds",
    default=1,
    type=click.IntRange(1),
    help="Train this number of networks, from --seed on; each has a file of its own, OUT with -seedN in its name.",
)
@click.option("--csv", "table", metavar="FILE", help="Write the history as a table, .csv.")
@click.option("--commit-every", default=500, type=click.IntRange(1), help="Steps between commits.")
@run_options(workers=DECODING)
@device_option
def train(
    model: str,
    data: str,
    out: str,
    weights: str,
    input_size: int | None,
    resize: int | None,
    snapshots: SnapshotOptions,
    recipe: RecipeOptions,
    heads: HeadOptions,
    adding: AdditionOptions,
    zfnet: ZFNetSizes,
    seeds: int,
    table: str | None,
    commit_every: int,
    run: RunOptions,
    device: str,
) -> None:
    """Train a network by the paper's recipe, and record snapshots of it.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.
    The same command resumes what was interrupted, even by a power cut, and ends with the same weights (on a CPU).

    \b
    Examples:
      deconvviz train zfnet scenes:2000 --input 64 --width 0.2 --epochs 10 --snapshots evolution.h5 -o zfnet.pth
      deconvviz train zfnet photos.h5 --epochs 64 --snapshots evolution.h5 --out zfnet.pth
      deconvviz train torchvision:resnet18 photos/ --weights DEFAULT --head new --body-rate 0.1 -o mine.pth
      deconvviz train zfnet photos.h5 --with hide-and-seek,mixup --option cells=8 --csv history.csv -o zfnet.pth
    """
    if table:
        check_table(table)
    snapshots.require_place()
    heads.note_weights(weights)
    check_weights(out)
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.training.labelled import class_names
    from deconvviz.studies.training.train import train as train_network

    rules = recipe.recipe(PAPER_RADIUS if not heads.tunes else 0.0)
    images, validation = heads.labelled(open_images(data), recipe.validation_images())
    arguments = zfnet.arguments(model, images, input_size)
    for seed in range(rules.seed, rules.seed + seeds):
        mark = f"-seed{seed}" if seeds > 1 else ""
        start = heads.beginning(model, weights, arguments, len(class_names(images)), seed, input_size)
        trained = train_network(
            start.model,
            images,
            marked(out, mark),
            dataclasses.replace(rules, seed=seed),
            preprocess=start.preprocess,
            resize=resize,
            validation=validation,
            name=model,
            arguments=start.arguments,
            recorder=snapshots.recorder(mark),
            additions=adding.named(),
            fine_tuning=start.fine_tuning,
            device=device_of(device),
            workers=run.workers,
            commit_every=commit_every,
            progress=run.progress,
            sources={"command": command_line(), "weights": weights},
        )
        click.echo(repr(trained))
        if table:
            trained.save_csv(marked(table, mark))
            click.echo(f"wrote {marked(table, mark)}")
        file = marked(out, mark)
        click.echo(f"wrote {file}; {announced(_next(model, data, file, start, snapshots.path(mark)))}")


def _next(model: str, data: str, out: str, start: Beginning, snapshots: str | None) -> list[str]:
    """Return the commands that show what was trained, at its last convolution."""
    from torch import nn

    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    convolutions = [name for name, module in start.model.named_modules() if name and isinstance(module, kinds)]
    if not convolutions:  # the user looks for a layer
        return [following("layers", model, "--weights", out)]
    packed = pathlib.Path(data).is_file()
    store = data if packed else "images.h5"
    commands = [] if packed else [following("pack", data, store)]
    commands.append(following("mine", model, store, "--weights", out, "-l", convolutions[-1], "-o", "mined.h5"))
    head = start.fine_tuning.head
    if head is not None and head.kind == "gap":  # what CAM explains in its own architecture
        commands.append(following("cam", "cam", model, IMAGE, "--weights", out, "-l", head.layer, "-o", "cam.png"))
    if snapshots:
        commands.append(following("evolve", snapshots, store, "-l", convolutions[-1], "-o", "evolution.png"))
    return commands

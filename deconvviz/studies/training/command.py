"""deconvviz train"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import FIRST_LAYERS, TRAINING_PRECISIONS
from deconvviz.cli.following import announced, following
from deconvviz.cli.inputs import integers, with_input
from deconvviz.cli.options import DECODING, Command, device_option, option_group, run_options
from deconvviz.cli.outputs import command_line
from deconvviz.errors import DataError, ModelError
from deconvviz.run.opening import device_of

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.training.recipe import Recipe
    from deconvviz.studies.training.recorder import SnapshotRecorder

SNAPSHOT_EPOCHS = "1,2,5,10,20,30,40,64"  # `recorder.PAPER_EPOCHS`, whose module needs torch


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

    def arguments(self, images: Images, input_size: int | None, unlabelled: int = 0) -> dict[str, Any]:
        """Return the arguments of `zfnet`; without an input size, the largest that the images have room for.

        Images without classes are refused, unless `unlabelled` says how many outputs the network has for them.
        """
        from deconvviz.studies.training.recipe import fitting_input_size
        from deconvviz.studies.training.train import class_names

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
    radius: float
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

    def recipe(self) -> Recipe:
        """Return the recipe; raises TrainingError for a value out of its range."""
        from deconvviz.studies.training.recipe import Recipe

        return Recipe(**{**dataclasses.asdict(self), "validation": self.share or 0.0})

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
    click.option("--radius", default=0.1, help="Largest root mean square of a filter; 0 sets no limit."),
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
    click.option("--seed", default=0, help="Seed of weights, order, crops, flips and dropout."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnapshotOptions:
    """What the command line says of snapshots.

    Attributes:
        snapshots: path of their file; None records none.
        snapshot_epochs: the epochs whose weights are kept, as text.
        snapshot_half: whether they are kept in half precision.
    """

    snapshots: str | None
    snapshot_epochs: str
    snapshot_half: bool

    def recorder(self) -> SnapshotRecorder | None:
        """Return what records them, None where no file is named."""
        import torch

        from deconvviz.studies.training.recorder import SnapshotRecorder

        if self.snapshots is None:
            return None
        return SnapshotRecorder(
            self.snapshots,
            integers(self.snapshot_epochs),
            sources={"command": command_line()},
            dtype=torch.float16 if self.snapshot_half else None,
            resume=True,
        )


snapshot_options = option_group(
    "snapshots",
    SnapshotOptions,
    click.option("--snapshots", metavar="FILE", help="Record weights during training, for `deconvviz evolve`."),
    click.option("--snapshot-epochs", default=SNAPSHOT_EPOCHS, help="The epochs whose weights are kept."),
    click.option("--snapshot-half", is_flag=True, help="Keep them in half precision, in half the space."),
)


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("-o", "--out", required=True, help="The trained network; an unfinished one is resumed.")
@click.option(
    "--weights",
    default="none",
    metavar="DEFAULT|FILE|none",
    help="Weights to start from: the model's own, those of a file, or random ones.",
)
@click.option(
    "--input",
    "input_size",
    type=click.IntRange(1),
    help="Side of the square input; zfnet: 32, 64, 96 or 224.  [default: zfnet: the largest that fits the images]",
)
@click.option("--resize", type=click.IntRange(1), help="Shorter side before the crop.  [default: 8/7 of the input]")
@snapshot_options
@recipe_options
@zfnet_sizes_options
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
    zfnet: ZFNetSizes,
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
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.training.train import train as train_network

    rules, images = recipe.recipe(), open_images(data)
    arguments = zfnet.arguments(images, input_size) if model == "zfnet" else {}
    network, preprocess = _network(model, weights, arguments, rules.seed, input_size)
    trained = train_network(
        network,
        images,
        out,
        rules,
        preprocess=preprocess,
        resize=resize,
        validation=recipe.validation_images(),
        name=model,
        arguments=arguments,
        recorder=snapshots.recorder(),
        device=device_of(device),
        workers=run.workers,
        commit_every=commit_every,
        progress=run.progress,
        sources={"command": command_line(), "weights": weights},
    )
    click.echo(repr(trained))
    click.echo(f"wrote {out}; {announced(_next(model, data, out, network, snapshots.snapshots))}")


def _next(model: str, data: str, out: str, network: nn.Module, snapshots: str | None) -> list[str]:
    """Return the commands that show what was trained, at its last convolution."""
    from torch import nn

    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    convolutions = [name for name, module in network.named_modules() if name and isinstance(module, kinds)]
    if not convolutions:  # the user looks for a layer
        return [following("layers", model, "--weights", out)]
    packed = pathlib.Path(data).is_file()
    store = data if packed else "images.h5"
    commands = [] if packed else [following("pack", data, store)]
    commands.append(following("mine", model, store, "--weights", out, "-l", convolutions[-1], "-o", "mined.h5"))
    if snapshots:
        commands.append(following("evolve", snapshots, store, "-l", convolutions[-1], "-o", "evolution.png"))
    return commands


def _network(
    model: str, weights: str, arguments: dict[str, Any], seed: int, input_size: int | None
) -> tuple[nn.Module, Preprocess | None]:
    """Return the network to train, and its preprocessing; None where the training finds it, as for zfnet."""
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import build_model
    from deconvviz.models.weights import load_weights, read_weights

    if model == "demo":
        raise ModelError("demo is trained already; to train its kind anew: deconvviz demo --train, or train zfnet")
    network, settings = build_model(model, arguments, weights == "DEFAULT" and model != "zfnet", seed)
    if weights not in ("DEFAULT", "none"):
        load_weights(network, read_weights(pathlib.Path(weights)))
    if model == "zfnet":
        return network, None
    return network, with_input(Preprocess.from_dict(settings), input_size, None)

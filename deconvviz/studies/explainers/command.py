"""deconvviz train-cam"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import EXPLAINED
from deconvviz.cli.explaining import key_and_value, typed_options
from deconvviz.cli.following import IMAGE, PICTURE, following, picture_of
from deconvviz.cli.inputs import integers, matched_outputs, numbers, open_model, output_names
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    layers_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_weights, sources
from deconvviz.errors import DataError
from deconvviz.registry import require_name
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import Phase
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.datasets import Images
    from deconvviz.graph.network import Network
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.explainers.options import ExplainerTrainingKeywords
    from deconvviz.studies.explainers.result import TrainedExplainer

NOTE = (
    "An explainer learns a class from images that show it: for a class that the training images did not show, its map "
    "is little more than noise. At the end the command prints how the explainer does on images held out, beside "
    "Grad-CAM. L-CAM's default schedule is its authors', for more than a million images: with some hundred, give a "
    "higher learning rate and smaller batches, such as --lr 1 --batch-size 16."
)


DEFAULTS = {
    "epochs": "26 for l-cam-fm, l-cam-img",
    "steps": "8500,3000 for real-time-masking; 1500 for bump",
    "lr": "0.001 for real-time-masking, bump; 0.0001 for l-cam-fm, l-cam-img",
    "decay": "0.1 for real-time-masking; 1 for bump; 0.95 for l-cam-fm, l-cam-img",
    "batch_size": "128,64 for real-time-masking; 16 for bump; 64 for l-cam-fm, l-cam-img",
}
"""Option of the schedule -> its defaults by method, those of the phases: the help is written before torch is imported.

Of a method with several phases the values have commas between them, unless all are the same.
"""


@dataclass(frozen=True)
class ScheduleOptions:
    """Changes to a method's own schedule, as they were typed: one value, or one for each phase with commas between.

    Attributes:
        epochs: passes over the images.
        steps: steps, instead of epochs.
        lr: learning rate to begin with.
        decay: factor on the learning rate.
        batch_size: images in a step.
        augment: whether images are cropped and flipped at random.
    """

    epochs: str | None = None
    steps: str | None = None
    lr: str | None = None
    decay: str | None = None
    batch_size: str | None = None
    augment: bool = True

    def typed(self) -> dict[str, Sequence[float]]:
        """Return the numbers of each option that was typed; raises DataError for other text."""
        typed: dict[str, Sequence[float]] = {}
        for name in DEFAULTS:
            text = getattr(self, name)
            if text is not None:
                typed[name] = numbers(text, "0.1") if name in ("lr", "decay") else integers(text)
        return typed

    def phases(self, method: str, options: Mapping[str, Any] | None = None) -> tuple[Phase, ...]:
        """Return the phases that a method with these options has, changed as was typed.

        Raises:
            DataError: another number of values than phases.
        """
        from deconvviz.cam.learned import files  # noqa: F401, the explainers register
        from deconvviz.cam.learned.base import LEARNED

        phases = tuple(replace(phase, augment=self.augment) for phase in LEARNED[method].needed(options or {}))
        for name, given in self.typed().items():
            if len(given) not in (1, len(phases)):
                known = ", ".join(phase.name for phase in phases)
                option = name.replace("_", "-")
                raise DataError(
                    f"--{option} {getattr(self, name)} given; expected one value, or one for each of {known}"
                )
            values = [*given] * len(phases) if len(given) == 1 else given
            changes: list[dict[str, Any]] = [{name: value} for value in values]
            if name == "epochs":  # a phase of a fixed number of steps becomes one of epochs
                changes = [{**change, "steps": 0} for change in changes]
            phases = tuple(replace(phase, **change) for phase, change in zip(phases, changes, strict=True))
        return phases


schedule_options = option_group(
    "schedule",
    ScheduleOptions,
    click.option(
        "--epochs",
        help="Passes over the images. A higher number than OUT was trained with adds some."
        f"  [default: {DEFAULTS['epochs']}; the others count steps]",
    ),
    click.option("--steps", help=f"Number of steps, instead of epochs.  [default: {DEFAULTS['steps']}]"),
    click.option(
        "--lr",
        help=f"Learning rate to begin with; that of L-CAM's biases is twice as high.  [default: {DEFAULTS['lr']}]",
    ),
    click.option(
        "--decay",
        help="Factor on the learning rate after each epoch (real-time-masking: after each 4000 steps)."
        f"  [default: {DEFAULTS['decay']}]",
    ),
    click.option("--batch-size", help=f"Images in a step.  [default: {DEFAULTS['batch_size']}]"),
    click.option("--augment/--no-augment", default=True, help="Crop and flip images at random."),
)


@dataclass(frozen=True)
class LossOptions:
    """The method's options, as they were typed.

    Attributes:
        pairs: each "KEY=VALUE".
        grid: each "KEY=V1,V2,..."; all combinations of the values are tried.
        validation: share of the images that is held out.
    """

    pairs: tuple[str, ...]
    grid: tuple[str, ...]
    validation: float

    def options(self) -> dict[str, Any]:
        """Return the options that are set; raises DataError for a pair without a value."""
        return typed_options(self.pairs, "area=2")

    def values(self) -> dict[str, tuple[float, ...]]:
        """Return the values to try, option -> values; raises DataError for one without values."""
        example = "1,2,4"
        pairs = (key_and_value(text, f"area={example}") for text in self.grid)
        return {key: numbers(text, example) for key, text in pairs}


loss_options = option_group(
    "loss",
    LossOptions,
    click.option(
        "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="An option of the method, such as area=2."
    ),
    click.option(
        "--grid",
        multiple=True,
        metavar="KEY=V1,V2",
        help="Train with each of these values, and keep the explainer that does best on the images held out.",
    ),
    click.option("--validation", default=0.2, help="Share of the images that is held out; 0 holds out none."),
)


@click.command("train-cam", epilog=NOTE)
@click.argument("method")
@click.argument("model")
@click.argument("images")
@layers_option("Name of a layer to read; real-time-masking and bump read several.")
@click.option(
    "-o",
    "--out",
    required=True,
    help="The explainer, .pth; beside it .json and .csv. A training that was interrupted resumes.",
)
@click.option(
    "--explain",
    default="top",
    type=click.Choice(EXPLAINED),
    help="Learn the network's own decisions, or the images' labels.",
)
@loss_options
@schedule_options
@click.option("--commit-every", default=200, type=click.IntRange(1), help="Number of steps between two checkpoints.")
@run_options(
    precision="Precision of the network's passes; the explainer computes in fp32.",
    workers=DECODING,
    seed="Seed of the first weights, the order of the images, crops and flips.",
)
@classes_option
@model_options
def train_cam(
    method: str,
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    explain: str,
    loss: LossOptions,
    schedule: ScheduleOptions,
    commit_every: int,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Train an explainer for a network, which then explains an image in one forward pass.

    METHOD is l-cam-fm, l-cam-img, real-time-masking or bump. The network is left unchanged. IMAGES is a packed store, a
    folder of classes or scenes[:COUNT[:SEED]]. If the training is interrupted, even by a power cut, the same command
    resumes and ends with the same weights (on a CPU). OUT.csv has the loss term by term.

    \b
    Examples:
      deconvviz train-cam l-cam-img torchvision:squeezenet1_0 photos.h5 -l features.12 -o lcam.pth
      deconvviz cam l-cam-img torchvision:squeezenet1_0 cat.jpg --explainer lcam.pth -o cam.png
      deconvviz train-cam bump demo scenes:2000 -l relu2 -l relu5 --steps 1500 -o bump.pth
      deconvviz train-cam l-cam-fm demo scenes:2000 -l relu5 --lr 0.1 --epochs 8 --grid area=1,2,4 -o lcam.pth
    """
    from deconvviz.cam.catalogue import learned_declarations

    require_name("learned explainer", method, learned_declarations())  # before torch is imported
    check_weights(out)
    _ = loss.options(), loss.values(), schedule.typed()
    from deconvviz.data.datasets import open_images

    opened_images = open_images(images)
    opened = open_model(model, options)
    outputs = None
    if names is not None or explain == "label":
        class_names = output_names(opened.loaded, names, opened.network, opened_images)
    if explain == "label":
        outputs = matched_outputs(opened_images, opened.network, class_names, True, "")
    layers = layers or default_layers(method, opened.network)
    training: ExplainerTrainingKeywords = {
        "options": loss.options(),
        "phases": schedule.phases(method, loss.options()),
        "outputs": outputs,
        "commit_every": commit_every,
        "sources": sources(opened.loaded),
        **run.keywords(),
    }
    work = _search if loss.grid else _train
    trained = work(method, opened, opened_images, layers, out, loss, training)
    click.echo(repr(trained))
    image = picture_of(opened_images)
    command = following("cam", method, model, image, "--explainer", out, "-o", "cam.png", carry=(*PICTURE, "names"))
    click.echo(f"wrote {out}; next{', with a picture of yours for IMAGE' * (image == IMAGE)}: {command}")


def _search(
    method: str,
    opened: OpenedModel,
    images: Images,
    layers: Sequence[str],
    out: str,
    loss: LossOptions,
    training: ExplainerTrainingKeywords,
) -> TrainedExplainer:
    """Train an explainer with each setting of the grid, and write and print how they do."""
    from deconvviz.studies.explainers.search import grid_search

    search, trained = grid_search(
        method,
        opened.network,
        images,
        layers,
        out,
        loss.values(),
        preprocess=opened.preprocess,
        validation=loss.validation,
        **training,
    )
    search.save_csv(beside(out, ".search.csv"))
    click.echo(repr(search))
    return trained


def _train(
    method: str,
    opened: OpenedModel,
    images: Images,
    layers: Sequence[str],
    out: str,
    loss: LossOptions,
    training: ExplainerTrainingKeywords,
) -> TrainedExplainer:
    """Train an explainer; write and print how it does on images held out, beside Grad-CAM where it reads one layer."""
    from deconvviz.studies.explainers.search import evaluate_held_out, hold_out
    from deconvviz.studies.explainers.train import train_explainer

    network, preprocess, _ = opened
    training_images, held_out = hold_out(images, loss.validation, training["seed"])
    trained = train_explainer(method, network, training_images, layers, out, preprocess=preprocess, **training)
    if held_out is not None:
        others, other_layers = (["grad-cam"], layers) if len(layers) == 1 else ([], ())
        evaluation = evaluate_held_out(
            trained, network, held_out, preprocess, others, other_layers, progress=training["progress"]
        )
        evaluation.save_csv(beside(out, ".held-out.csv"))
        click.echo(f"on {counted(len(held_out), 'image')} held out:\n{evaluation!r}")
    return trained


def default_layers(method: str, network: Network) -> tuple[str, ...]:
    """Return the layers to read where none is named: the last maps of the network, or the last maps of each size."""
    from deconvviz.cam.learned import files  # noqa: F401, the explainers register
    from deconvviz.cam.learned.base import LEARNED
    from deconvviz.graph.choose import last_maps, last_of_each_size

    kind = LEARNED[method]
    return last_of_each_size(network, kind.most) if kind.many else (last_maps(network),)

"""Train the network without some of its layers, or with wider ones, by one recipe, and compare the errors.

The paper's table 3 on any images.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError, MismatchError, nearest
from deconvviz.metrics.intervals import paired_interval
from deconvviz.models.load import build_model
from deconvviz.models.zfnet import ZFNet, zfnet
from deconvviz.progress import write_line
from deconvviz.results.folders import begin_or_resume
from deconvviz.results.results import Result, stamped
from deconvviz.studies.ablation.result import Variant, VariantTable
from deconvviz.studies.ablation.variants import FULL, PAPER_ERRORS, VARIANTS
from deconvviz.studies.training.labelled import class_names, training_and_validation
from deconvviz.studies.training.options import TrainingKeywords, TrainingOptions
from deconvviz.studies.training.recipe import PAPER, Recipe, fitting_input_size
from deconvviz.studies.training.result import Trained
from deconvviz.studies.training.train import train
from deconvviz.types import Ints, Mask, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

KIND, SCHEMA, NOTE = "ablation", 1, "ablation.h5"


class AblationKeywords(TrainingKeywords, total=False):
    """The fields of `AblationOptions`, as the keyword arguments of `ablate`."""

    input_size: int | None
    resize: int | None
    width: float
    first: str
    dropout: float


@dataclass(frozen=True, kw_only=True)
class AblationOptions(TrainingOptions):
    """What the networks of all variants have in common, and how the trainings run.

    Attributes:
        input_size: side of the images in pixels; None takes the largest that `zfnet` has for the first image.
        resize: shorter side of the images before the crop in pixels; None takes 8/7 of the input size.
        width: factor on all maps and units.
        first: "zfnet" or "alexnet", the kind of layers 1 and 2. The paper removes layers from "alexnet".
        dropout: share of the units of layers 6 and 7 that is dropped in training.
    """

    input_size: int | None = None
    resize: int | None = None
    width: float = 1.0
    first: str = "zfnet"
    dropout: float = 0.5

    def network_arguments(self, images: Images) -> dict[str, Any]:
        """Return the arguments of `zfnet` that all variants share."""
        return {
            "classes": len(class_names(images)),
            "input_size": self.input_size or fitting_input_size(images, self.first),
            "width": self.width,
            "first": self.first,
            "dropout": self.dropout,
        }

    def training(self) -> TrainingKeywords:
        """Return the keyword arguments of `train` among these options."""
        keywords: Any = {field.name: getattr(self, field.name) for field in fields(TrainingOptions)}
        return keywords  # type: ignore[no-any-return]


def ablate(
    images: Images,
    validation: Images | None = None,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    folder: Pathlike,
    recipe: Recipe = PAPER,
    **options: Unpack[AblationKeywords],
) -> VariantTable:
    """Train variants of ZFNet by the same recipe, and compare their errors.

    Each variant is trained into FOLDER/NAME.pth. Calling again with the same arguments resumes: a variant that is
    finished is not trained again, and with more epochs each is trained for those that it lacks.

    Args:
        images: labelled images to train on.
        validation: other images to validate on; None holds a share of `images` out (`recipe.validation`).
        variants: names from `variants.VARIANTS`, such as "full", "no-3-4" and "fc-2048".
        folder: path of the folder for the networks; it is made where it does not exist. The file ablation.h5 in it
            holds what was measured.
        recipe: epochs, batch size, learning rate and so on.
        options: `input_size`, `resize`, `width`, `first` and `dropout` of `AblationOptions`, and `device`,
            `commit_every`, `workers`, `progress` and `sources` of `TrainingOptions`.

    Returns:
        A row for each variant, in the order of `variants`.

    Raises:
        DataError: a variant does not exist, the images have no classes, no image is left to validate on, or the folder
            cannot be made.
        MismatchError: the folder holds variants of another recipe, size or dataset, or variants that were trained for
            more epochs.
        ModelError: the input size or the width gives no network.
        TrainingError: a training diverged, or an option is out of its range.

    Source: Zeiler and Fergus 2013, section 5.1 and table 3. The intervals are this package's.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> short, size = dv.Recipe(epochs=1, batch_size=32), {"input_size": 32, "width": 0.02}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     job = {"folder": folder, "recipe": short, "progress": False, **size}
    ...     table = dv.ablate(dv.Scenes(30), dv.Scenes(20, seed=1), ["full", "no-6-7"], **job)
    >>> [row.name for row in table.rows], table.images, table.rows[0].parameters > table.rows[1].parameters
    (['full', 'no-6-7'], 20, True)
    """
    how, names = AblationOptions(**options), _names(variants)
    parts = _parts(images, validation, recipe)
    shared = how.network_arguments(images)
    parameters = {name: _parameters({**shared, **VARIANTS[name]}) for name in names}
    fresh = Result(KIND, SCHEMA, _config(images, validation, {**shared, "resize": how.resize}, recipe))
    measured = begin_or_resume(folder, NOTE, fresh, "give another folder")
    measured.sources = stamped(how.sources)
    job = AblationRun(pathlib.Path(folder), recipe, how, parts, shared, measured)
    job.refuse_longer(names)
    for number, name in enumerate(names, 1):
        if not job.is_finished(name):
            if how.progress:
                count = f"{parameters[name]:,} parameters"
                write_line(f"{name} ({number} of {len(names)}): {count}")
            job.measure(name, job.trained(name))
    return table_of(measured, parameters, shared["classes"] > 5)


class LabelledPart(NamedTuple):
    """Some images of a dataset, all with a known class.

    Attributes:
        images: the dataset.
        indices: int64 [n], which of them.
    """

    images: Images
    indices: Ints


class AblationRun:
    """The trainings of one folder, one after the other, and what is measured of each.

    Attributes:
        folder: where the networks are written.
        recipe: by which each is trained.
        options: how.
        parts: the images to train on, and those to validate on.
        shared: the arguments of `zfnet` that all variants share.
        measured: for each variant its state (epochs, errors, seconds) and an array (bool [n], which validation images
            it classifies correctly); it is saved after each variant.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        recipe: Recipe,
        options: AblationOptions,
        parts: tuple[LabelledPart, LabelledPart],
        shared: Mapping[str, Any],
        measured: Result,
    ) -> None:
        self.folder, self.recipe, self.options = folder, recipe, options
        self.parts, self.shared, self.measured = parts, shared, measured

    def path(self, name: str) -> pathlib.Path:
        """Return the path of a variant's network."""
        return self.folder / f"{name}.pth"

    def epochs(self, name: str) -> int:
        """Return the number of epochs after which a variant was measured; 0 where it was not."""
        return int(self.measured.state.get(name, {}).get("epochs", 0))

    def is_finished(self, name: str) -> bool:
        """Return whether a variant was trained for the recipe's epochs, and measured."""
        return self.path(name).exists() and self.epochs(name) == self.recipe.epochs

    def refuse_longer(self, names: Sequence[str]) -> None:
        """Raise MismatchError, before any work, where a variant was trained for more epochs."""
        for name in names:
            self._check_epochs(name, self.epochs(name))

    def trained(self, name: str) -> Trained:
        """Train a variant, or resume its training."""
        model, _ = build_model("zfnet", {**self.shared, **VARIANTS[name]}, seed=self.recipe.seed)
        assert isinstance(model, ZFNet)
        images, others = (part.images for part in self.parts)
        trained = train(
            model,
            images,
            self.path(name),
            self.recipe,
            resize=self.options.resize,
            validation=None if others is images else others,
            name="zfnet",
            arguments=model.arguments,
            **self.options.training(),
        )
        self._check_epochs(name, len(trained.history))
        return trained

    def _check_epochs(self, name: str, epochs: int) -> None:
        if epochs > self.recipe.epochs:
            raise MismatchError(
                f"{self.path(name)} was trained for {counted(epochs, 'epoch')}, {self.recipe.epochs} "
                f"given; give {epochs}, or "
                "another folder"
            )

    def measure(self, name: str, trained: Trained) -> None:
        """Run a finished variant on all images, and write what it classifies correctly."""
        run = self.recipe.batch_size, self.options.workers
        on_training, on_validation = (correct_images(trained, part, *run) for part in self.parts)
        self.measured.arrays[name] = on_validation[:, 0]
        self.measured.state[name] = {
            "epochs": self.recipe.epochs,
            "errors": [1 - float(share) for correct in (on_training, on_validation) for share in correct.mean(0)],
            "seconds": sum(record["seconds"] for record in trained.history),
        }
        self.measured.save(self.folder / NOTE)


def correct_images(trained: Trained, part: LabelledPart, batch_size: int, workers: int) -> Mask:
    """Return which images a network classifies correctly by their central crops.

    Args:
        trained: the network.
        part: the images.
        batch_size: number of images in a pass.
        workers: number of threads that decode.

    Returns:
        bool [n, 2]: by the largest output, and by the five largest.
    """
    feed, model = Feed(part.images, trained.preprocess, part.indices, workers=workers), trained.model.eval()
    device, labels, correct = next(model.parameters()).device, feed.labels, []
    with torch.inference_mode():
        for places, x in feed.tensors(batch_size, device):
            outputs = model(x)
            hits = outputs.topk(min(5, outputs.shape[1])).indices.cpu().numpy() == labels[places, None]
            correct.append(np.stack([hits[:, 0], hits.any(1)], 1))
    return np.concatenate(correct)


def table_of(measured: Result, parameters: Mapping[str, int], top5: bool) -> VariantTable:
    """Return the table of variants that were measured.

    Args:
        measured: what `AblationRun` has measured.
        parameters: name of a variant -> number of its parameters, in the order of the rows.
        top5: whether the table has top-5 errors.
    """
    first = next(iter(parameters))
    epochs = measured.state[first]["epochs"]
    full = measured.arrays[FULL] if measured.state.get(FULL, {}).get("epochs") == epochs else None
    rows = []
    for name, count in parameters.items():
        state, correct = measured.state[name], measured.arrays[name]
        training, training_top5, validation, validation_top5 = state["errors"]
        difference, low, high = None, None, None
        if full is not None and name != FULL:
            lost, gained = (full & ~correct).sum(), (correct & ~full).sum()
            difference = float(lost - gained) / len(correct)
            low, high = paired_interval(lost, gained, len(correct)).tolist()
        row = Variant(
            name=name,
            parameters=count,
            epochs=epochs,
            training_error=training,
            training_top5_error=training_top5 if top5 else None,
            validation_error=validation,
            validation_top5_error=validation_top5 if top5 else None,
            difference=difference,
            low=low,
            high=high,
            seconds=state["seconds"],
            paper=PAPER_ERRORS.get((measured.config["first"], name)),
        )
        rows.append(row)
    return VariantTable(config=measured.config, rows=tuple(rows), images=len(measured.arrays[first]))


def _names(variants: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys([variants] if isinstance(variants, str) else variants))
    for name in names:
        if name not in VARIANTS:
            raise DataError(f"variant {name!r} given; {nearest(name, VARIANTS, len(VARIANTS))}")
    if not names:
        raise DataError(f"no variant given; expected some of {', '.join(VARIANTS)}")
    return names


def _parameters(arguments: Mapping[str, Any]) -> int:
    with torch.device("meta"):  # table 3's widest network has 238 million: counted without making them
        return sum(p.numel() for p in zfnet(**arguments).parameters())


def _parts(images: Images, validation: Images | None, recipe: Recipe) -> tuple[LabelledPart, LabelledPart]:
    """Return the images that `train` trains on, and those that it validates on."""
    training, held_out = training_and_validation(images, validation, recipe)
    if validation is not None and list(validation.classes) != list(images.classes):
        raise MismatchError(
            f"classes {_listed(validation.classes)} to validate on, {_listed(images.classes)} to train on; expected "
            "the same in the same order"
        )
    if not len(held_out):
        raise DataError("no image to validate on; give a share of the images, such as 0.1, or others")
    return LabelledPart(images, training), LabelledPart(images if validation is None else validation, held_out)


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (f" ... ({len(classes)})" if len(classes) > 3 else "")


def _config(images: Images, validation: Images | None, network: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return what all variants of a folder have in common."""
    return {
        "images": images.fingerprint,
        "validation_images": validation.fingerprint if validation is not None else None,
        **network,
        **{key: value for key, value in asdict(recipe).items() if key != "epochs"},
    }

"""Train a network by the paper's recipe. Killed at any moment and resumed, a training ends with the same weights."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.arrays import stacked
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import bytes_of_pixel, mean_colour, random_crops, room_for, split
from deconvviz.errors import DataError, TrainingError
from deconvviz.graph.evaluating import evaluating
from deconvviz.halving import AtOnce, gradients_in_parts
from deconvviz.models.weights import TRAINING
from deconvviz.progress import write_line
from deconvviz.results.results import require_same, stamped
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps
from deconvviz.studies.training.options import TrainingKeywords, TrainingOptions
from deconvviz.studies.training.recipe import PAPER, Recipe, paper_preprocess, renormalise
from deconvviz.studies.training.recorder import SnapshotRecorder
from deconvviz.studies.training.result import Trained
from deconvviz.types import Ints, Pathlike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

SCHEMA = 1


def train(
    model: nn.Module,
    images: Images,
    out: Pathlike,
    recipe: Recipe = PAPER,
    *,
    preprocess: Preprocess | None = None,
    resize: int | None = None,
    validation: Images | None = None,
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    recorder: SnapshotRecorder | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a network.

    Calling again with the same arguments resumes a training that was interrupted, and with more epochs it adds them to
    a finished one.

    Args:
        model: a network with one output for each class; it is trained in place.
        images: labelled images; those of unknown class are left out.
        out: path of the file with weights, optimiser state and history. `deconvviz ... zfnet --weights OUT` reads it
            at any time.
        recipe: epochs, batch size, learning rate and so on.
        preprocess: how images are prepared; by default as in the paper, for the input size that the model has.
            Training takes random crops out of the resized images, validation takes the central one.
        resize: shorter side of the images before the crop in pixels; None takes that of `preprocess`.
        validation: other images to validate on, instead of a part of `images`.
        name: the model's name on the command line, which the file keeps.
        arguments: the arguments of the factory that made the model, which the file keeps.
        recorder: records a snapshot after each epoch.
        options: `device`, `commit_every`, `workers`, `progress` and `sources` of `TrainingOptions`.

    Returns:
        The trained network in eval mode, with its history.

    Raises:
        TrainingError: the loss is not finite (`out` keeps the last good checkpoint), the model's number of outputs
            differs from the number of classes, or it is not known how images are prepared for the model.
        MismatchError: `out` was written by a training with other settings.
        DataError: the images have no classes, or a file cannot be read or written.

    Source: Zeiler and Fergus 2013, section 3.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recipe, plain = dv.Recipe(epochs=2, validation=0.25), dv.Preprocess(resize=36, crop=32)
    ...     trained = dv.train(model, dv.Scenes(40), f"{folder}/n.pth", recipe, preprocess=plain, progress=False)
    >>> [record["epoch"] for record in trained.history], trained.classes[:2]
    ([1, 2], ('cat', 'owl'))
    """
    settings = preprocess or paper_preprocess(model)
    trainer = NetworkTraining(model, recipe, pathlib.Path(out), TrainingOptions(**options), recorder)
    trainer.feed(images, validation, replace(settings, resize=resize or settings.resize), preprocess is None)
    trainer.identity = {
        "model": name or type(model).__name__,
        "arguments": dict(arguments or {}),
        "images": images.fingerprint,
        "validation": validation.fingerprint if validation is not None else None,
        "preprocess": trainer.preprocess.as_dict(),
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "epochs"},
    }
    if recorder is not None:  # the snapshots say what they are of, so that `evolve` can build the network again
        recorder.config |= trainer.identity
        if recorder.live is not None:
            recorder.live.class_names = recorder.live.class_names or trainer.classes
    trainer.restore()
    return trainer.run()


def training_and_validation(images: Images, validation: Images | None, recipe: Recipe) -> tuple[Ints, Ints]:
    """Return the indices of the images to train on, and of those to validate on.

    Args:
        images: labelled images.
        validation: other images to validate on; None holds a share of `images` out.
        recipe: its `validation` is that share, its `seed` draws it.

    Returns:
        Two ascending int64 arrays: indices into `images`, and indices into `validation` or else into `images`. All have
        a known class.

    Raises:
        DataError: the validation images are the training images, or a part would be empty.
    """
    training, held_out = split(images.labels, 0 if validation is not None else recipe.validation, recipe.seed)
    if validation is None:
        return training, held_out
    if validation.fingerprint == images.fingerprint:
        raise DataError("the validation images are the training images; give others, or a share of them")
    return training, np.flatnonzero(validation.labels >= 0)


def class_names(images: Images) -> tuple[str, ...]:
    """Return the names of the images' classes, or their numbers where they have no names."""
    return tuple(images.classes) or tuple(map(str, range(int(images.labels.max(initial=-1)) + 1)))


class NetworkTraining:
    """The training of a network: what a step, an epoch's end and a commit do.

    Attributes:
        identity: what must agree when the training is resumed, JSON values.
        preprocess: how images are prepared for the network.
        classes: names of the network's outputs.
        history: a record for each epoch that is over, see `Trained`.
        position: how far the training has come.
    """

    identity: dict[str, Any]
    preprocess: Preprocess
    classes: tuple[str, ...]

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        out: pathlib.Path,
        options: TrainingOptions,
        recorder: SnapshotRecorder | None,
    ) -> None:
        self.device = torch.device(options.device)
        self.model, self.recipe, self.options, self.recorder = model.to(self.device), recipe, options, recorder
        self.checkpoint, self.position = Checkpoint(out, TRAINING, SCHEMA), Position()
        self.history: list[dict[str, float]] = []
        self.at_once = AtOnce(recipe.batch_size)
        self.optimiser = torch.optim.SGD(
            model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=recipe.factor, patience=recipe.patience, eps=0
        )

    # --- what it learns from ---

    def feed(self, images: Images, validation: Images | None, settings: Preprocess, own_mean: bool) -> None:
        """Split the images and settle how they are prepared; `own_mean` takes their mean colour into the settings."""
        training, held_out = training_and_validation(images, validation, self.recipe)
        _, height, width = settings.shape
        if height != width:
            raise TrainingError(f"inputs of {height} x {width} given; training takes square ones")
        resize = settings.resize or height
        room = max(max(resize) if isinstance(resize, tuple) else resize, height)
        self.training = self._pictures(images, training, replace(settings, resize=room, crop=room))
        if own_mean:
            settings = replace(settings, mean=mean_colour(self.training, self.recipe.seed))
        self.held_out = self._pictures(images if validation is None else validation, held_out, settings)
        self.preprocess, self.classes = settings, class_names(images)
        self._check_outputs(len(self.classes))

    def _pictures(self, images: Images, indices: Ints, preprocess: Preprocess) -> Feed:
        memory = room_for(len(indices), *preprocess.shape[1:], bytes_of_pixel(images))
        return Feed(images, preprocess, indices, workers=self.options.workers, memory=memory)

    def _check_outputs(self, classes: int) -> None:
        with torch.inference_mode(), evaluating(self.model):
            output = self.model(torch.zeros(1, *self.preprocess.shape, device=self.device))
        if not isinstance(output, Tensor) or output.shape != (1, classes):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TrainingError(
                f"the model returns {shape} for one image; expected [1, {classes}], one output for each class: "
                "build it with that many outputs, in a file.py:FACTORY if need be"
            )

    # --- resuming ---

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.training) / self.recipe.batch_size)

    def restore(self) -> None:
        """Resume from the file, where it exists; else write one, so that a wrong place is found out before the work."""
        if not self.checkpoint.path.exists():
            self.commit()
            return
        content = self.checkpoint.read()
        require_same(self.checkpoint.path, content["identity"], self.identity, "remove it or choose another --out")
        self.model.load_state_dict(content["state_dict"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.plateau.load_state_dict(content["plateau"])
        loss, correct, count = content["sums"]
        self.position.step = (content["epoch"] - 1) * self.per_epoch + content["step"]
        self.position.sums = {"loss": loss, "accuracy": correct} if count else {}
        self.position.images, self.position.seconds = int(count), content["seconds"]
        self.history = list(content["history"])

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically; weights that are not finite are never written."""
        self._require_finite(self.model.parameters(), "a weight")
        epochs, step = divmod(self.position.step, self.per_epoch)
        sums = self.position.sums
        self.checkpoint.write(
            {
                "identity": self.identity,
                "arguments": self.identity["arguments"],
                "settings": self.preprocess.as_dict(),
                "classes": list(self.classes),
                "state_dict": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "plateau": self.plateau.state_dict(),
                "history": self.history,
                "sources": stamped(self.options.sources),
                "epoch": epochs + 1,
                "step": step,
                "sums": [sums.get("loss", 0.0), sums.get("accuracy", 0.0), float(self.position.images)],
                "seconds": self.position.seconds,
            }
        )

    # --- learning ---

    def run(self) -> Trained:
        """Train until the recipe's last epoch."""
        total = self.recipe.epochs * self.per_epoch
        with self.options.run.bar("step", total, "training", self.position.step) as bar:
            run_steps(self, self.per_epoch, total, self.options.commit_every, bar, self.recipe.precision)
        return Trained(
            model=self.model.eval(),
            preprocess=self.preprocess,
            path=self.checkpoint.path,
            classes=self.classes,
            history=self.history,
        )

    def batches(self, epoch: int, done: int) -> Iterator[PictureBatch]:
        """Yield the batches of an epoch, from 0, in the order that (seed, epoch) draws."""
        order = np.random.default_rng([self.recipe.seed, epoch + 1]).permutation(len(self.training))
        self.model.train()
        size = self.recipe.batch_size
        yield from self.training.batches(size, order, start=done * size)

    def step(self, batch: PictureBatch, epoch: int) -> Measured:
        """Take one step of SGD on a batch, then limit the filters."""
        address = np.random.SeedSequence([self.recipe.seed, epoch + 1, self.position.step - epoch * self.per_epoch])
        torch.manual_seed(int(address.generate_state(1)[0]))  # dropout
        if self.recipe.augment:
            _, side, _ = self.preprocess.shape
            pictures = random_crops(batch.pictures, side, np.random.default_rng(address))
        else:
            pictures = stacked([self.preprocess.picture(picture) for picture in batch.pictures])
        labels = torch.from_numpy(self.training.labels[batch.places]).to(self.device)

        def share(start: int, stop: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            outputs, classes = self._outputs(pictures[start:stop]), labels[start:stop]
            loss = functional.cross_entropy(outputs, classes) * (len(classes) / len(labels))
            self._require_finite([loss], "the loss")
            return loss, (loss.detach(), (outputs.argmax(1) == classes).sum())

        parts = gradients_in_parts(self.at_once, len(labels), list(self.model.parameters()), share)
        self.optimiser.step()
        if self.recipe.radius:
            renormalise(self.model, self.recipe.radius)
        loss, correct = (float(torch.stack(values).sum()) for values in zip(*parts, strict=True))
        return Measured({"loss": loss * len(labels), "accuracy": correct}, len(labels))

    def _outputs(self, pictures: Picture) -> Tensor:
        x = self.preprocess.tensor(pictures, self.device)
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            outputs: Tensor = self.model(x)
        return outputs.float()

    def end_epoch(self, epoch: int) -> None:
        """Validate, lower the learning rate where it is time, and add the epoch to the history."""
        began = time.monotonic()
        rate = float(self.optimiser.param_groups[0]["lr"])
        record = {"epoch": epoch + 1, "lr": rate, **self.position.means(), **self._validated()}
        self.plateau.step(1 - record.get("validation_accuracy", record["accuracy"]))
        record["seconds"] = round(self.position.seconds + time.monotonic() - began, 3)
        self._require_finite([torch.tensor(record.get("validation_loss", record["loss"]))], "the validation loss")
        self.history = [*self.history, record]
        metrics = {key: value for key, value in record.items() if key not in ("epoch", "seconds")}
        # The snapshot comes before the commit: after a kill in between, the epoch's last steps run again, and their
        # snapshot replaces this one.
        if self.recorder is not None:
            self.recorder(epoch + 1, self.model, **metrics)
        if self.options.progress:
            name = f"epoch {epoch + 1}/{self.recipe.epochs}"
            write_line(report_epoch(name, metrics, record["seconds"]))

    def _validated(self) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        loss = correct = correct_in_five = 0.0
        labels_held_out = torch.from_numpy(self.held_out.labels)
        self.model.eval()
        with torch.inference_mode():
            for places, pictures, _ in self.held_out.batches(self.recipe.batch_size):
                outputs, labels = self._outputs(pictures), labels_held_out[torch.from_numpy(places)].to(self.device)
                loss += functional.cross_entropy(outputs, labels, reduction="sum").item()
                hits = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
                correct, correct_in_five = correct + int(hits[:, 0].sum()), correct_in_five + int(hits.any(1).sum())
        sums = {"validation_loss": loss, "validation_accuracy": correct, "validation_top5": correct_in_five}
        return {name: total / len(self.held_out) for name, total in sums.items()}

    def _require_finite(self, values: Iterable[Tensor], what: str) -> None:
        epoch, step = divmod(self.position.step, self.per_epoch)
        rate = float(self.optimiser.param_groups[0]["lr"])
        self.checkpoint.require_finite(values, what, f"epoch {epoch + 1}, step {step}", rate)

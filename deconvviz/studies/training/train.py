"""Training by the paper's recipe: resumed after a kill at any moment, it ends with the same weights."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import mean_colour, random_crops, room_for, split
from deconvviz.errors import DataError, TrainingError
from deconvviz.graph.evaluating import evaluating
from deconvviz.models.weights import TRAINING
from deconvviz.results.results import require_same, versions
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps
from deconvviz.run.options import RunOptions
from deconvviz.studies.training.recipe import PAPER, Recipe, paper_preprocess, renormalise
from deconvviz.studies.training.recorder import SnapshotRecorder
from deconvviz.studies.training.result import Trained
from deconvviz.types import Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

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
    device: torch.device | str = "cpu",
    commit_every: int = 500,
    sources: Mapping[str, Any] | None = None,
    **run: Unpack[RunKeywords],
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
        preprocess: how images are prepared; by default as in the paper, for the size that the model tells. Training
            takes random crops out of the resized images, validation takes the central one.
        resize: shorter side of the images before the crop in pixels, if not that of `preprocess`.
        validation: other images to validate on, instead of a part of `images`.
        name: of the model on the command line.
        arguments: that its factory made it of.
        recorder: is called after each epoch.
        device: where the network is trained.
        commit_every: steps between checkpoints within an epoch.
        sources: where model and images came from, for the file.
        run: `workers` and `progress` of `RunOptions`; batch size, precision and seed are the recipe's.

    Raises:
        TrainingError: the loss is not finite (`out` keeps the last good checkpoint), or the model has another number of
            outputs than there are classes.
        MismatchError: `out` was written by a training with other settings.
        DataError: images without classes, or a file that cannot be read or written.

    Source: Zeiler and Fergus 2013, section 3.
    """
    settings = preprocess or paper_preprocess(model)
    trainer = NetworkTraining(model, recipe, pathlib.Path(out), torch.device(device), RunOptions(**run), recorder)
    trainer.feed(images, validation, replace(settings, resize=resize or settings.resize), preprocess is None)
    trainer.commit_every = commit_every
    trainer.identity = {
        "model": name or type(model).__name__,
        "arguments": dict(arguments or {}),
        "images": images.fingerprint,
        "validation": validation.fingerprint if validation is not None else None,
        "preprocess": trainer.trained.preprocess.as_dict(),
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "epochs"},
    }
    trainer.sources = {**(sources or {}), "versions": versions()}
    if recorder is not None:  # what the snapshots are of, so that `evolve` can make the network again
        recorder.config |= trainer.identity
    trainer.restore()
    return trainer.run()


class NetworkTraining:
    """The training of a network: what a step, an epoch's end and a commit do."""

    identity: dict[str, Any]
    sources: dict[str, Any]
    commit_every = 500

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        out: pathlib.Path,
        device: torch.device,
        options: RunOptions,
        recorder: SnapshotRecorder | None,
    ) -> None:
        self.model, self.recipe, self.device = model.to(device), recipe, device
        self.options, self.recorder = options, recorder
        self.checkpoint, self.position = Checkpoint(out, TRAINING, SCHEMA), Position()
        self.optimiser = torch.optim.SGD(
            model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=recipe.factor, patience=recipe.patience, eps=0
        )

    # --- what it learns from ---

    def feed(self, images: Images, validation: Images | None, settings: Preprocess, own_mean: bool) -> None:
        """Split the images and settle how they are prepared; `own_mean` takes their mean colour into the settings."""
        seed = self.recipe.seed
        training, held_out = split(images.labels, 0 if validation is not None else self.recipe.validation, seed)
        if validation is not None:
            if validation.fingerprint == images.fingerprint:
                raise DataError("the validation images are the training images; give others, or a share of them")
            held_out = np.flatnonzero(validation.labels >= 0)
        _, height, width = settings.shape
        if height != width:
            raise TrainingError(f"inputs of {height} x {width} given; training takes square ones")
        room = max(settings.resize or height, height)
        self.training = self._pictures(images, training, replace(settings, resize=room, crop=room))
        if own_mean:
            settings = replace(settings, mean=mean_colour(self.training, seed))
        self.held_out = self._pictures(validation or images, held_out, settings)
        classes = tuple(images.classes) or tuple(map(str, range(int(images.labels.max()) + 1)))
        self.trained = Trained(model=self.model, preprocess=settings, path=self.checkpoint.path, classes=classes)
        self._check_outputs(len(classes))

    def _pictures(self, images: Images, indices: Any, preprocess: Preprocess) -> Feed:
        memory = room_for(len(indices), *preprocess.shape[1:])
        return Feed(images, preprocess, indices, workers=self.options.workers, memory=memory)

    def _check_outputs(self, classes: int) -> None:
        with torch.inference_mode(), evaluating(self.model):
            output = self.model(torch.zeros(1, *self.trained.preprocess.shape, device=self.device))
        if not isinstance(output, Tensor) or output.shape != (1, classes):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TrainingError(
                f"the model returns {shape} for one image; expected [1, {classes}], one output for each class: "
                "make it with that many outputs, in a file.py:FACTORY if need be"
            )

    # --- resuming ---

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.training) / self.recipe.batch_size)

    def restore(self) -> None:
        """Resume from the file, where there is one; a place that cannot be written to is found out now."""
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
        self.trained.history = list(content["history"])

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically; weights that are not finite are never written."""
        self._require_finite(self.model.parameters(), "a weight")
        epochs, step = divmod(self.position.step, self.per_epoch)
        sums = self.position.sums
        self.checkpoint.write(
            {
                "identity": self.identity,
                "arguments": self.identity["arguments"],
                "settings": self.trained.preprocess.as_dict(),
                "classes": list(self.trained.classes),
                "state_dict": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "plateau": self.plateau.state_dict(),
                "history": self.trained.history,
                "sources": self.sources,
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
        with self.options.bar("step", total, "training", self.position.step) as bar:
            run_steps(self, self.per_epoch, total, self.commit_every, bar)
        self.model.eval()
        return self.trained

    def batches(self, epoch: int, done: int) -> Iterator[PictureBatch]:
        """Yield the batches of an epoch, from 0, in the order that (seed, epoch) draws."""
        order = np.random.default_rng([self.recipe.seed, epoch + 1]).permutation(len(self.training))
        self.model.train()
        size = self.recipe.batch_size
        yield from self.training.batches(size, order, start=done * size)

    def step(self, batch: PictureBatch, epoch: int) -> Measured:
        """Learn from one batch."""
        address = np.random.SeedSequence([self.recipe.seed, epoch + 1, self.position.step - epoch * self.per_epoch])
        torch.manual_seed(int(address.generate_state(1)[0]))  # dropout
        if self.recipe.augment:
            _, side, _ = self.trained.preprocess.shape
            pictures = random_crops(batch.pictures, side, np.random.default_rng(address))
        else:
            pictures = np.stack([self.trained.preprocess.picture(picture) for picture in batch.pictures])
        outputs = self._outputs(pictures)
        labels = torch.from_numpy(self.training.labels[batch.places]).to(self.device)
        loss = functional.cross_entropy(outputs, labels)
        self._require_finite([loss], "the loss")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.recipe.radius:
            renormalise(self.model, self.recipe.radius)
        correct = int((outputs.argmax(1) == labels).sum())
        return Measured({"loss": loss.item() * len(labels), "accuracy": correct}, len(labels))

    def _outputs(self, pictures: Any) -> Tensor:
        x = self.trained.preprocess.tensor(pictures, self.device)
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            outputs: Tensor = self.model(x)
        return outputs.float()

    def end_epoch(self, epoch: int) -> None:
        """Validate, lower the rate where it is time, and note the epoch."""
        began = time.monotonic()
        rate = float(self.optimiser.param_groups[0]["lr"])
        record = {"epoch": epoch + 1, "lr": rate, **self.position.means(), **self._validated()}
        self.plateau.step(1 - record.get("validation_accuracy", record["accuracy"]))
        record["seconds"] = round(self.position.seconds + time.monotonic() - began, 3)
        self._require_finite([torch.tensor(record.get("validation_loss", record["loss"]))], "the validation loss")
        self.trained.history = [*self.trained.history, record]
        metrics = {key: value for key, value in record.items() if key not in ("epoch", "seconds")}
        # The snapshot comes before the commit: killed in between, the epoch is trained again and recorded over itself.
        if self.recorder is not None:
            self.recorder(epoch + 1, self.model, **metrics)
        if self.options.progress:
            name = f"epoch {epoch + 1}/{self.recipe.epochs}"
            tqdm.write(report_epoch(name, metrics, record["seconds"]), file=sys.stderr)

    def _validated(self) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        loss = first = fifth = 0.0
        labels_held_out = torch.from_numpy(self.held_out.labels)
        self.model.eval()
        with torch.inference_mode():
            for places, pictures in self.held_out.batches(self.recipe.batch_size):
                outputs, labels = self._outputs(pictures), labels_held_out[torch.from_numpy(places)].to(self.device)
                loss += functional.cross_entropy(outputs, labels, reduction="sum").item()
                best = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
                first, fifth = first + int(best[:, 0].sum()), fifth + int(best.any(1).sum())
        names = ("validation_loss", "validation_accuracy", "validation_top5")
        return dict(zip(names, (value / len(self.held_out) for value in (loss, first, fifth)), strict=True))

    def _require_finite(self, values: Any, what: str) -> None:
        epoch, step = divmod(self.position.step, self.per_epoch)
        rate = float(self.optimiser.param_groups[0]["lr"])
        self.checkpoint.require_finite(values, what, f"epoch {epoch + 1}, step {step}", rate)

"""Train a network by the paper's recipe. Killed at any moment and resumed, a training ends with the same weights."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deconvviz.arrays import stacked
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import bytes_of_pixel, mean_colour, random_crops, room_for
from deconvviz.errors import TrainingError
from deconvviz.graph.evaluating import evaluating
from deconvviz.halving import AtOnce, gradients_in_parts
from deconvviz.models.weights import TRAINING, plain_state
from deconvviz.progress import write_line
from deconvviz.results.results import require_same, stamped
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps
from deconvviz.studies.training.additions.base import Addition, Course, Part, Step
from deconvviz.studies.training.additions.registry import Additions
from deconvviz.studies.training.fine_tuning import EVERYTHING, FineTuning, Parts
from deconvviz.studies.training.labelled import class_names, training_and_validation
from deconvviz.studies.training.objectives import objective_of
from deconvviz.studies.training.options import TrainingKeywords, TrainingOptions
from deconvviz.studies.training.recipe import PAPER, Recipe, paper_preprocess, renormalise
from deconvviz.studies.training.recorder import SnapshotRecorder
from deconvviz.studies.training.result import OF_LABEL, Trained
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
    additions: Sequence[Addition] = (),
    fine_tuning: FineTuning = EVERYTHING,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a network.

    Calling again with the same arguments resumes a training that was interrupted, and with more epochs it adds them to
    a finished one.

    Args:
        model: a network with one output for each class; it is trained in place.
        images: labelled images; those of unknown class are left out. Of `SeveralLabels` each label is learned.
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
        additions: what the training does beside the recipe, such as `dv.addition("hide-and-seek")`.
        fine_tuning: the network's new head, what of it keeps its weights, and how fast its body learns.
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
    trainer = NetworkTraining(
        model, recipe, pathlib.Path(out), TrainingOptions(**options), recorder, additions, fine_tuning
    )
    trainer.feed(images, validation, replace(settings, resize=resize or settings.resize), preprocess is None)
    trainer.identity = {
        "model": name or type(model).__name__,
        "arguments": dict(arguments or {}),
        "images": images.fingerprint,
        "validation": validation.fingerprint if validation is not None else None,
        "preprocess": trainer.preprocess.as_dict(),
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "epochs"},
        **fine_tuning.identity(),
    }
    if additions:  # a plain training is what it was before there were additions
        trainer.identity["additions"] = trainer.additions.identity
    if recorder is not None:  # the snapshots say what they are of, so that `evolve` can build the network again
        recorder.config |= trainer.identity
        if recorder.live is not None:
            recorder.live.class_names = recorder.live.class_names or trainer.classes
    return trainer.run()


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
        additions: Sequence[Addition] = (),
        fine_tuning: FineTuning = EVERYTHING,
    ) -> None:
        self.device = torch.device(options.device)
        self.model, self.recipe, self.options, self.recorder = model.to(self.device), recipe, options, recorder
        self.additions, self.fine_tuning = Additions(additions), fine_tuning
        self.checkpoint, self.position = Checkpoint(out, TRAINING, SCHEMA), Position()
        self.history: list[dict[str, float]] = []
        self.at_once = AtOnce(recipe.batch_size)

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
        self.preprocess, self.classes, self.objective = settings, class_names(images), objective_of(images)
        self.additions.check(images)
        self._check_outputs(len(self.classes))
        self.parts = Parts(self.model, self.fine_tuning, settings.shape)
        recipe, groups = self.recipe, self.parts.groups(self.recipe.lr)
        self.optimiser = torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=recipe.factor, patience=recipe.patience, eps=0
        )

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
                "give it a new last layer with --head new (`dv.new_head` in Python), or build it with that many outputs"
            )

    # --- resuming ---

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.training) / self.recipe.batch_size)

    def restore(self) -> Mapping[str, Any] | None:
        """Resume from the file, where it exists, and return the states of the additions; None where there is none."""
        if not self.checkpoint.path.exists():
            return None
        content = self.checkpoint.read()
        require_same(self.checkpoint.path, content["identity"], self.identity, "remove it or choose another --out")
        self.model.load_state_dict(content["state_dict"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.plateau.load_state_dict(content["plateau"])
        loss, correct, count = content["sums"]
        self.position.step = (content["epoch"] - 1) * self.per_epoch + content["step"]
        terms = content.get("terms", {})
        self.position.sums = {"loss": loss, "accuracy": correct, **terms} if count else {}
        self.position.images, self.position.seconds = int(count), content["seconds"]
        self.history = list(content["history"])
        states: Mapping[str, Any] = content.get("additions", {})
        return states

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically; weights that are not finite are never written."""
        self._require_finite(self.model.parameters(), "a weight")
        epochs, step = divmod(self.position.step, self.per_epoch)
        sums = self.position.sums
        terms = {name: total for name, total in sums.items() if name not in ("loss", "accuracy")}
        self.checkpoint.write(
            {
                "identity": self.identity,
                "arguments": self.identity["arguments"],
                "settings": self.preprocess.as_dict(),
                "classes": list(self.classes),
                "state_dict": plain_state(self.model),
                "optimiser": self.optimiser.state_dict(),
                "plateau": self.plateau.state_dict(),
                "history": self.history,
                "sources": stamped(self.options.sources),
                "epoch": epochs + 1,
                "step": step,
                "sums": [sums.get("loss", 0.0), sums.get("accuracy", 0.0), float(self.position.images)],
                "seconds": self.position.seconds,
                **({"additions": self.additions.state(), "terms": terms} if self.additions.each else {}),
                **({"head": self.fine_tuning.head.as_dict()} if self.fine_tuning.head else {}),
            }
        )

    # --- learning ---

    def run(self) -> Trained:
        """Train from where the file stands until the recipe's last epoch."""
        total = self.recipe.epochs * self.per_epoch
        states = self.restore()
        with self.parts.without_gradients(), self.additions.taking_part(self.course(), states):
            if states is None:  # so that a wrong place is found out before the work
                self.commit()
            with self.options.run.bar("step", total, "training", self.position.step) as bar:
                run_steps(self, self.per_epoch, total, self.options.commit_every, bar, self.recipe.precision)
        return Trained(
            model=self.model.eval(),
            preprocess=self.preprocess,
            path=self.checkpoint.path,
            classes=self.classes,
            history=self.history,
        )

    def course(self) -> Course:
        """Return what the additions are told of the training."""
        return Course(
            model=self.model,
            device=self.device,
            recipe=self.recipe,
            preprocess=self.preprocess,
            training=self.training,
            held_out=self.held_out,
            classes=self.classes,
        )

    def batches(self, epoch: int, done: int) -> Iterator[PictureBatch]:
        """Yield the batches of an epoch, from 0, in the order that (seed, epoch) draws."""
        order = np.random.default_rng([self.recipe.seed, epoch + 1]).permutation(len(self.training))
        self.parts.train_mode()
        size = self.recipe.batch_size
        yield from self.training.batches(size, order, start=done * size)

    def step(self, batch: PictureBatch, epoch: int) -> Measured:
        """Take one step of SGD on a batch, then limit the filters."""
        number = self.position.step - epoch * self.per_epoch
        indices = self.training.indices[batch.places]
        labels = self.objective.targets(self.training.images, indices).to(self.device)
        rate = float(self.optimiser.param_groups[0]["lr"])
        step = Step(indices=indices, labels=labels, epoch=epoch, number=number, seed=self.recipe.seed, rate=rate)
        torch.manual_seed(int(step.root.generate_state(1)[0]))  # dropout
        crops = self._crops(self.additions.pictures(batch.pictures, step), np.random.default_rng(step.root))
        x = self.preprocess.tensor(self.additions.crops(crops, step), self.device)
        x, targets = self.additions.inputs(x, labels, step)

        def share(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
            outputs = self._outputs(x[start:stop])
            part = Part(step=step, start=start, stop=stop, x=x[start:stop], targets=targets[start:stop])
            means = {"loss": self.objective.loss(outputs, part.targets), **self.additions.terms(outputs, part)}
            weighted = {name: mean * (len(outputs) / len(labels)) for name, mean in means.items()}
            total = torch.stack(list(weighted.values())).sum()
            self._require_finite([total], "the loss")
            correct = self.objective.correct(outputs, labels[start:stop])
            sums = {name: mean.detach() * len(labels) for name, mean in weighted.items()}
            return total, {"loss": sums.pop("loss"), "accuracy": correct, **sums}

        parts = gradients_in_parts(self.at_once, len(labels), list(self.model.parameters()), share)
        self.additions.after_backward(step)
        self.optimiser.step()
        if self.recipe.radius:
            renormalise(self.model, self.recipe.radius)
        self.additions.after_step(step)
        totals = torch.stack([torch.stack([value.double() for value in part.values()]) for part in parts]).sum(0)
        return Measured(dict(zip(parts[0], totals.tolist(), strict=True)), len(labels))

    def _crops(self, pictures: Picture, rng: np.random.Generator) -> Picture:
        if self.recipe.augment:
            return random_crops(pictures, self.preprocess.shape[1], rng)
        return stacked([self.preprocess.picture(picture) for picture in pictures])

    def _outputs(self, x: Tensor) -> Tensor:
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            outputs: Tensor = self.model(x)
        return outputs.float()

    def end_epoch(self, epoch: int) -> None:
        """Validate, lower the learning rate where it is time, and add the epoch to the history."""
        began = time.monotonic()
        rate = float(self.optimiser.param_groups[0]["lr"])
        figures = self.additions.end_epoch(epoch)
        record = {"epoch": epoch + 1, "lr": rate, **self.position.means(), **self._validated(), **figures}
        self.plateau.step(self.objective.failure(record))
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
            of_parts = ("/", OF_LABEL)  # what is of one layer or one label is in the file
            told = {key: value for key, value in metrics.items() if not any(part in key for part in of_parts)}
            write_line(report_epoch(name, told, record["seconds"]))

    def _validated(self) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        self.model.eval()
        with torch.inference_mode():
            return self.objective.validated(self._answers())

    def _answers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the outputs for the held-out images, batch by batch, and what they are to be."""
        for places, pictures, _ in self.held_out.batches(self.recipe.batch_size):
            outputs = self._outputs(self.preprocess.tensor(pictures, self.device))
            targets = self.objective.targets(self.held_out.images, self.held_out.indices[places])
            yield outputs, targets.to(self.device)

    def _require_finite(self, values: Iterable[Tensor], what: str) -> None:
        epoch, step = divmod(self.position.step, self.per_epoch)
        rate = float(self.optimiser.param_groups[0]["lr"])
        self.checkpoint.require_finite(values, what, f"epoch {epoch + 1}, step {step}", rate)

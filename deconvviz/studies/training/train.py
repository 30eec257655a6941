"""Training by the paper's recipe: continued after a kill at any moment, it ends with the same weights.

Nothing that is random depends on what came before: order, crops, flips and dropout of a step are drawn from
(seed, epoch, step). So a checkpoint needs no random state, only weights, momentum and where it stands.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, TrainingError
from deconvviz.models.weights import TRAINING, read_file
from deconvviz.results.files import Pathlike, atomic
from deconvviz.results.results import require_same, versions
from deconvviz.studies.training.batches import Pictures, Pixels, crops, mean_of, split
from deconvviz.studies.training.recipe import PAPER, Recipe, Trained, paper_preprocess, renormalise
from deconvviz.studies.training.recorder import SnapshotRecorder

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
    workers: int = 2,
    commit_every: int = 500,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a network; the same call again continues an interrupted training, or adds epochs to a finished one.

    Args:
        model: with one output for each class; it is trained in place.
        images: labelled images; those of unknown class are left out.
        out: the file: weights, optimiser state, history. `deconvviz ... zfnet --weights OUT` reads it at any time.
        preprocess: how images are prepared; by default as the paper does for the size the model tells. Training takes
            random crops out of the resized images, validation the central one.
        resize: shorter side of the images before the crop, if not that of `preprocess`.
        validation: other images to validate on, instead of a part of `images`.
        name, arguments: the model on the command line, and of what its factory made it.
        recorder: called after each epoch.
        commit_every: steps between checkpoints within an epoch.

    Raises:
        TrainingError: the loss is no longer finite (`out` keeps the last good checkpoint), or the model has another
            number of outputs than there are classes.
        MismatchError: `out` was made by another training.
        DataError: images without classes, a file that cannot be read or written.
    """
    runner = _Trainer(model, recipe, pathlib.Path(out), torch.device(device), workers, commit_every, progress, recorder)
    runner.feed(images, validation, preprocess, resize)
    runner.identity = {
        "model": name or type(model).__name__,
        "arguments": dict(arguments or {}),
        "images": images.fingerprint,
        "validation": validation.fingerprint if validation is not None else None,
        "preprocess": runner.trained.preprocess.as_dict(),
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "epochs"},
    }
    runner.sources = {**(sources or {}), "versions": versions()}
    if recorder is not None:  # what the snapshots are of, so that `evolve` can make the network again
        recorder.config |= runner.identity
    runner.restore()
    return runner.run()


class _Trainer:
    identity: dict[str, Any]
    sources: dict[str, Any]

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        out: pathlib.Path,
        device: torch.device,
        workers: int,
        commit_every: int,
        progress: bool,
        recorder: SnapshotRecorder | None,
    ) -> None:
        self.model, self.recipe, self.out, self.device = model.to(device), recipe, out, device
        self.workers, self.commit_every, self.progress, self.recorder = workers, commit_every, progress, recorder
        self.optimiser = torch.optim.SGD(
            model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=recipe.factor, patience=recipe.patience, eps=0
        )
        self.epoch, self.step, self.sums = 1, 0, [0.0, 0.0, 0.0]  # where it stands; sums of loss, correct, images
        self.seconds = 0.0

    def feed(
        self, images: Images, validation: Images | None, preprocess: Preprocess | None, resize: int | None
    ) -> None:
        """Split the images and settle how they are prepared."""
        seed = self.recipe.seed
        training, held = split(images.labels, 0 if validation is not None else self.recipe.validation, seed)
        if validation is not None:
            if validation.fingerprint == images.fingerprint:
                raise DataError("the validation images are the training images; give others, or a share of them")
            held = np.flatnonzero(validation.labels >= 0)
        settings = preprocess or paper_preprocess(self.model)
        settings = replace(settings, resize=resize or settings.resize)
        _, height, width = settings.shape
        room = max(settings.resize or height, height)
        if height != width:
            raise TrainingError(f"inputs of {height} x {width} given; training takes square ones")
        whole = Pictures(images, training, replace(settings, resize=room, crop=room), self.workers)
        if preprocess is None:
            settings = replace(settings, mean=mean_of(whole, seed))
        self.training, self.side = whole, height
        self.held = Pictures(validation or images, held, settings, self.workers)
        classes = tuple(images.classes) or tuple(map(str, range(int(images.labels.max()) + 1)))
        self.trained = Trained(self.model, settings, self.out, classes)
        self._check_outputs(len(classes))

    def _check_outputs(self, classes: int) -> None:
        with torch.inference_mode():
            given = self.model.eval()(torch.zeros(1, *self.trained.preprocess.shape, device=self.device))
        if not isinstance(given, Tensor) or given.shape != (1, classes):
            shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise TrainingError(
                f"the model returns {shape} for one image; expected [1, {classes}], one output for each class: "
                "make it with that many outputs, in a file.py:FACTORY if need be"
            )

    def restore(self) -> None:
        """Continue what the file holds, where there is one; a place that cannot be written to is found out now."""
        if not self.out.exists():
            self.commit()
            return
        found = read_file(self.out)
        if not isinstance(found, Mapping) or found.get("format") != TRAINING or found.get("schema") != SCHEMA:
            raise DataError(f"{self.out} exists and is no training of this version; choose another --out")
        require_same(self.out, found["identity"], self.identity, "remove it or choose another --out")
        self.model.load_state_dict(found["state_dict"])
        self.optimiser.load_state_dict(found["optimiser"])
        self.plateau.load_state_dict(found["plateau"])
        self.epoch, self.step, self.sums, self.seconds = (found[k] for k in ("epoch", "step", "sums", "seconds"))
        self.trained.history = list(found["history"])

    def commit(self) -> None:
        """Write everything that is needed to go on, atomically; weights that are not finite are never written."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._diverged("weights are")
        content = {
            "format": TRAINING,
            "schema": SCHEMA,
            "identity": self.identity,
            "arguments": self.identity["arguments"],
            "settings": self.trained.preprocess.as_dict(),
            "classes": list(self.trained.classes),
            "state_dict": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict(),
            "history": self.trained.history,
            "sources": self.sources,
        }
        content |= {"epoch": self.epoch, "step": self.step, "sums": self.sums, "seconds": self.seconds}
        with atomic(self.out) as temporary:
            torch.save(content, temporary)

    def run(self) -> Trained:
        """Train until the recipe's last epoch."""
        while self.epoch <= self.recipe.epochs:
            begin = time.monotonic()
            self._pass()
            loss, correct, count = self.sums
            rate = float(self.optimiser.param_groups[0]["lr"])
            record = {"epoch": self.epoch, "lr": rate, "loss": loss / count, "accuracy": correct / count}
            record |= self._validated()
            self.plateau.step(1 - record.get("validation_accuracy", record["accuracy"]))
            record["seconds"] = round(self.seconds + time.monotonic() - begin, 3)
            self.trained.history = [*self.trained.history, record]
            self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, [0.0, 0.0, 0.0], 0.0
            self._end_epoch(record)
        self.model.eval()
        return self.trained

    def _end_epoch(self, record: Mapping[str, float]) -> None:
        if not math.isfinite(record.get("validation_loss", record["loss"])):
            raise self._diverged("validation loss is")
        # The snapshot comes first: killed in between, the epoch is trained again and recorded over itself.
        if self.recorder is not None:
            metrics = {key: value for key, value in record.items() if key not in ("epoch", "seconds")}
            self.recorder(int(record["epoch"]), self.model, **metrics)
        self.commit()
        if self.progress:
            shown = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in record.items() if key != "epoch")
            tqdm.write(f"epoch {record['epoch']}/{self.recipe.epochs}: {shown}", file=sys.stderr)

    def _pass(self) -> None:
        """Train on the rest of this epoch's batches."""
        seed, size = self.recipe.seed, self.recipe.batch_size
        order = np.random.default_rng([seed, self.epoch]).permutation(len(self.training))
        total, begin = math.ceil(len(order) / size), time.monotonic()
        bar = tqdm(
            total=total,
            initial=self.step,
            unit="batch",
            desc=f"epoch {self.epoch}",
            leave=False,
            disable=not self.progress,
        )
        self.model.train()
        with bar:
            for pictures, labels in self.training.batches(order[self.step * size :], size):
                self._step(pictures, torch.from_numpy(labels))
                bar.set_postfix(
                    loss=f"{self.sums[0] / self.sums[2]:.3f}", accuracy=f"{self.sums[1] / self.sums[2]:.3f}"
                )
                bar.update()
                if self.step % self.commit_every == 0 and self.step < total:
                    now = time.monotonic()
                    self.seconds, begin = self.seconds + now - begin, now
                    self.commit()

    def _step(self, pictures: Pixels, labels: Tensor) -> None:
        place = np.random.SeedSequence([self.recipe.seed, self.epoch, self.step])
        torch.manual_seed(int(place.generate_state(1)[0]))  # dropout
        if self.recipe.augment:
            pictures = crops(pictures, self.side, np.random.default_rng(place))
        else:
            pictures = np.stack([self.trained.preprocess.picture(p) for p in pictures])
        outputs, labels = self._outputs(pictures), labels.to(self.device)
        loss = functional.cross_entropy(outputs, labels)
        if not math.isfinite(loss.item()):
            raise self._diverged("loss is")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.recipe.radius:
            renormalise(self.model, self.recipe.radius)
        correct = int((outputs.argmax(1) == labels).sum())
        self.sums = [self.sums[0] + loss.item() * len(labels), self.sums[1] + correct, self.sums[2] + len(labels)]
        self.step += 1

    def _outputs(self, pictures: Pixels) -> Tensor:
        x = self.trained.preprocess.tensor(pictures, self.device)
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            outputs: Tensor = self.model(x)
        return outputs.float()

    def _validated(self) -> dict[str, float]:
        if not len(self.held):
            return {}
        loss = first = fifth = 0.0
        self.model.eval()
        with torch.inference_mode():
            for pictures, given in self.held.batches(np.arange(len(self.held)), self.recipe.batch_size):
                outputs, labels = self._outputs(pictures), torch.from_numpy(given).to(self.device)
                loss += functional.cross_entropy(outputs, labels, reduction="sum").item()
                best = outputs.topk(min(5, outputs.shape[1])).indices == labels[:, None]
                first, fifth = first + int(best[:, 0].sum()), fifth + int(best.any(1).sum())
        names = ("validation_loss", "validation_accuracy", "validation_top5")
        return dict(zip(names, (value / len(self.held) for value in (loss, first, fifth)), strict=True))

    def _diverged(self, what: str) -> TrainingError:
        kept = f"{self.out} keeps the last good checkpoint" if self.out.exists() else "nothing was written"
        return TrainingError(
            f"the training diverged: {what} not finite in epoch {self.epoch}, step {self.step}; {kept}: "
            f"try a lower learning rate than {self.optimiser.param_groups[0]['lr']:g}"
        )

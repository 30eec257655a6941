"""Whole networks trained on the few images of each split: from a random start, and fine-tuned (tables 4 to 6)."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from deconvviz.data.datasets import Images, Part
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.results.results import Result, digest_of, require_same, stamped
from deconvviz.run.options import RunOptions
from deconvviz.studies.probing.measure import Split, class_accuracy, draw_splits
from deconvviz.studies.probing.settings import ProbeSettings
from deconvviz.studies.probing.starts import Start
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train
from deconvviz.types import Floats, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.training.options import TrainingKeywords

KIND, SCHEMA = "networks on few images", 1
FEW = Recipe(epochs=60, batch_size=16, validation=0.0, radius=0.0)
"""How networks are trained on few images: small batches, no image held out, and no limit to pretrained filters."""


def train_on_few(
    starts: Mapping[str, Start],
    images: Images,
    indices: Ints,
    settings: ProbeSettings,
    recipe: Recipe = FEW,
    out: Pathlike = "networks.h5",
    *,
    preprocess: Preprocess,
    **options: Unpack[TrainingKeywords],
) -> dict[str, Floats]:
    """Train networks on the training images of each split, and measure them on its test images.

    A network of its own is trained for each start, split and number of training images; its first weights are drawn
    from the settings' seed, the split and that number. The splits are those of the probes.

    Args:
        starts: name -> from where networks are trained.
        images: labelled images.
        indices: int64 [n], the images that take part.
        settings: numbers of images, splits and seed.
        recipe: how each network is trained; its `radius` and `seed` are those of the start and of the split. Batches
            have at most `batch_size` images, all about as many: BatchNorm would take its statistics of a last few.
        out: path of the file of results, .h5; a training under way is beside it. Calling again with the same arguments
            resumes.
        preprocess: how an image becomes the network's input.
        options: of `train`.

    Returns:
        Name of a start -> float64 [per_class, splits], the mean over the classes of the share of a class's test images
        that are classified correctly.

    Raises:
        MismatchError: `out` was written with other settings.
        DeconvvizError: as `train` raises it.

    Source: Zeiler and Fergus 2013, section 5.2, tables 4 to 6 and figure 9. How long and how fast networks are trained
    on few images is our choice.
    """
    job = _Job(starts, images, np.asarray(indices), settings, recipe, pathlib.Path(out), preprocess, options)
    job.restore()
    with RunOptions(progress=options.get("progress", True)).bar("network", len(job.tasks), "training") as bar:
        for task in job.tasks:
            if not job.done(task):
                job.measure(task)
            bar.update()
    return {name: job.result.arrays[f"{name}/accuracy"] for name in starts}


def even_batch(count: int, most: int) -> int:
    """Return how many images a batch has where all batches of an epoch have about as many, and at most `most`.

    >>> even_batch(50, 16), even_batch(33, 16), even_batch(8, 16)
    (13, 11, 8)
    """
    return math.ceil(count / math.ceil(count / most))


Task = tuple[int, str, int]
"""Place of a split, name of a start, place of a number of training images."""


class _Job:
    """The trainings of all splits: what is measured already, and the next one."""

    def __init__(
        self,
        starts: Mapping[str, Start],
        images: Images,
        indices: Ints,
        settings: ProbeSettings,
        recipe: Recipe,
        out: pathlib.Path,
        preprocess: Preprocess,
        options: TrainingKeywords,
    ) -> None:
        self.starts, self.images, self.indices, self.settings = starts, images, indices, settings
        self.recipe, self.out, self.preprocess, self.options = recipe, out, preprocess, options
        labels = np.asarray(images.labels)[indices]
        self.splits: list[Split] = draw_splits(labels, settings, images.classes)
        counts = range(len(settings.per_class))
        self.tasks: list[Task] = list(itertools.product(range(settings.splits), starts, counts))
        config = {
            "images_fingerprint": images.fingerprint,
            "part": digest_of(indices.tolist()),
            "preprocess": preprocess.as_dict(),
            "splits": {name: asdict(settings)[name] for name in ("per_class", "splits", "test", "seed")},
            "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("seed", "radius")},
            "starts": {name: {**start.of, "radius": start.radius} for name, start in starts.items()},
        }
        blank = np.full((len(settings.per_class), settings.splits), np.nan)
        arrays = {f"{name}/accuracy": blank.copy() for name in starts}
        self.result = Result(KIND, SCHEMA, config, stamped(options.get("sources")), arrays)

    def restore(self) -> None:
        """Take what the file has; else write it, so that a wrong place is found out before the work."""
        if self.out.exists():
            before = Result.load(self.out, KIND, SCHEMA)
            require_same(self.out, before.config, self.result.config, "remove it, or choose another --features")
            self.result.arrays = before.arrays
        else:
            self.result.save(self.out)
        for task in self.tasks:  # of a job that was killed between a result and the removal of its training
            if self.done(task):
                self._training(task).unlink(missing_ok=True)

    def done(self, task: Task) -> bool:
        split, name, count = task
        return bool(np.isfinite(self.result.arrays[f"{name}/accuracy"][count, split]))

    def measure(self, task: Task) -> None:
        """Train one network and write what it classifies correctly."""
        split, name, count = task
        drawn, number = self.splits[split], self.settings.per_class[count]
        seed = int(np.random.SeedSequence([self.settings.seed, split, number]).generate_state(1)[0])
        start = self.starts[name]
        model, fine_tuning = start.make(seed)
        chosen = self.indices[drawn.train[:, :number].ravel()]
        size = even_batch(len(chosen), self.recipe.batch_size)
        options: TrainingKeywords = {**self.options, "progress": False}
        trained = train(
            model,
            Part(self.images, chosen),
            self._training(task),
            replace(self.recipe, seed=seed, radius=start.radius, batch_size=size),
            preprocess=self.preprocess,
            name=name,
            fine_tuning=fine_tuning,
            **options,
        )
        predicted = self._predicted(trained.model, self.indices[drawn.test])
        truth = np.asarray(self.images.labels)[self.indices[drawn.test]]
        self.result.arrays[f"{name}/accuracy"][count, split] = class_accuracy(truth, predicted)
        self.result.save(self.out)
        self._training(task).unlink()

    def _predicted(self, model: nn.Module, indices: Ints) -> Ints:
        feed = Feed(self.images, self.preprocess, indices, workers=self.options.get("workers"))
        device = torch.device(self.options.get("device", "cpu"))
        with torch.inference_mode():
            outputs = [model(x).argmax(1) for _, x in feed.tensors(self.recipe.batch_size, device)]
        return np.asarray(torch.cat(outputs).cpu().numpy(), np.int64)

    def _training(self, task: Task) -> pathlib.Path:
        split, name, count = task
        return self.out.with_suffix(f".{name}-{self.settings.per_class[count]}-{split + 1}.pth")

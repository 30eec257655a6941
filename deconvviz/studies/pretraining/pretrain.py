"""Train a network without labels. Killed at any moment and resumed, a training ends with the same weights."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import bytes_of_pixel, mean_colour, room_for
from deconvviz.data.sampling import spread as spread_over
from deconvviz.errors import DataError, TrainingError
from deconvviz.graph.evaluating import evaluating
from deconvviz.halving import out_of_memory
from deconvviz.models.weights import TRAINING
from deconvviz.progress import write_line
from deconvviz.results.results import require_same, stamped
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps
from deconvviz.studies.pretraining.attention import SpatialAttention
from deconvviz.studies.pretraining.body import Body
from deconvviz.studies.pretraining.objectives import make_objective
from deconvviz.studies.pretraining.recipe import PretrainingRecipe
from deconvviz.studies.pretraining.result import Pretrained, write_history
from deconvviz.studies.pretraining.watch import effective_rank, spread
from deconvviz.studies.training.options import TrainingKeywords, TrainingOptions
from deconvviz.studies.training.recipe import paper_preprocess
from deconvviz.studies.training.recorder import SnapshotRecorder
from deconvviz.types import Pathlike, Picture
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

SCHEMA = 1
SIMCLR = PretrainingRecipe()


def pretrain(
    model: nn.Module,
    images: Images,
    out: Pathlike,
    recipe: PretrainingRecipe = SIMCLR,
    *,
    preprocess: Preprocess | None = None,
    resize: int | None = None,
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    recorder: SnapshotRecorder | None = None,
    **options: Unpack[TrainingKeywords],
) -> Pretrained:
    """Train a network without labels: two views of an image get embeddings that agree, those of other images differ.

    Calling again with the same arguments resumes a training that was interrupted, and with more epochs it adds them to
    a finished one. The classifier, the last layer with weights, takes no part and stays as it is.

    Args:
        model: a network with an embedding before its last layer; it is trained in place.
        images: images; their labels are not looked at.
        out: path of the file with weights, projector, optimiser state and history, named .pth or .pt. Every command
            takes it as --weights OUT. A table of the history is written beside it, as .csv.
        recipe: objective, epochs, batch size and so on.
        preprocess: how images are prepared; by default as in Zeiler and Fergus, for the input size that the model has.
            Views are crops of the central square of the resized image.
        resize: shorter side of the images before the crop in pixels; None takes that of `preprocess`.
        name: the model's name on the command line, which the file keeps.
        arguments: the arguments of the factory that made the model, which the file keeps.
        recorder: records a snapshot after each epoch.
        options: `device`, `commit_every`, `workers`, `progress` and `sources` of `TrainingOptions`.

    Returns:
        The network in eval mode, with its history.

    Raises:
        TrainingError: the loss is not finite (`out` keeps the last good checkpoint), the model has no embedding, there
            are fewer images than in a batch, or a batch does not fit in memory.
        MismatchError: `out` was written by a training with other settings.
        DataError: a file cannot be read or written.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> body = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> model = nn.Sequential(*body, nn.Linear(8, 10))
    >>> recipe, plain = dv.PretrainingRecipe(epochs=2, batch_size=20), dv.Preprocess(resize=36, crop=32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = dv.pretrain(model, dv.Scenes(40), f"{folder}/n.pth", recipe, preprocess=plain, progress=False)
    >>> [record["epoch"] for record in result.history], result.classifier
    ([1, 2], '4')
    """
    settings = preprocess or paper_preprocess(model)
    settings = replace(settings, resize=resize or settings.resize)
    training = Pretraining(model, recipe, pathlib.Path(out), TrainingOptions(**options), recorder)
    training.feed(images, settings, preprocess is None)
    training.identity = {
        "model": name or type(model).__name__,
        "arguments": dict(arguments or {}),
        "images": images.fingerprint,
        "preprocess": training.preprocess.as_dict(),
        "pretraining": recipe.identity(),
    }
    if recorder is not None:  # the snapshots say what they are of, so that `evolve` can build the network again
        recorder.config |= training.identity
    training.restore()
    return training.run()


class Pretraining:
    """The training of a network without labels: what a step, an epoch's end and a commit do.

    Attributes:
        identity: what must agree when the training is resumed, JSON values.
        preprocess: how images are prepared for the network.
        history: a record for each epoch that is over, see `Pretrained`.
        position: how far the training has come.
    """

    identity: dict[str, Any]
    preprocess: Preprocess

    def __init__(
        self,
        model: nn.Module,
        recipe: PretrainingRecipe,
        out: pathlib.Path,
        options: TrainingOptions,
        recorder: SnapshotRecorder | None,
    ) -> None:
        if out.suffix not in (".pth", ".pt"):
            raise DataError(f"{out} given; a table is written beside it: expected a name such as weights.pth")
        self.device = torch.device(options.device)
        self.model, self.recipe, self.options, self.recorder = model.to(self.device), recipe, options, recorder
        self.checkpoint, self.position = Checkpoint(out, TRAINING, SCHEMA), Position()
        self.history: list[dict[str, float]] = []

    # --- what it learns from ---

    def feed(self, images: Images, settings: Preprocess, own_mean: bool) -> None:
        """Settle how the images are prepared, and build what stands on the network; `own_mean` takes their colour."""
        _, height, width = settings.shape
        if height != width:
            raise TrainingError(f"inputs of {height} x {width} given; training takes square ones")
        if len(images) < self.recipe.batch_size:
            raise TrainingError(
                f"{counted(len(images), 'image')} given, and a batch has {self.recipe.batch_size}; give more images or "
                f"a smaller batch size"
            )
        resize = settings.resize or height
        room = max(max(resize) if isinstance(resize, tuple) else resize, height)
        memory = room_for(len(images), room, room, bytes_of_pixel(images))
        prepared = replace(settings, resize=room, crop=room)
        self.training = Feed(images, prepared, workers=self.options.workers, memory=memory)
        if own_mean:
            settings = replace(settings, mean=mean_colour(self.training, self.recipe.seed))
        watched = spread_over(np.asarray(images.labels), self.recipe.watched)
        self.watched = Feed(images, settings, watched, workers=self.options.workers)
        self.preprocess = settings
        self._build()

    def _build(self) -> None:
        """Put the projector, and perhaps the add-on, on the network."""
        recipe, example = self.recipe, torch.zeros(2, *self.preprocess.shape, device=self.device)
        self.body = Body(self.model, example)
        ends = self.body.ends
        self.objective = make_objective(recipe.objective, ends.width, recipe.options, recipe.seed).to(self.device)
        self.attention: SpatialAttention | None = None
        if recipe.attention is not None:
            if not ends.maps:
                raise TrainingError(
                    f"{type(self.model).__name__} has no maps before its embedding, which spatial-attention masks; "
                    "leave the add-on out"
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                self.attention = SpatialAttention(ends.channels, **recipe.attention).to(self.device)
            self._check_masking(example)
        modules = [self.model, self.objective, *([self.attention] if self.attention else [])]
        self.trained = nn.ModuleList(modules)
        self.optimiser = torch.optim.Adam(self.trained.parameters(), recipe.lr, weight_decay=recipe.weight_decay)

    def _check_masking(self, example: Tensor) -> None:
        """Raise TrainingError where masked maps beside the plain ones do not come through the network."""
        with torch.no_grad(), evaluating(self.model), self._masking():
            try:
                rows = len(self.body(example))
            except RuntimeError:
                rows = 0
        if rows != 2 * len(example):
            raise TrainingError(
                f"the maps of {self.body.ends.maps} are not all that the embedding of {type(self.model).__name__} "
                "reads, so that spatial-attention cannot mask them; leave the add-on out"
            )

    @contextlib.contextmanager
    def _masking(self) -> Iterator[None]:
        """Within a `with` block, masked maps go through the network beside the plain ones, where there is an add-on."""
        self.body.masking(self.attention.beside if self.attention else None)
        try:
            yield
        finally:
            self.body.masking(None)

    # --- resuming ---

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch: whole batches only."""
        return len(self.training) // self.recipe.batch_size

    def restore(self) -> None:
        """Resume from the file, where it exists; else write one, so that a wrong place is found out before the work."""
        table = self.checkpoint.path.with_suffix(".csv")
        if not self.checkpoint.path.exists():
            if table.exists():
                raise DataError(
                    f"{table} exists, and no {self.checkpoint.path.name} to resume from; choose another --out"
                )
            self.commit()
            return
        content = self.checkpoint.read()
        require_same(self.checkpoint.path, content["identity"], self.identity, "remove it or choose another --out")
        self.model.load_state_dict(content["state_dict"])
        for module, state in zip(self.trained[1:], content["beside"], strict=True):
            module.load_state_dict(state)
        self.optimiser.load_state_dict(content["optimiser"])
        self.position = Position(content["steps"], dict(content["sums"]), content["images"], content["seconds"])
        self.history = list(content["history"])

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically; weights that are not finite are never written."""
        self._require_finite(self.trained.parameters(), "a weight")
        position = self.position
        self.checkpoint.write(
            {
                "identity": self.identity,
                "arguments": self.identity["arguments"],
                "settings": self.preprocess.as_dict(),
                "classes": [],  # the classifier has learned none
                "state_dict": self.model.state_dict(),
                "beside": [module.state_dict() for module in self.trained[1:]],  # the projector and the add-on
                "optimiser": self.optimiser.state_dict(),
                "history": self.history,
                "sources": stamped(self.options.sources),
                "steps": position.step,
                "sums": position.sums,
                "images": position.images,
                "seconds": position.seconds,
            }
        )
        write_history(self.checkpoint.path.with_suffix(".csv"), self.history)

    # --- learning ---

    def run(self) -> Pretrained:
        """Train until the recipe's last epoch."""
        total = self.recipe.epochs * self.per_epoch
        with self.options.run.bar("step", total, "pretraining", self.position.step) as bar:
            run_steps(self, self.per_epoch, total, self.options.commit_every, bar, self.recipe.precision)
        write_history(self.checkpoint.path.with_suffix(".csv"), self.history)  # a kill may have come before it
        return Pretrained(
            model=self.model.eval(),
            preprocess=self.preprocess,
            path=self.checkpoint.path,
            objective=self.recipe.objective,
            classifier=self.body.ends.classifier,
            width=self.body.ends.width,
            limits=(self.recipe.least_rank, self.recipe.least_spread),
            history=self.history,
            collapse=self.recipe.collapse(self.history[-1]) if self.history else "",
        )

    def batches(self, epoch: int, done: int) -> Iterator[PictureBatch]:
        """Yield the whole batches of an epoch, from 0, in the order that (seed, epoch) draws."""
        size = self.recipe.batch_size
        order = np.random.default_rng([self.recipe.seed, epoch + 1]).permutation(len(self.training))
        self.trained.train()
        yield from self.training.batches(size, order[: self.per_epoch * size], start=done * size)

    def step(self, batch: PictureBatch, epoch: int) -> Measured:
        """Take one step on a batch."""
        address = np.random.SeedSequence([self.recipe.seed, epoch + 1, self.position.step - epoch * self.per_epoch])
        torch.manual_seed(int(address.generate_state(1)[0]))  # dropout
        self.optimiser.zero_grad(set_to_none=True)
        try:
            terms = self._terms(self._views(batch.pictures, np.random.default_rng(address)))
            loss = torch.stack([*terms.values()]).sum()
            self._require_finite([loss], "the loss")
            loss.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                f"a batch of {counted(len(batch.places), 'image')}, two views each, does not fit in memory, and its "
                "loss compares all of them, so that it cannot be computed in parts; give a smaller batch size, "
                "smaller images or another --device"
            ) from error
        self.objective.before_update(self.position.step)
        self.optimiser.step()
        self.objective.after_update()
        names, count = ("loss", *terms), len(batch.places)
        values = torch.stack([loss.detach(), *(term.detach() for term in terms.values())]).tolist()
        return Measured({name: value * count for name, value in zip(names, values, strict=True)}, count)

    def _views(self, pictures: Picture, rng: np.random.Generator) -> Tensor:
        """Return two views of each picture as inputs of the network: the first views, then the second ones."""
        x = self.preprocess.tensor(pictures, self.device)
        low, high = (bound.to(x)[None, :, None, None] for bound in self.preprocess.bounds())
        x, side = (x - low) / (high - low), self.preprocess.shape[1]
        return torch.cat([self.recipe.views.of(x, side, rng) for _ in range(2)]) * (high - low) + low

    def _terms(self, x: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss of views [2 N, C, h, w]; those of masked maps are named masked_."""
        bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext(), self._masking():
            embeddings = self.body(x)
            projections = [self.objective.projector(part) for part in torch.split(embeddings, len(x))]
        plain, *masked = (self.objective.terms(*each.float().chunk(2)) for each in projections)
        if self.attention is not None:
            plain |= {f"masked_{name}": self.attention.weight * term for name, term in masked[0].items()}
        return plain

    def end_epoch(self, epoch: int) -> None:
        """Look at the embeddings of some images, and add the epoch to the history."""
        began = time.monotonic()
        record: dict[str, float] = {"epoch": epoch + 1, **self.position.means(), **self._watched()}
        collapse = self.recipe.collapse(record)
        record["collapsed"] = int(bool(collapse))
        record["seconds"] = round(self.position.seconds + time.monotonic() - began, 3)
        self.history = [*self.history, record]
        metrics = {key: value for key, value in record.items() if key not in ("epoch", "seconds")}
        # The snapshot comes before the commit: after a kill in between, the epoch's last steps run again, and their
        # snapshot replaces this one.
        if self.recorder is not None:
            self.recorder(epoch + 1, self.model, **metrics)
        if self.options.progress:
            name = f"epoch {epoch + 1}/{self.recipe.epochs}"
            write_line(report_epoch(name, {k: v for k, v in metrics.items() if k != "collapsed"}, record["seconds"]))
            if collapse:
                write_line(f"{name} has collapsed: {collapse}")

    def _watched(self) -> dict[str, float]:
        """Return rank and spread of the embeddings and the projections of some images, in eval mode."""
        embeddings = []
        with torch.no_grad(), evaluating(self.trained):
            for _, x in self.watched.tensors(self.recipe.batch_size, self.device):
                embeddings.append(self.body(x))
            h = torch.cat(embeddings)
            z = self.objective.projector(h)
        measured = {"embedding": h, "projection": z}
        self._require_finite(measured.values(), "an embedding")
        return {
            f"{what}_{name}": measure(values)
            for what, values in measured.items()
            for name, measure in (("rank", effective_rank), ("spread", spread))
        }

    def _require_finite(self, values: Iterable[Tensor], what: str) -> None:
        epoch, step = divmod(self.position.step, self.per_epoch)
        self.checkpoint.require_finite(values, what, f"epoch {epoch + 1}, step {step}", self.recipe.lr)

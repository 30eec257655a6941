"""Training an explainer for a network that stays as it is; resumed after a kill, it ends with the same weights.

As in the training of networks, nothing that is random depends on what came before: the order of an epoch is drawn from
(seed, phase, epoch); crops, flips, fake classes and noise of a step from (seed, phase, step).
"""

from __future__ import annotations

import copy
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.cam.learned.base import LearnedExplainer, Phase
from deconvviz.cam.learned.files import configuration, save_explainer
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import bytes_of_pixel, random_crops, room_for
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce, gradients_in_parts
from deconvviz.progress import write_line
from deconvviz.results.results import require_same, stamped
from deconvviz.results.tables import write_csv
from deconvviz.run.loop import Checkpoint, Measured, Position, report_epoch, run_steps
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer
from deconvviz.studies.explainers.options import ExplainerTrainingOptions
from deconvviz.studies.explainers.result import TrainedExplainer
from deconvviz.types import Ints, Pathlike, Picture
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.explainers.options import ExplainerTrainingKeywords

FORMAT, SCHEMA = "deconvviz-explainer-training", 1


def train_explainer(
    method: str,
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    **training: Unpack[ExplainerTrainingKeywords],
) -> TrainedExplainer:
    """Train an explainer.

    Calling again with the same arguments resumes a training that was interrupted, and with more epochs it adds them to
    a finished one. Written are OUT (a state dict) and, beside it, .json (what it is and of which network), .csv (the
    loss, term by term) and .training.pth (what is needed to resume).

    Args:
        method: "l-cam-fm", "l-cam-img", "real-time-masking", "bump" or another name in LEARNED.
        network: the network whose decisions are explained; it is left unchanged.
        images: images to learn from.
        layers: names of the layers that the explainer reads, in the order of depth.
        out: path of the explainer, .pth or .pt.
        preprocess: as the network takes images; random crops are cut out of the resized images.
        training: the fields of `ExplainerTrainingOptions`: the method's `options`, the `phases`, `outputs` to learn
            labels, `commit_every`, `sources`, and how the training runs (`precision`, `seed`, `workers`, `progress`).

    Returns:
        The trained explainer with its history.

    Raises:
        DataError: a method's option or a value that is invalid, or images without the classes that are asked for.
        DeconvvizError: a method or a layer that does not exist, or images that do not fit the network.
        MismatchError: `out` was written by a training with other settings.
        TrainingError: the loss is not finite; the last good checkpoint is kept.

    >>> import pathlib, tempfile, torch, deconvviz as dv
    >>> maps = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10))
    >>> network = dv.capture(torch.nn.Sequential(maps, head).eval(), (3, 32, 32))
    >>> phases = [Phase("attention", epochs=2, batch_size=4, lr=0.1)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trained = train_explainer(
    ...         "l-cam-fm", network, dv.Scenes(8), ["0"], pathlib.Path(folder, "lcam.pth"), phases=phases,
    ...         preprocess=dv.Preprocess(resize=36, crop=32), progress=False,
    ...     )
    >>> [record["epoch"] for record in trained.history], list(trained.explainer.layers)
    ([1, 2], ['0'])
    """
    options = ExplainerTrainingOptions(**training)
    frozen = FrozenNetwork(network, layers, preprocess, options.precision)
    explainer = new_explainer(method, frozen, options.options, options.seed).to(network.device)
    job = ExplainerTraining(explainer, frozen, images, preprocess, options)
    job.restore(pathlib.Path(out))
    return job.run()


class ExplainerTraining:
    """The training of an explainer: what a step, an epoch's end and a commit do, phase after phase.

    Attributes:
        explainer: what learns.
        frozen: the network that it learns to explain.
        images: images to learn from.
        preprocess: as the network takes images.
        options: how the training runs.
        phases: the stretches of the training.
        indices: int64 [n], which images are used: all of them, or those with a label where labels are learned.
        config: what must be equal for a training to be resumed, but for the length of the last phase; JSON values.
        sources: where model and images came from, and the versions; JSON values.
        phase_number: index of the phase under way.
        position: how far this phase has come.
        finished: whether the last phase is over.
        history: a record for each epoch, see `TrainedExplainer`.
        optimiser: of the phase under way.
        feed: the pictures of the phase under way.
    """

    optimiser: torch.optim.Optimizer
    feed: Feed

    def __init__(
        self,
        explainer: LearnedExplainer,
        frozen: FrozenNetwork,
        images: Images,
        preprocess: Preprocess,
        options: ExplainerTrainingOptions,
    ) -> None:
        """Prepare a training; raises DataError where no image has a label, or the outputs do not fit the labels."""
        self.explainer, self.frozen, self.preprocess, self.options = explainer, frozen, preprocess, options
        self.images, self.phases = images, tuple(options.phases) or explainer.needed(explainer.options)
        labels_are_learned = options.outputs is not None
        self.indices = np.flatnonzero(images.labels >= 0) if labels_are_learned else np.arange(len(images))
        if not len(self.indices):
            raise DataError("no image has a known class; explain the network's own decisions instead of labels")
        if options.outputs is not None and not self._covers_labels(options.outputs):
            raise DataError(
                f"the outputs of the labels are {options.outputs}; expected one of {frozen.outputs} for each class"
            )
        self.config = configuration(explainer, frozen.original, self._settings())
        self.sources = stamped(options.sources)
        self.phase_number, self.position, self.finished = 0, Position(), False
        self.history: list[dict[str, Any]] = []
        self.at_once = AtOnce(max(phase.batch_size for phase in self.phases))
        self._saved_optimiser: Any = None  # its state in the checkpoint, until the phase begins
        self._phase_began = False

    def _covers_labels(self, outputs: Ints) -> bool:
        """Return whether every label of the images has an output of the network."""
        enough = len(outputs) > self.images.labels.max()
        return enough and bool(((outputs >= 0) & (outputs < self.frozen.outputs)).all())

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the training, for its configuration; JSON values."""
        outputs = self.options.outputs
        return {
            "images": self.images.fingerprint,
            "preprocess": self.preprocess.as_dict(),
            "precision": self.options.precision,
            "seed": self.options.seed,
            "phases": [asdict(phase) for phase in self.phases],
            "explain": "top" if outputs is None else "label",
            "label_outputs": None if outputs is None else outputs.tolist(),
        }

    # --- position ---

    @property
    def phase(self) -> Phase:
        """The phase under way."""
        return self.phases[self.phase_number]

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch of the phase under way."""
        return math.ceil(len(self.indices) / self.phase.batch_size)

    @property
    def total(self) -> int:
        """Steps in the phase under way."""
        return self.phase.steps or self.phase.epochs * self.per_epoch

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, of the phase under way."""
        phase = self.phase
        return phase.lr * phase.decay ** min(step // (phase.every or self.per_epoch), phase.decays)

    # --- resuming ---

    def restore(self, out: pathlib.Path) -> None:
        """Resume from the files if they exist; otherwise write the first checkpoint, so that a bad path is found now.

        Raises:
            DataError: the name does not fit, files of another job are in the way, or nothing can be written.
            MismatchError: the files are of a training with other settings.
        """
        self.out, self.checkpoint = out, Checkpoint(out.with_suffix(".training.pth"), FORMAT, SCHEMA)
        if out.suffix not in (".pth", ".pt"):
            raise DataError(f"{out} given; JSON and CSV files are written beside it: expected a name such as lcam.pth")
        if not self.checkpoint.path.exists():
            others = [path for path in (out, *map(out.with_suffix, (".json", ".csv"))) if path.exists()]
            if others:
                missing = self.checkpoint.path.name
                raise DataError(f"{others[0]} exists, and no {missing} to resume from; choose another --out")
            self.commit()
            return
        content = self.checkpoint.read()
        begun, now = (self._comparable(config) for config in (content["config"], self.config))
        require_same(out, begun, now, "choose another --out", (content["config"], self.config))
        self.explainer.load_state_dict(content["state_dict"])
        sums = dict(content["sums"])
        images = int(sums.pop("images", 0))
        self.position = Position(content["step"], sums, images, content["seconds"])
        self.phase_number = content["phase"]
        self.history, self._saved_optimiser = list(content["history"]), content["optimiser"]
        if self.phase_number == len(self.phases):  # finished: more epochs of the last phase may have been asked for
            self.phase_number, self.position.step = self.phase_number - 1, content["last_step"]
        if self.phase_number == len(self.phases) - 1 and self.position.step > self.total:
            raise MismatchError(
                f"{out} has {counted(self.position.step, 'step')} of its last phase already; "
                "ask for no less, or choose another"
            )

    def _comparable(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration without the length of the last phase, which may grow."""
        *before, last = config["phases"]
        config = {name: value for name, value in config.items() if name != "architecture"}  # older files have none
        return {**config, "phases": [*before, {k: v for k, v in last.items() if k not in ("epochs", "steps")}]}

    def commit(self) -> None:
        """Write everything that is needed to resume, atomically; then the explainer and its table."""
        sums = {**self.position.sums, "images": self.position.images} if self.position.images else {}
        self.checkpoint.write(
            {
                "config": self.config,
                "sources": self.sources,
                "state_dict": self.explainer.state_dict(),
                "optimiser": self.optimiser.state_dict() if self._phase_began else None,
                "phase": len(self.phases) if self.finished else self.phase_number,
                "step": self.position.step,
                "last_step": self.position.step,
                "sums": sums,
                "seconds": self.position.seconds,
                "history": self.history,
            }
        )
        save_explainer(self.explainer, self.out, self.config)
        columns = list(dict.fromkeys(key for record in self.history for key in record)) or ["phase", "epoch"]
        rows = [[record.get(column, "") for column in columns] for record in self.history]
        write_csv(self.out.with_suffix(".csv"), "explainer training", columns, rows)

    # --- learning ---

    def run(self) -> TrainedExplainer:
        """Train through the phases that are left, and return the explainer."""
        self.explainer.train()
        for number in range(self.phase_number, len(self.phases)):
            self.phase_number = number
            self._begin_phase()
            with self.options.bar("step", self.total, self.phase.name, self.position.step) as bar:
                run_steps(self, self.per_epoch, self.total, self.options.commit_every, bar, self.options.precision)
            self.finished = number == len(self.phases) - 1
            if not self.finished:
                self.phase_number, self.position, self._phase_began = number + 1, Position(), False
            self.commit()
        self.explainer.origin = self.config
        return TrainedExplainer(
            explainer=self.explainer.eval(), path=self.out, history=self.history, config=self.config
        )

    def _begin_phase(self) -> None:
        """Make the optimiser and the pictures of the phase under way."""
        self.optimiser, self._phase_began = self._new_optimiser(self.phase), True
        if self._saved_optimiser is not None:
            self.optimiser.load_state_dict(self._saved_optimiser)
            self._saved_optimiser = None
        side = self._side_before_crop(self.phase)
        preprocess = replace(self.preprocess, resize=side, crop=side) if side else self.preprocess
        memory = room_for(len(self.indices), *preprocess.shape[1:], bytes_of_pixel(self.images))
        self.feed = Feed(self.images, preprocess, self.indices, workers=self.options.workers, memory=memory)

    def _new_optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        parameters = {
            name: parameter
            for name, parameter in self.explainer.named_parameters()
            if not phase.parameters or name.startswith(phase.parameters)
        }
        groups = [
            {"params": [p for name, p in parameters.items() if not name.endswith("bias")], "factor": 1.0},
            {"params": [p for name, p in parameters.items() if name.endswith("bias")], "factor": phase.bias_lr},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise DataError(
                f"phase {phase.name} trains {', '.join(phase.parameters)}, which {self.explainer} does not have"
            )
        if phase.optimiser == "adam":
            return torch.optim.Adam(groups, phase.lr, weight_decay=phase.weight_decay)
        nesterov = phase.momentum > 0
        return torch.optim.SGD(groups, phase.lr, phase.momentum, weight_decay=phase.weight_decay, nesterov=nesterov)

    def _side_before_crop(self, phase: Phase) -> int:
        """Return the side of the resized square that crops are cut out of; 0 where no crops are taken."""
        _, height, width = self.preprocess.shape
        resize = self.preprocess.resize
        resize = max(resize) if isinstance(resize, tuple) else resize
        return max(resize, height) if phase.augment and height == width and resize else 0

    def batches(self, epoch: int, done: int) -> Iterator[PictureBatch]:
        """Yield the batches of an epoch, from 0, in the order that (seed, phase, epoch) draws."""
        order = np.random.default_rng([self.options.seed, self.phase_number, epoch]).permutation(len(self.feed))
        size = self.phase.batch_size
        yield from self.feed.batches(size, order, start=done * size)

    def step(self, batch: PictureBatch, epoch: int) -> Measured:
        """Learn from one batch, and return the sums of the loss and its terms."""
        address = np.random.SeedSequence([self.options.seed, self.phase_number, self.position.step])
        rng, rate, pictures = np.random.default_rng(address), self.rate(self.position.step), batch.pictures
        if self._side_before_crop(self.phase):
            pictures = random_crops(pictures, self.preprocess.shape[1], rng)
        labels, count = self.feed.labels[batch.places], len(pictures)

        def share(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
            random = np.random.default_rng([*address.entropy, start]) if start else copy.deepcopy(rng)  # type: ignore[misc]
            terms, right = self._terms(pictures[start:stop], labels[start:stop], random)
            loss = torch.stack(list(terms.values())).sum()
            self._require_finite([loss], "the loss")
            means = {**terms, "loss": loss, "right": right.double().mean()}
            part = stop - start
            return loss * (part / count), {name: value.detach() * part for name, value in means.items()}

        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        parts = gradients_in_parts(self.at_once, count, list(self.explainer.parameters()), share)
        self.optimiser.step()
        self._require_finite(self.explainer.parameters(), "a weight")
        return Measured({name: sum(float(part[name]) for part in parts) for name in parts[0]}, count)

    def _terms(self, pictures: Picture, labels: Ints, rng: np.random.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Return the weighted terms of the loss, and bool [n], for which images the class is still found."""
        outputs = self.options.outputs
        classes = None if outputs is None else torch.from_numpy(outputs[labels])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch = self.frozen.batch(self.frozen.inputs(self.preprocess, pictures), classes, noise)
        phase = self.phase
        if phase.fakes:
            fake = torch.from_numpy(rng.random(len(pictures)) < phase.fakes).to(batch.classes.device)
            shift = torch.from_numpy(rng.integers(1, self.frozen.outputs, len(pictures))).to(batch.classes.device)
            other_class = (batch.classes + shift) % self.frozen.outputs
            batch = replace(batch, classes=torch.where(fake, other_class, batch.classes), real=~fake)
        return self.explainer.terms(batch, phase.name)

    def end_epoch(self, epoch: int) -> None:
        """Add a record of the epoch to the history, and print it."""
        means, seconds, phase = self.position.means(), round(self.position.seconds, 3), self.phase
        record = {"phase": phase.name, "epoch": epoch + 1, "lr": self.rate(self.position.step - 1)}
        self.history.append({**record, **means, "seconds": seconds})
        if self.options.progress:
            write_line(report_epoch(f"{phase.name}, epoch {epoch + 1}", means, seconds))

    def _require_finite(self, values: Any, what: str) -> None:
        where = f"phase {self.phase.name}, step {self.position.step}"
        self.checkpoint.require_finite(values, what, where, self.rate(self.position.step))

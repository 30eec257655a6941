"""Training an explainer for a network that stays as it is; continued after a kill, it ends with the same weights.

As in `training`, nothing that is random depends on what came before: the order of an epoch is drawn from (seed, phase,
epoch), crops, flips, fake classes and noise of a step from (seed, phase, step).
"""

from __future__ import annotations

import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.cam.learned.base import LearnedExplainer, Phase
from deconvviz.cam.learned.files import configuration, save_explainer
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, MismatchError, TrainingError
from deconvviz.graph.network import Network
from deconvviz.models.weights import read_file
from deconvviz.results.files import Pathlike, atomic
from deconvviz.results.results import require_same, versions
from deconvviz.results.tables import write_csv
from deconvviz.studies.explainers.frozen import Frozen, new_explainer
from deconvviz.studies.explainers.result import Learned
from deconvviz.studies.training.batches import Pictures, Pixels, crops

FORMAT, SCHEMA = "deconvviz-explainer-training", 1


def train_explainer(
    method: str,
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    options: Mapping[str, Any] | None = None,
    phases: Sequence[Phase] = (),
    outputs: NDArray[np.int64] | None = None,
    precision: str = "fp32",
    seed: int = 0,
    workers: int = 2,
    commit_every: int = 200,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Learned:
    """Train an explainer; the same call again continues an interrupted training, or adds epochs to a finished one.

    Written are OUT (a state dict) and, beside it, .json (what it is, of which network), .csv (the loss, term by term)
    and .training.pth (what is needed to go on).

    Args:
        method: "l-cam-fm", "l-cam-img", "real-time-masking" or another of LEARNED.
        layers: that it reads, in the order of depth.
        images: to learn from. preprocess: as the network takes them; random crops are cut out of the resized images.
        options: the method's own. phases: other than its own.
        outputs: int64 [classes], the output of each class of the images: explained is then the label. Without it, each
            crop's own top class: the network's decision.
        precision: "fp32" or "bf16", of the network; the explainer is float32.
        commit_every: steps between checkpoints within an epoch.

    Raises:
        DeconvvizError: no such method, layer or option; the images do not fit. MismatchError: `out` was made by another
        training. TrainingError: the loss is no longer finite; the last good checkpoint is kept.
    """
    if commit_every < 1:
        raise DataError(f"commit_every {commit_every} given; expected at least 1")
    frozen = Frozen(network, layers, preprocess, precision)
    explainer = new_explainer(method, frozen, options or {}, seed).to(network.device)
    trainer = _Trainer(explainer, frozen, images, preprocess, tuple(phases) or explainer.schedule(), outputs, seed)
    trainer.workers, trainer.commit_every, trainer.progress = workers, commit_every, progress
    about = {
        "images": images.fingerprint,
        "preprocess": preprocess.as_dict(),
        "precision": precision,
        "seed": seed,
        "phases": [asdict(phase) for phase in trainer.phases],
        "explain": "top" if outputs is None else "label",
        "label_outputs": None if outputs is None else outputs.tolist(),
    }
    trainer.config = configuration(explainer, network, about)
    trainer.sources = {"versions": versions(), **(sources or {})}
    trainer.restore(pathlib.Path(out))
    return trainer.run()


class _Trainer:
    config: dict[str, Any]
    sources: dict[str, Any]
    workers, commit_every, progress = 2, 200, True

    def __init__(
        self,
        explainer: LearnedExplainer,
        frozen: Frozen,
        images: Images,
        preprocess: Preprocess,
        phases: tuple[Phase, ...],
        outputs: NDArray[np.int64] | None,
        seed: int,
    ) -> None:
        self.explainer, self.frozen, self.preprocess, self.phases = explainer, frozen, preprocess, phases
        self.images, self.outputs, self.seed = images, outputs, seed
        self.chosen = np.arange(len(images)) if outputs is None else np.flatnonzero(images.labels >= 0)
        if not len(self.chosen):
            raise DataError("no image has a known class; explain the network's own decisions instead of labels")
        if outputs is not None and not self._answered(outputs):
            raise DataError(f"the outputs of the labels are {outputs}; expected one of {frozen.outputs} for each class")
        self.phase, self.step, self.sums, self.seconds = 0, 0, dict[str, float](), 0.0
        self.history: list[dict[str, Any]] = []
        self.saved: Any = None  # the optimiser's state in the checkpoint

    def _answered(self, outputs: NDArray[np.int64]) -> bool:
        enough = len(outputs) > self.images.labels.max()
        return enough and bool(((outputs >= 0) & (outputs < self.frozen.outputs)).all())

    def restore(self, out: pathlib.Path) -> None:
        """Continue what the files hold, where there are any; a place that cannot be written to is found out now."""
        self.out, self.checkpoint = out, out.with_suffix(".training.pth")
        if out.suffix not in (".pth", ".pt"):
            raise DataError(f"{out} given; its JSON and CSV files stand beside it: expected a name such as lcam.pth")
        if not self.checkpoint.exists():
            there = [path for path in (out, *map(out.with_suffix, (".json", ".csv"))) if path.exists()]
            if there:
                raise DataError(f"{there[0]} exists, and no {self.checkpoint.name} to go on from; choose another --out")
            self.commit()
            return
        found = read_file(self.checkpoint)
        if not isinstance(found, Mapping) or found.get("format") != FORMAT or found.get("schema") != SCHEMA:
            raise DataError(f"{self.checkpoint} is no training of this version; choose another --out")
        require_same(out, self._comparable(found["config"]), self._comparable(self.config), "choose another --out")
        self.explainer.load_state_dict(found["state_dict"])
        self.phase, self.step, self.sums, self.seconds = (found[k] for k in ("phase", "step", "sums", "seconds"))
        self.history, self.saved = list(found["history"]), found["optimiser"]
        if self.phase == len(self.phases):  # finished: more epochs of the last phase may have been asked for
            self.phase, self.step = self.phase - 1, found["last_step"]
        if self.phase == len(self.phases) - 1 and self.step > self._total(self.phases[-1]):
            raise MismatchError(
                f"{out} has {self.step} steps of its last phase already; ask for no less, or choose another"
            )

    def _per_epoch(self, phase: Phase) -> int:
        return math.ceil(len(self.chosen) / phase.batch_size)

    def _total(self, phase: Phase) -> int:
        return phase.steps or phase.epochs * self._per_epoch(phase)

    def _comparable(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration but for the length of the last phase, which may grow."""
        *before, last = config["phases"]
        return {**config, "phases": [*before, {k: v for k, v in last.items() if k not in ("epochs", "steps")}]}

    def commit(self, optimiser: torch.optim.Optimizer | None = None, finished: bool = False) -> None:
        """Write everything that is needed to go on, atomically, and then what is of use already."""
        content = {
            "format": FORMAT,
            "schema": SCHEMA,
            "config": self.config,
            "sources": self.sources,
            "state_dict": self.explainer.state_dict(),
            "optimiser": optimiser and optimiser.state_dict(),
            "phase": len(self.phases) if finished else self.phase,
            "step": self.step,
            "last_step": self.step,
            "sums": self.sums,
            "seconds": self.seconds,
            "history": self.history,
        }
        with atomic(self.checkpoint) as temporary:
            torch.save(content, temporary)
        save_explainer(self.explainer, self.out, self.config)
        columns = list(dict.fromkeys(key for record in self.history for key in record)) or ["phase", "epoch"]
        write_csv(self.out.with_suffix(".csv"), columns, [[r.get(c, "") for c in columns] for r in self.history])

    def run(self) -> Learned:
        """Train through the phases."""
        self.explainer.train()
        for number in range(self.phase, len(self.phases)):
            self.phase = number
            optimiser = self._optimiser(self.phases[number])
            if self.saved is not None:
                optimiser.load_state_dict(self.saved)
                self.saved = None
            self._train(self.phases[number], optimiser)
            last = number == len(self.phases) - 1
            if not last:
                self.phase, self.step = number + 1, 0
            self.commit(optimiser if last else None, finished=last)
        self.explainer.origin = self.config
        return Learned(self.explainer.eval(), self.out, self.history, self.config)

    def _optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        own = {
            n: p for n, p in self.explainer.named_parameters() if not phase.parameters or n.startswith(phase.parameters)
        }
        groups = [
            {"params": [p for n, p in own.items() if not n.endswith("bias")], "factor": 1.0},
            {"params": [p for n, p in own.items() if n.endswith("bias")], "factor": phase.bias_lr},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise DataError(f"phase {phase.name} trains {', '.join(phase.parameters)}, which {self.explainer} has not")
        if phase.optimiser == "adam":
            return torch.optim.Adam(groups, phase.lr, weight_decay=phase.weight_decay)
        nesterov = phase.momentum > 0
        return torch.optim.SGD(groups, phase.lr, phase.momentum, weight_decay=phase.weight_decay, nesterov=nesterov)

    def _train(self, phase: Phase, optimiser: torch.optim.Optimizer) -> None:
        side, room = self.preprocess.shape[1:], self._room(phase)
        whole = (
            Pictures(self.images, self.chosen, replace(self.preprocess, resize=room, crop=room), self.workers)
            if room
            else Pictures(self.images, self.chosen, self.preprocess, self.workers)
        )
        per_epoch, total, begin = self._per_epoch(phase), self._total(phase), time.monotonic()
        bar = tqdm(total=total, initial=self.step, unit="step", desc=phase.name, leave=False, disable=not self.progress)
        with bar:
            for pictures, labels in self._batches(whole, phase, total, per_epoch):
                place = np.random.SeedSequence([self.seed, self.phase, self.step])
                rng = np.random.default_rng(place)
                if room:
                    pictures = crops(pictures, side[0], rng)
                rate = phase.lr * phase.decay ** min(self.step // (phase.every or per_epoch), phase.decays)
                self._step(phase, optimiser, rate, pictures, labels, rng)
                bar.set_postfix(loss=f"{self.sums['loss'] / self.sums['images']:.3f}")
                bar.update()
                if self.step % per_epoch == 0 or self.step == total:
                    self._record(phase, rate, -(-self.step // per_epoch), time.monotonic() - begin)
                    begin = time.monotonic()
                    self.commit(optimiser)
                elif self.step % self.commit_every == 0:
                    self.seconds, begin = self.seconds + time.monotonic() - begin, time.monotonic()
                    self.commit(optimiser)

    def _room(self, phase: Phase) -> int:
        """Side of the resized square that crops are cut out of; 0 where there are none."""
        _, height, width = self.preprocess.shape
        room = self.preprocess.resize
        return max(room, height) if phase.augment and height == width and room else 0

    def _batches(
        self, pictures: Pictures, phase: Phase, total: int, per_epoch: int
    ) -> Iterator[tuple[Pixels, NDArray[np.int64]]]:
        """Yield what is left of the phase, batch by batch."""
        while self.step < total:
            epoch, done = divmod(self.step, per_epoch)
            order = np.random.default_rng([self.seed, self.phase, epoch]).permutation(len(pictures))
            for batch in pictures.batches(order[done * phase.batch_size :], phase.batch_size):
                yield batch
                if self.step >= total:
                    return

    def _step(
        self,
        phase: Phase,
        optimiser: torch.optim.Optimizer,
        rate: float,
        pictures: Pixels,
        labels: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        classes = None if self.outputs is None else torch.from_numpy(self.outputs[labels])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch = self.frozen.batch(self.frozen.inputs(self.preprocess, pictures), classes, noise)
        if phase.fakes:
            fake = torch.from_numpy(rng.random(len(pictures)) < phase.fakes).to(batch.classes.device)
            away = torch.from_numpy(rng.integers(1, self.frozen.outputs, len(pictures))).to(batch.classes.device)
            other = (batch.classes + away) % self.frozen.outputs
            batch = replace(batch, classes=torch.where(fake, other, batch.classes), real=~fake)
        terms, right = self.explainer.terms(batch, phase.name)
        loss = torch.stack(list(terms.values())).sum()
        self._finite([loss], "loss", phase, rate)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        self._finite(list(self.explainer.parameters()), "weights", phase, rate)
        self._add({**terms, "loss": loss, "right": right.double().mean()}, len(pictures))
        self.step += 1

    def _finite(self, values: Sequence[Tensor], what: str, phase: Phase, rate: float) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise TrainingError(
                f"the training diverged: {what} not finite in phase {phase.name}, step {self.step}; {self.checkpoint} "
                f"keeps the last good state: try a lower learning rate than {rate:g}"
            )

    def _add(self, measured: Mapping[str, Tensor], count: int) -> None:
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) * count
        self.sums["images"] = self.sums.get("images", 0.0) + count

    def _record(self, phase: Phase, rate: float, epoch: int, seconds: float) -> None:
        """Add the epoch to the history."""
        count = self.sums.pop("images")
        means = {name: value / count for name, value in self.sums.items()}
        took = round(self.seconds + seconds, 3)
        self.history.append({"phase": phase.name, "epoch": epoch, "lr": rate, **means, "seconds": took})
        self.sums, self.seconds = {}, 0.0
        if self.progress:
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in means.items())
            tqdm.write(f"{phase.name}, epoch {epoch}: {shown}, {took} s", file=sys.stderr)

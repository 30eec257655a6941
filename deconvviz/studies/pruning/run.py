"""One run of a pruning: scores, accuracy before and after, sensitivity, fine-tuning, costs, time and pictures."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deconvviz.errors import DataError
from deconvviz.graph.capture import capture
from deconvviz.graph.channels import masked
from deconvviz.graph.costs import multiply_adds
from deconvviz.graph.network import Network
from deconvviz.results.files import require_place
from deconvviz.results.results import require_same
from deconvviz.studies.mining.result import Mined
from deconvviz.studies.pruning.options import PruningOptions
from deconvviz.studies.pruning.pictures import filter_pictures
from deconvviz.studies.pruning.possible import NOT_TUNABLE, OTHER_MINED
from deconvviz.studies.pruning.registry import Criterion
from deconvviz.studies.pruning.result import PrunedGroup, PruningStudy
from deconvviz.studies.pruning.slim import Origin, masked_module, slim_module, timed, write_program, write_weights
from deconvviz.studies.pruning.subject import Feeds, PruningSubject, best, count_that_stays
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train
from deconvviz.types import Ints, Mask

if TYPE_CHECKING:
    from tqdm import tqdm

BATCH, DECAY = 64, 1e-4  # of fine-tuning: Li et al. 2017


@dataclass(frozen=True, kw_only=True)
class PruningRun:
    """What a pruning works with. The file is written after each step; what it has already is not computed again.

    Attributes:
        model: the whole network, in eval mode.
        subject: the same, captured, with the groups of its channels.
        entry: the criterion.
        how: what is pruned and measured.
        feeds: the images.
        origin: what the file of weights says of the network.
        out: path of the weights; None writes nothing.
        mined: a mined file of the whole network; None mines what the figure needs.
    """

    model: nn.Module
    subject: PruningSubject
    entry: Criterion
    how: PruningOptions
    feeds: Feeds
    origin: Origin
    out: pathlib.Path | None
    mined: Mined | None

    @property
    def network(self) -> Network:
        """The whole network, captured."""
        return self.subject.network

    def resume(self, config: dict[str, Any], sources: dict[str, Any]) -> tuple[PruningStudy, nn.Module]:
        """Do what is not done yet; return the study and the pruned network."""
        self._require_possible()
        study = self._begun(config, sources)
        if not study.groups:
            study = self._saved(replace(study, groups=self._scored()))
        if not len(study.correct):
            study = self._with_right(study, self.network, "whole")
        study = self._sensitivity(study)
        removed = {name: ~group.kept for name, group in study.groups.items()}
        silenced = masked(self.network, self.subject.groups, removed)
        if len(study.correct) < 2:
            study = self._with_right(study, silenced, "pruned")
        pruned = self._module(removed, silenced)
        if not study.totals:
            study = self._with_costs(study, pruned)
        if self.how.finetune:
            pruned = self._tuned(pruned)
            if len(study.correct) < 3:
                study = self._with_right(study, self._captured(pruned), "fine-tuned")
        if self.how.repeats and not study.seconds.size:
            x = torch.rand(config["timed_batch"], *self.network.input_shape).to(self.network.device, self.network.dtype)
            study = self._saved(replace(study, seconds=timed((self.model, pruned), x, self.how.repeats)))
        if self.how.shown and not study.pictures:
            study = self._saved(replace(study, pictures=filter_pictures(self, study)))
        self._write(pruned, sources)
        return study, pruned

    # --- steps ---

    def _require_possible(self) -> None:
        """Refuse what would fail only after minutes of work: images without a class, a mined file of something else."""
        labels, outputs = self.feeds.measured.labels, self.subject.outputs
        if outputs is not None and len(labels) and (labels.min() < 0 or labels.max() >= len(outputs)):
            raise DataError("images without a class are measured on; give labelled images only, or no outputs")
        if self.how.finetune:
            self._require_tunable()
        if self.mined is not None and self.how.shown:
            names = ("model_fingerprint", "store_fingerprint")
            present = self.network.fingerprint, self.feeds.measured.images.fingerprint
            before = {name: self.mined.config[name] for name in names}
            require_same("the mined file", before, dict(zip(names, present, strict=True)), OTHER_MINED)

    def _require_tunable(self) -> None:
        """Raise DataError where the network cannot be trained on with these images."""
        outputs, classes = self.subject.outputs, len(getattr(self.feeds.learned.images, "classes", ()))
        if outputs is None or list(outputs) != list(range(classes)) or classes != self.network.outputs:
            raise DataError(
                f"fine-tuning needs images with a class for each of the network's {self.network.outputs} outputs, "
                f"{NOT_TUNABLE}"
            )

    def _begun(self, config: dict[str, Any], sources: dict[str, Any]) -> PruningStudy:
        """Return what the file holds, or a study of which nothing is done yet; a place without a folder is refused."""
        path = None if self.out is None else self.out.with_suffix(".h5")
        if path is not None and path.exists():
            study = PruningStudy.load(path)
            advice = "remove it or choose another output"
            require_same(path, study.config, config, advice, (study.sources, sources))
            return study
        if path is not None:
            require_place(path)
        layers = [name for name in multiply_adds(self.network) if name in self.network.parameters]
        return PruningStudy(
            config=config,
            sources=sources,
            groups={},
            indices=self.feeds.measured.indices,
            correct=np.zeros((0, len(self.feeds.measured)), bool),
            layers=tuple(layers),
            multiply_adds=np.zeros((2, len(layers)), np.int64),
            parameters=np.zeros((2, len(layers)), np.int64),
            totals={},
            seconds=np.zeros((2, 0)),
            path=path,
        )

    def _saved(self, study: PruningStudy) -> PruningStudy:
        if study.path is not None:
            study.save(study.path)
        return study

    def _scored(self) -> dict[str, PrunedGroup]:
        """Score the units of every group, and say which stay."""
        scores = self.entry(self.subject, **self.how.criterion_options)
        decides = self.entry.decides and self.how.keep is None and not self.how.layers
        found = {}
        for name, count in self.subject.chosen.items():
            each = np.asarray(scores[name], np.float64)
            layers = self.subject.groups.groups[name].layers
            stays = int((each > 0).sum()) if decides else count
            found[name] = PrunedGroup(layers=layers, scores=each, kept=best(each, max(stays, 1), layers))
        return found

    @cached_property
    def targets(self) -> Ints:
        """int64 [N], the right output for each measured image: that of its label, or what the network decides."""
        if self.subject.outputs is None:
            with self._bar("decisions") as bar:
                return self.decisions(self.network, bar)
        return np.asarray(self.subject.outputs[self.feeds.measured.labels])

    def decisions(self, network: Network, bar: tqdm[Any]) -> Ints:
        """Return the class that a network finds in each measured image, int64 [N]; the bar counts images."""
        forward, feed = network.forward_only(self.how.precision), self.feeds.measured
        found = np.zeros(len(feed), np.int64)
        size = self.how.images_at_once(network.device)
        with torch.inference_mode():
            for places, x in feed.tensors(size, network.device, network.dtype):
                found[places] = forward.readout.scores(forward(x)).argmax(1).cpu().numpy()
                bar.update(len(places))
        return found

    def _bar(self, what: str, passes: int = 1, done: int = 0) -> tqdm[Any]:
        """Return a bar that counts the images of so many passes over those that are measured on."""
        count = len(self.feeds.measured)
        return self.how.bar("image", passes * count, what, done * count)

    def _with_right(self, study: PruningStudy, network: Network, form: str) -> PruningStudy:
        """Return the study with one more form of the network measured; the bar names it."""
        targets = self.targets
        with self._bar(f"accuracy, {form}") as bar:
            right: Mask = self.decisions(network, bar) == targets
        return self._saved(replace(study, correct=np.concatenate([study.correct, right[None]])))

    def _sensitivity(self, study: PruningStudy) -> PruningStudy:
        """Prune each group alone by each share, without fine-tuning; each group is committed when it is measured."""
        names = tuple(self.subject.chosen) if self.how.sensitivity else ()
        left = [name for name in names if study.groups[name].sensitivity is None]
        if not left:
            return study
        shares, targets = len(study.shares), self.targets
        with self._bar("sensitivity", shares * len(names), shares * (len(names) - len(left))) as bar:
            for name in left:
                group = study.groups[name]
                right = np.zeros((shares, len(study.indices)), bool)
                for row, share in enumerate(study.shares):
                    stays = best(group.scores, count_that_stays(1 - share, len(group.scores)), group.layers)
                    silenced = masked(self.network, self.subject.groups, {name: ~stays})
                    right[row] = self.decisions(silenced, bar) == targets
                groups = {**study.groups, name: replace(group, sensitivity=right)}
                study = self._saved(replace(study, groups=groups))
        return study

    def _module(self, removed: Mapping[str, Mask], silenced: Network) -> nn.Module:
        """Return the pruned network as a module, on the device."""
        if self.how.result == "masked":
            return masked_module(self.model, silenced)
        return slim_module(self.model, self.network, self.subject.groups, removed)

    def _captured(self, model: nn.Module) -> Network:
        return capture(model, self.network.input_shape).to(self.network.device).with_outputs(self.network.outputs_are)

    def _with_costs(self, study: PruningStudy, pruned: nn.Module) -> PruningStudy:
        """Count multiplications and parameters of the whole and of the pruned network."""
        both = (self.network, self._captured(pruned))
        counted = [multiply_adds(network) for network in both]
        products = np.array([[counts[name] for name in study.layers] for counts in counted], np.int64)
        numbers = np.array([[network.parameters[name] for name in study.layers] for network in both], np.int64)
        totals = {f"parameters_{when}": n.parameters[""] for when, n in zip(("before", "after"), both, strict=True)}
        counted_now: dict[str, Any] = {"multiply_adds": products.reshape(2, -1), "parameters": numbers.reshape(2, -1)}
        return self._saved(replace(study, totals=totals, **counted_now))

    def _tuned(self, pruned: nn.Module) -> nn.Module:
        """Train the pruned network on the images that are not measured on; a training that was killed is resumed."""
        assert self.out is not None
        how, held = self.how, self.feeds.validation
        recipe = Recipe(
            epochs=how.finetune,
            batch_size=BATCH,
            lr=how.lr,
            weight_decay=DECAY,
            radius=0.0,
            validation=0.0 if held is not None else how.held_out,
            seed=how.seed,
            precision="bf16" if how.precision == "bf16" else "fp32",
        )
        trained = train(
            copy.deepcopy(pruned),
            self.feeds.learned.images,
            self.out.with_suffix(".training.pth"),
            recipe,
            preprocess=self.feeds.learned.preprocess,
            validation=held,
            name=self.origin.model,
            arguments=self.origin.arguments,
            device=self.network.device,
            workers=how.workers,
            progress=how.progress,
        )
        tuned: nn.Module = trained.model
        return tuned

    def _write(self, pruned: nn.Module, sources: Mapping[str, Any]) -> None:
        if self.out is not None:
            write_weights(pruned, self.out, self.origin, self.feeds.measured.preprocess, sources)
            write_program(pruned, self.out.with_suffix(".pt2"), self.network.input_shape)

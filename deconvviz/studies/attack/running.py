"""AttackRun: an attack, batch after batch, and what is measured of the attacked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.feed import Feed
from deconvviz.data.transfer import Transfer
from deconvviz.graph.memory import fitting
from deconvviz.halving import AtOnce
from deconvviz.studies.attack.countermeasures import Jury, squeezed
from deconvviz.studies.attack.edges import edge_weights
from deconvviz.studies.attack.explaining import Aims, Explaining, flat_energy, with_maps
from deconvviz.studies.attack.fooled import Countered
from deconvviz.studies.attack.options import AttackOptions
from deconvviz.studies.attack.pixels import PixelNetwork, with_noise
from deconvviz.studies.attack.registry import Attack
from deconvviz.studies.attack.result import OF_BOTH, OF_IMAGES, AttackStudy
from deconvviz.studies.attack.victims import Victims
from deconvviz.types import Floats, Ints, Pathlike, Pixels


class Attacked(NamedTuple):
    """What was found of some images, on the device; the arrays of `AttackStudy` of the same names.

    Attributes:
        own: int64 [n].
        before: int64 [n].
        probability_before: [n].
        after: int64 [E, n].
        probability_after: [E, n].
        target_probability: [E, n].
        pixels: int64 [E, n].
        length: [E, n].
        largest: [E, n].
        noise: float16 [E, n, C, h, w].
        beside: what is measured of maps and behind countermeasures: by image, [n, ...], where the name ends in
            "before", else [E, n, ...].
    """

    own: Tensor
    before: Tensor
    probability_before: Tensor
    after: Tensor
    probability_after: Tensor
    target_probability: Tensor
    pixels: Tensor
    length: Tensor
    largest: Tensor
    noise: Tensor
    beside: dict[str, Tensor]


class AttackRun:
    """One run of an attack: batch after batch, each epsilon. Nothing waits for the device between two commits.

    Attributes:
        network: takes pixels in 0..1.
        feed: the images.
        entry: the attack.
        options: what is attacked, and how the job runs.
        own: int64 [N] on the device, the class of each image; None takes the one that the network finds.
        at_once: images in one pass; halved where they do not fit in memory.
        explaining: the interpreters; None where no map is asked for.
        jury: the methods whose agreement is measured; None where none is asked for.
    """

    def __init__(
        self,
        network: PixelNetwork,
        feed: Feed,
        entry: Attack,
        options: AttackOptions,
        own: Tensor | None,
        explaining: Explaining | None,
        jury: Jury | None,
    ) -> None:
        self.network, self.feed, self.entry, self.options, self.own = network, feed, entry, options, own
        self.explaining, self.jury = explaining, jury
        device = network.network.device
        self.at_once = AtOnce(fitting(network.network, options.images_at_once(device)), "images")
        self.transfer = Transfer(device)

    def resume(self, study: AttackStudy, out: Pathlike | None) -> AttackStudy:
        """Attack the images that are not done yet, and write the study every few batches; return it whole."""
        done, pending, size, device = study.done, list[Attacked](), self.at_once.size, self.network.network.device
        with self.options.bar("image", study.total, self.entry.name, done) as bar:
            for number, batch in enumerate(self.feed.on_device(size, device, start=done), 1):
                x = self.network.shares(batch.pictures)
                kept_rows = np.flatnonzero(np.isin(batch.places, study.places))
                pending.append(self._without_others(self._attacked_in_parts(x, done, study), kept_rows))
                done += len(x)
                if number % self.options.commit_every == 0 or done == study.total:
                    study = self._with_images(study, pending, done)
                    pending = []
                    if out is not None:
                        study.save(out)
                bar.update(len(x))
        return study

    def _attacked_in_parts(self, x: Tensor, first: int, study: AttackStudy) -> Attacked:
        """Attack the images of a batch, the places from `first` on; a batch that does not fit goes in halves."""

        def part(start: int, stop: int) -> Attacked:
            return self.attacked(x[start:stop], first + start, study)

        return _joined([*self.at_once.parts(len(x), part)])

    def attacked(self, x: Tensor, first: int, study: AttackStudy) -> Attacked:
        """Attack images [n, C, H, W] in 0..1, the places from `first` on, with each epsilon."""
        with torch.no_grad():
            scores = self.network.scores(x)
        before = scores.argmax(1)
        own_classes = before if self.own is None else self.own[first : first + len(x)]
        targets = None if study.target is None else torch.full_like(own_classes, study.target)
        aims = None if self.explaining is None else self.explaining.aims(x, scores, own_classes)
        changes, beside = [], []
        for epsilon in study.epsilons:
            victims = Victims(
                network=self.network,
                x=x,
                own=own_classes,
                targets=targets,
                already=before != own_classes if targets is None else before == targets,
                epsilon=epsilon,
                loss=self.options.loss,
                draw=lambda places, shape, stream: self.noise(
                    study.indices[first : first + len(x)][list(places)], shape, stream
                ),
            )
            with torch.no_grad():
                noise = (self._changed(victims, aims, study.config["method_options"]) - x).half()
                changed = with_noise(x, noise, epsilon)
                after, *measured = self._measured(changed, noise, victims)
                changes.append((after, *measured, noise))
                beside.append(self._beside(victims, aims, changed, after))
        probability = self.network.probabilities(scores).gather(1, own_classes[:, None])[:, 0]
        of_epsilons = {name: torch.stack([each[name] for each in beside]) for name in beside[0]}
        names = Attacked._fields[3:-1]
        columns: dict[str, Any] = {
            name: torch.stack(values) for name, values in zip(names, zip(*changes, strict=True), strict=True)
        }
        of_epsilons |= self._beside_before(x, before, aims)
        return Attacked(own_classes, before, probability, **columns, beside=of_epsilons)

    def _changed(self, victims: Victims, aims: Aims | None, options: Mapping[str, Any]) -> Tensor:
        """Return the attacked images."""
        if self.explaining is None or aims is None or not self.options.fooling:
            return self.entry(victims, **options)
        return self.explaining.changed(victims, aims, options, self.entry.name)

    def _beside_before(self, x: Tensor, before: Tensor, aims: Aims | None) -> dict[str, Tensor]:
        """Return what is measured of the unchanged images, of which the network finds these classes."""
        out = {}
        if self.explaining is not None and aims is not None:
            out["maps_before"] = self.explaining.sized(aims.maps, x)
        if self.options.countermeasures:
            out["squeezed_before"] = self._squeezed(x)
        if self.jury is not None:
            out["agreement_before"] = self.jury.agreement(x, before)
        return out

    def _beside(self, victims: Victims, aims: Aims | None, changed: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Return what is measured of images attacked with one epsilon, in which the network finds classes `after`."""
        out = {}
        if self.explaining is not None and aims is not None:
            plain = self.explaining.plain(victims, aims)
            out["plain_after"] = self.network.scores(plain).argmax(1)
            out["maps_after"] = self.explaining.maps(changed, after)
            out["maps_plain"] = self.explaining.maps(plain, out["plain_after"])
            out["flat_energy"], out["plain_flat_energy"] = (flat_energy(victims.x, each) for each in (changed, plain))
        if self.options.countermeasures:
            out["squeezed_after"] = self._squeezed(changed)
        if self.jury is not None:
            out["agreement_after"] = self.jury.agreement(changed, after)
        return out

    def _squeezed(self, x: Tensor) -> Tensor:
        """Return the classes that the network finds behind each countermeasure, int64 [n, D]."""
        with torch.no_grad():
            decisions = [self.network.scores(squeezed(x, text)).argmax(1) for text in self.options.countermeasures]
        return torch.stack(decisions, 1)

    def _measured(self, changed: Tensor, noise: Tensor, victims: Victims) -> tuple[Tensor, ...]:
        """Return what `Attacked` holds of each epsilon, but for the noise."""
        probabilities = self.network.probabilities(scores := self.network.scores(changed))
        after, change = scores.argmax(1), (changed - victims.x).flatten(2)
        wanted_classes = after if victims.targets is None else victims.targets
        of_own, of_wanted = (probabilities.gather(1, each[:, None])[:, 0] for each in (victims.own, wanted_classes))
        pixels = (noise != 0).flatten(2).any(1).sum(1)
        return after, of_own, of_wanted, pixels, change.flatten(1).norm(dim=1), change.abs().amax((1, 2))

    def noise(self, indices: Ints, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Return numbers uniform in -1..1, [n, *shape]: those of (seed, image, stream), in whatever batch it comes."""
        drawn = np.empty((len(indices), *shape), np.float32)
        for row, index in zip(drawn, indices, strict=True):
            address = [self.options.seed, 3, int(index), *([stream] if stream else [])]
            np.random.default_rng(address).random(out=row, dtype=np.float32)
        drawn *= 2
        drawn -= 1
        (sent,) = self.transfer.send(torch.from_numpy(drawn))()
        return sent.to(self.network.network.dtype)

    def _without_others(self, attacked: Attacked, kept: Ints) -> Attacked:
        """Return what was found, with the changes of the kept images alone."""
        if len(kept) == len(attacked.own):
            return attacked
        (rows,) = self.transfer.send(torch.from_numpy(kept))()
        return attacked._replace(noise=attacked.noise[:, rows])

    def _with_images(self, study: AttackStudy, pending: Sequence[Attacked], done: int) -> AttackStudy:
        """Return the study with the images up to `done`, and those of the figure as pictures."""
        measured, arrays = _joined(pending), {name: getattr(study, name).copy() for name in (*OF_IMAGES, *OF_BOTH)}
        for name, array in arrays.items():
            array[..., study.done : done] = getattr(measured, name).cpu().numpy()
        noise, pictures, attacked = study.noise, study.pictures.copy(), study.attacked.copy()
        new = np.flatnonzero((study.places >= study.done) & (study.places < done))
        if len(new):
            noise[:, new] = measured.noise.cpu().numpy()  # in place: it may be large, and nobody else has it
        images, rows = slice(study.done, done), study.places[new] - study.done
        maps = None if study.maps is None else with_maps(study.maps, measured.beside, images, new, rows)
        for row, place in enumerate(study.shown.tolist()):
            if place in new:
                pictures[row], attacked[:, row], edges = self._pictures(study, place)
                if maps is not None:
                    maps.edges[row] = edges
        countered = None if study.countered is None else with_countered(study.countered, measured.beside, images)
        beside: dict[str, Any] = {"maps": maps, "countered": countered, **arrays}
        return replace(study, done=done, noise=noise, pictures=pictures, attacked=attacked, **beside)

    def _pictures(self, study: AttackStudy, kept: int) -> tuple[Pixels, Pixels, Floats]:
        """Return an image as figures show it, with the change of each epsilon, and the weights of its edges."""
        picture, preprocess = self.feed.picture(int(study.places[kept])), self.feed.preprocess
        x = self.network.scale.shares(picture[None])
        changed = [
            with_noise(x, torch.from_numpy(noise[None]), epsilon)
            for noise, epsilon in zip(study.noise[:, kept], study.epsilons, strict=True)
        ]
        values = self.network.scale.values(torch.cat(changed)).permute(0, 2, 3, 1)
        edges = edge_weights(x)[0, 0].double().numpy()
        return preprocess.display(picture), preprocess.display(values.numpy()), edges


def _joined(parts: Sequence[Attacked]) -> Attacked:
    """Return what was found of several parts, one after the other."""
    names = Attacked._fields[:-1]
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    beside = {name: [part.beside[name] for part in parts] for name in parts[0].beside}
    joined: dict[str, Any] = {
        name: torch.cat(values, 1 if name in (*OF_BOTH, "noise") else 0) for name, values in columns.items()
    }
    return Attacked(
        **joined,
        beside={name: torch.cat(values, 0 if name.endswith("before") else 1) for name, values in beside.items()},
    )


def with_countered(part: Countered, found: Mapping[str, Tensor], images: slice) -> Countered:
    """Return what is found behind countermeasures, and the agreement, with those of further images."""
    names = {"before": "squeezed_before", "after": "squeezed_after"}
    arrays = {}
    for name in ("before", "after", "agreement_before", "agreement_after"):
        arrays[name] = getattr(part, name).copy()
        values = found.get(names.get(name, name))
        if values is not None:
            arrays[name][..., images] = values.transpose(-1, -2).cpu().numpy()
    return replace(part, **arrays)

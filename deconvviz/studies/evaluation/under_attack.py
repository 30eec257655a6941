"""Measure how far the maps of methods move on attacked images, and under random noise of the same size."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.cam.explain import Explainer, constant_maps_allowed
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed, PictureBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.metrics.movement import MOVES, moves
from deconvviz.results.results import require_same, stamped
from deconvviz.run.options import RunOptions
from deconvviz.studies.attack.pixels import PixelScale, with_noise
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.evaluation.explaining import by_method, described, explainers_by_method
from deconvviz.studies.evaluation.pace import Pace
from deconvviz.studies.evaluation.under_attack_result import CASES, MapsUnderAttack
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

ILLUSTRATED = 2  # images of each attack whose maps are kept for the figure
TOGETHER = 8  # images that are explained together

Attacks = Mapping[str, AttackStudy | Pathlike] | Sequence[Pathlike]


def maps_under_attack(
    network: Network,
    images: Images,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str],
    attacks: Attacks,
    layers: Sequence[str] = (),
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    limit: int | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[RunKeywords],
) -> MapsUnderAttack:
    """Explain images before and after attacks, and measure how far each method's map moves.

    The map of the class that the network finds in the unchanged image is compared with three others: with that of the
    same class in the attacked image; with that of the same class under random noise of the same size, which tells how
    far the map moves without any intent; and with that of the class that is found in the attacked image, where it is
    another. The noise has the attack's own changes, each put at a pixel drawn at random and with signs drawn at random:
    as many pixels are changed, by as much. Of an attack with several epsilons the largest counts. Images count whose
    own class the network found before the attack.

    With `out`, what is measured is committed there every few seconds. Calling again with the same arguments resumes.

    Args:
        network: a captured network, the one that was attacked.
        images: those that were attacked.
        methods: names of methods, or a name -> its options, as for `evaluate`.
        attacks: paths of what `attack` wrote, which are called by the names of the files; or names -> paths or studies.
        layers: names of the layers that the methods explain; a trained method has its own.
        out: path of the file, .h5; None writes nothing.
        preprocess: how an image becomes the network's input.
        limit: of each attack take only so many images, evenly spread; None takes all.
        sources: where model and images came from, for the file.
        options: `batch_size`, `precision`, `workers`, `seed` and `progress` of `RunOptions`; the seed is that of
            methods which draw, and of the noise.

    Returns:
        How far every method's map of every image moved.

    Raises:
        DataError: no attack, two of one name, one that is unfinished or keeps no image that counts, or no method.
        MismatchError: an attack on another network, on other images or with another preprocessing; or `out` was
            written with other settings.
        DeconvvizError: a method, a method's option or a layer does not exist.

    Source: ours. That explanations are compared before and after a change that keeps the decision, or only changes it,
    is of Ghorbani et al. 2019, arXiv 1710.10547, and Zhang et al. 2020, arXiv 1812.00891; the noise is our control.

    >>> import deconvviz as dv
    >>> torch.manual_seed(0) and None
    >>> maps = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> network = dv.capture(torch.nn.Sequential(maps, head).eval(), (3, 32, 32))
    >>> about = {"preprocess": dv.Preprocess(resize=32, crop=32), "progress": False}
    >>> study = dv.attack(network, dv.Scenes(3), "fgsm", away_from="top", **about)
    >>> found = maps_under_attack(network, dv.Scenes(3), ["grad-cam"], {"fgsm": study}, ["0"], **about)
    >>> found.values["fgsm/grad-cam"].shape, found.attack_words("fgsm")
    ((3, 3, 5), 'fgsm at 8/255, on the decision')
    """
    run, options_by_method = RunOptions(**options), by_method(methods)
    network.check_input(preprocess.shape)
    opened = opened_attacks(attacks, network, images, preprocess)
    explainers = explainers_by_method(network, options_by_method, layers, preprocess, run)
    size = preprocess.shape[1:]
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "preprocess": preprocess.as_dict(),
        "layers": list(layers),
        "limit": limit,
        "precision": run.precision,
        "seed": run.seed,
        "methods": {name: described(explainers[name], options_by_method[name], size) for name in explainers},
        "attacks": {name: _attack_config(study) for name, study in opened.items()},
    }
    attacked = {name: AttackedImages(study, images, limit, run.workers) for name, study in opened.items()}
    begun = _begun(attacked, config, stamped({"architecture": architecture(network), **(sources or {})}), out)
    return UnderAttackRun(network, attacked, begun, run, out).run(explainers)


def opened_attacks(
    attacks: Attacks, network: Network, images: Images, preprocess: Preprocess
) -> dict[str, AttackStudy]:
    """Return the studies by their names; raises DataError or MismatchError where one of them does not fit."""
    named = attacks if isinstance(attacks, Mapping) else _by_stem(attacks)
    if not named:
        raise DataError("no attack given; expected one or more files that `deconvviz attack` wrote")
    now = {
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "preprocess": preprocess.as_dict(),
    }
    opened = {}
    for name, given in named.items():
        study = given if isinstance(given, AttackStudy) else AttackStudy.load(given)
        path = study.path or f"the attack {name}"
        in_file = {setting: study.config.get(setting) for setting in now}
        advice = "give the network, images and preprocessing that were attacked, or attack these"
        require_same(path, in_file, now, advice, (study.sources, {"architecture": architecture(network)}))
        if not study.complete:
            raise DataError(
                f"{path}: {study.done} of {counted(study.total, 'image')} attacked; finish it by the same command first"
            )
        if not study.attackable[study.places].any():
            raise DataError(
                f"{path} keeps the changes of {counted(len(study.places), 'image')}, and in none of them the network "
                "found the own class before; attack with another --keep, or other images"
            )
        opened[name] = study
    return opened


def _by_stem(paths: Sequence[Pathlike]) -> dict[str, Pathlike]:
    """Return files by their names without ending."""
    named = {pathlib.Path(path).stem: path for path in paths}
    if len(named) < len(paths):
        listed = ", ".join(map(str, paths))
        raise DataError(f"{listed} given; expected files of different names, by which the tables tell them apart")
    return named


def _attack_config(study: AttackStudy) -> dict[str, Any]:
    """Return what an attack is known by: its settings, and a digest of what its file holds of the last epsilon."""
    noise = np.ascontiguousarray(study.noise[-1])
    return {"config": study.config, "digest": sha256(noise.tobytes() + study.after[-1].tobytes()).hexdigest()[:16]}


class AttackedImages:
    """The images of an attack that count: their pixels as they are, attacked, and under noise of the same size.

    Attributes:
        study: the attack.
        kept: int64 [N], which of its images with changes, from 0 to K - 1.
        feed: these images.
        scale: from pictures to shares of the way from black to white, and to the network's input.
    """

    def __init__(self, study: AttackStudy, images: Images, limit: int | None, workers: int) -> None:
        """Choose the images.

        Args:
            study: the attack.
            images: those that were attacked.
            limit: take only so many, evenly spread; None takes all.
            workers: threads that decode.
        """
        counting = np.flatnonzero(study.attackable[study.places])
        self.study = study
        self.kept: Ints = counting[evenly(len(counting), len(counting) if limit is None else limit)]
        preprocess = Preprocess.from_dict(study.config["preprocess"])
        self.feed = Feed(images, preprocess, study.indices[self.places], workers=workers)
        self.scale = PixelScale(preprocess)

    @property
    def places(self) -> Ints:
        """int64 [N], the images as places in the study."""
        return np.asarray(self.study.places[self.kept])

    def pixels(self, batch: PictureBatch, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures as they are, attacked, and with noise, [n, C, H, W] in 0..1 each."""
        x, changes = self.scale.shares(batch.pictures), self.study.noise[-1][self.kept[batch.places]]
        drawn = [
            scattered(change, np.random.default_rng([seed, 5, int(index)]))
            for change, index in zip(changes, self.feed.indices[batch.places], strict=True)
        ]
        attacked, noisy = (
            with_noise(x, torch.from_numpy(noise), self.study.epsilons[-1]) for noise in (changes, np.stack(drawn))
        )
        return x, attacked, noisy


def scattered(change: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return a change of the same size without its structure: each pixel's is put elsewhere, and each sign is drawn.

    Args:
        change: [C, h, w].
        rng: draws a permutation of the pixels, and a sign for each value.

    >>> scattered(np.array([[[0, 2], [0, 1]]]), np.random.default_rng(0)).tolist()
    [[[0, 0], [-2, 1]]]
    """
    flat = change.reshape(len(change), -1)[:, rng.permutation(change[0].size)]
    signs = 1 - 2 * rng.integers(0, 2, flat.shape, np.int8)
    return np.asarray((flat * signs.astype(change.dtype)).reshape(change.shape))


def _begun(
    attacked: Mapping[str, AttackedImages], config: dict[str, Any], sources: dict[str, Any], out: Pathlike | None
) -> MapsUnderAttack:
    """Return what the file holds already, or a result without values, written before the work."""
    if out is not None and pathlib.Path(out).exists():
        begun_file = MapsUnderAttack.load(out)
        require_same(
            out, begun_file.config, config, "remove it or choose another output", (begun_file.sources, sources)
        )
        return begun_file
    values, pictures, maps = {}, {}, {}
    for name, each in attacked.items():
        size, illustrated = each.feed.preprocess.shape[1:], min(len(each.feed), ILLUSTRATED)
        pictures[name] = np.zeros((illustrated, 2, *size, 3), np.uint8)
        for method in config["methods"]:
            values[f"{name}/{method}"] = np.full((len(each.feed), len(CASES), len(MOVES)), np.nan)
            maps[f"{name}/{method}"] = np.zeros((illustrated, 2, *size), np.float32)
    begun = MapsUnderAttack(
        config=config,
        sources=sources,
        methods=tuple(config["methods"]),
        names={name: tuple(map(each.feed.name, range(len(each.feed)))) for name, each in attacked.items()},
        outputs=next(iter(attacked.values())).study.outputs,
        values=values,
        indices={name: each.feed.indices for name, each in attacked.items()},
        own={name: each.study.own[each.places] for name, each in attacked.items()},
        after={name: each.study.after[-1][each.places] for name, each in attacked.items()},
        fooled={name: each.study.fooled[-1][each.places] for name, each in attacked.items()},
        pictures=pictures,
        maps=maps,
    )
    if out is not None:
        begun.save(out)  # a place that cannot be written to is found before the work
    return begun


@dataclass
class UnderAttackRun:
    """A measurement under way: it measures what is missing, and commits it every few seconds.

    Attributes:
        network: whose decisions are explained.
        attacked: attack -> its images.
        found: what was measured before; its arrays are filled.
        settings: how it runs.
        out: path of the file; None writes nothing.
    """

    network: Network
    attacked: Mapping[str, AttackedImages]
    found: MapsUnderAttack
    settings: RunOptions
    out: Pathlike | None

    def run(self, explainers: Mapping[str, Explainer]) -> MapsUnderAttack:
        """Measure what is missing, a few images at a time; an interruption keeps what is measured."""
        missing = [
            (name, method, np.flatnonzero(~self.found.measured(name, method)))
            for name in self.attacked
            for method in explainers
        ]
        pace = Pace()
        try:
            with self.settings.bar("image", sum(len(places) for *_, places in missing), "under attack") as bar:
                for name, method, places in missing:
                    for batch in self.attacked[name].feed.batches(TOGETHER, places):
                        self._measure(name, method, explainers[method], batch)
                        bar.update(len(batch.places))
                        if pace.due:
                            pace.commit(self._commit)
        finally:
            self._commit()
        return self.found

    def _commit(self) -> None:
        if self.out is not None:
            self.found.save(self.out)

    def _measure(self, name: str, method: str, explainer: Explainer, batch: PictureBatch) -> None:
        """Explain some images as they are, attacked and with noise, and note how far their maps moved."""
        attacked, rows, key = self.attacked[name], batch.places, f"{name}/{method}"
        map_before, after = self.found.own[name][rows], self.found.after[name][rows]
        pixels = attacked.pixels(batch, self.settings.seed)
        inputs = [attacked.scale.inputs(x).to(self.network.device, self.network.dtype) for x in pixels]
        before, *others = (self._maps(explainer, x, map_before) for x in inputs)
        values = np.full((len(rows), len(CASES), len(MOVES)), np.nan)
        for case, maps in enumerate(others):
            values[:, case] = _table(before, maps)
        other = np.flatnonzero(after != map_before)
        if len(other):
            of_new_class = self._maps(explainer, inputs[1][torch.from_numpy(other)], after[other])
            values[other, CASES.index("new_class")] = _table(before[torch.from_numpy(other)], of_new_class)
        for place, picture in self._shown(name, rows):
            self.found.pictures[name][picture] = self._pictures(attacked, [x[place] for x in pixels[:2]])
            self.found.maps[key][picture] = torch.stack([before[place], others[0][place]]).numpy()
        self.found.values[key][rows] = values  # the last, for it says that the image is measured

    def _shown(self, name: str, rows: Ints) -> Iterator[tuple[int, int]]:
        """Yield those of some images that the figure shows: (place in the batch, which picture)."""
        yield from ((place, int(row)) for place, row in enumerate(rows) if row < len(self.found.pictures[name]))

    def _maps(self, explainer: Explainer, x: Tensor, classes: Ints) -> Tensor:
        """Return maps [n, H, W] on the CPU, float32."""
        with constant_maps_allowed():  # a map that vanishes has moved
            return explainer(x, classes.tolist()).float().cpu()

    def _pictures(self, attacked: AttackedImages, shares: Sequence[Tensor]) -> np.ndarray[Any, Any]:
        """Return images in 0..1 as figures show them, uint8 [2, h, w, 3]."""
        values = attacked.scale.values(torch.stack([*shares])).permute(0, 2, 3, 1)
        return attacked.feed.preprocess.display(values.numpy())


def _table(before: Tensor, after: Tensor) -> np.ndarray[Any, Any]:
    """Return how far maps moved, float64 [n, 5], by MOVES."""
    return torch.stack([*moves(before, after).values()], 1).numpy()

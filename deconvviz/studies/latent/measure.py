"""Measure what codes, directions, axes and units of a generator change, from samples that were scored once."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.errors import DataError, ModelError
from deconvviz.graph.computing import computing
from deconvviz.models.labels import output_named
from deconvviz.results.folders import claim
from deconvviz.results.results import stamped
from deconvviz.run.opening import device_of
from deconvviz.studies.latent.directions import (
    conditional_direction,
    monotonicity,
    principal_axes,
    semantic_direction,
)
from deconvviz.studies.latent.model import Generator, LatentModel, Rows, batches, pictures
from deconvviz.studies.latent.options import LatentKeywords, LatentOptions
from deconvviz.studies.latent.result import Directions, LatentViews, LayerAxes, Sweeps
from deconvviz.studies.latent.scoring import Scorer, record
from deconvviz.studies.latent.sweeps import measured_sweeps
from deconvviz.studies.latent.units import Segmenter, UnitViews, checked_masks
from deconvviz.types import Floats, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.models.load import LoadedModel

VIEWS = "data/views.h5"
OF_AXES = 1000  # samples whose values are decomposed
MOST_SCORES, FIRST = 4, 24  # scores that have a direction by default; images of the page's first figure


def latent(
    model: LatentModel,
    *,
    scorer: LoadedModel | None = None,
    segment: Segmenter | None = None,
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    device: str = "cpu",
    **options: Unpack[LatentKeywords],
) -> LatentViews:
    """Look at the latent space of a generator, and at what its units draw.

    Args:
        model: from `dv.load_latent`, or a `dv.LatentModel`.
        scorer: a classifier, from `dv.load_model`, whose scores get directions.
        segment: from images, float32 [N, C, H, W] in 0..1, to name -> bool [N, H, W], where each part is.
        out: a folder, in which samples and scores are recorded (`data/samples.h5`) and the result is saved
            (`data/views.h5`). The same call resumes there. None records to a temporary folder.
        sources: where the models came from, for the files.
        device: where both networks run; "auto" is a GPU if there is one, else the CPU.
        options: the fields of `LatentOptions`; `batch_size` is images in one pass (64 by default).

    Returns:
        Sweeps of single codes; directions of scores, plain and free of each other, with images along them; principal
        axes of a layer; units of a layer with the parts that they draw.

    Raises:
        ModelError: the generator returns no image, or the scorer takes other images.
        DataError: values that are not finite, or an option out of its range.
        MismatchError: the folder holds samples of another generator or scorer.

    Source: each part names its own.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(4, 3 * 64), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    >>> few = {"samples": 30, "masked": 4, "units": 2, "rows": 1, "steps": 3}
    >>> views = dv.latent(dv.LatentModel(module=module, limits=(0, 1), name="tiny"), progress=False, **few)
    >>> views.axes.vectors.shape, views.sweeps.images.shape, views.skipped["directions"]
    ((4, 4), (4, 3, 8, 8, 3), 'no scorer was given')
    """
    how = LatentOptions(**options)
    if how.attributes and scorer is None:
        raise DataError(
            f"attributes {', '.join(how.attributes)} given without a scorer, whose outputs they are; give one, such as "
            "demo"
        )
    target = device_of(device)
    generator = Generator(model, target)
    judge = None if scorer is None else Scorer(scorer, generator.image_shape, str(target))
    layers = _layers(generator, how)
    _try_out(generator, judge, segment, how)
    with tempfile.TemporaryDirectory() as temporary, computing("fp32"):
        place = pathlib.Path(temporary if out is None else out)
        now = {"generator": generator.fingerprint, "scorer": judge and judge.network.fingerprint, **how.as_config()}
        claim(place, "latent-job", {name: now[name] for name in ("generator", "scorer", "samples", "seed")})
        kept = record(generator, judge, place / "data" / "samples.h5", how.samples, sources=sources, run=how)
        views = _Measuring(generator, judge, how, kept.rows("z", np.arange(how.samples))).views(
            kept.rows("scores", np.arange(how.samples)) if judge else None, segment, layers, now, stamped(sources)
        )
        if out is not None:
            views.save(place / VIEWS)
    return views


def _try_out(generator: Generator, scorer: Scorer | None, segment: Segmenter | None, how: LatentOptions) -> None:
    """Make, score and segment two images, so that what cannot be used is told before a file is written.

    Raises:
        DataError: what `latent` raises for images, scores, masks and names of scores.
    """
    images = generator.images(generator.model.sample(how.seed, np.arange(2)))
    if scorer is not None:
        scorer.scores(images)
        _numbers_of(how.attributes, scorer.names)
    if segment is not None:
        checked_masks(segment, images)


def _numbers_of(attributes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the numbers of scores that were given by name or number; raises DataError where there is no such one."""
    numbers = [int(each) if each.isdecimal() else output_named(each, names) for each in attributes]
    if not all(0 <= each < len(names) for each in numbers):
        raise DataError(f"attributes {', '.join(attributes)} given; expected 0 to {len(names) - 1}")
    return list(dict.fromkeys(numbers))


def _layers(generator: Generator, how: LatentOptions) -> tuple[str, str | None]:
    """Return the layer of the axes and that of the units; None where there is none with maps."""
    network = generator.network
    modules = [name for name, layer in network.layers.items() if not layer.functional]
    if not modules:
        raise ModelError(f"{generator.model.name} has no layer made by a module; return a network of torch.nn modules")
    for named_layer in (how.axes_layer, how.layer):
        if named_layer is not None:
            network.layer(named_layer)
    if how.layer is not None:
        network.layer(how.layer).require_channels()
    maps = [name for name in modules[:-1] if min(network.layer(name).units[1:]) > 1]
    rectified = [name for name in maps if "LU" in network.layer(name).kind] or maps
    middle = rectified[len(rectified) // 2] if rectified else None
    return how.axes_layer or modules[0], how.layer or middle


class _Measuring:
    """Looks at a generator in several ways.

    Attributes:
        z: float32 [samples, d].
    """

    def __init__(self, generator: Generator, scorer: Scorer | None, how: LatentOptions, z: Rows) -> None:
        self.generator, self.scorer, self.how, self.z = generator, scorer, how, z
        self.size = how.images_at_once(generator.network.device, 64)
        self.steps = np.linspace(-how.reach, how.reach, how.steps)

    def views(
        self,
        scores: NDArray[np.float32] | None,
        segment: Segmenter | None,
        layers: tuple[str, str | None],
        config: Mapping[str, Any],
        sources: Mapping[str, Any],
    ) -> LatentViews:
        """Return all views."""
        skipped = dict[str, str]()
        units = None
        with self.how.bar("view", 4, "views") as bar:
            sweeps = self._sweeps(scores)
            bar.update()
            directions = None if scores is None else self._directions(scores, skipped)
            if scores is None:
                skipped["directions"] = "no scorer was given"
            bar.update()
            axes = self._axes(layers[0])
            bar.update()
            if layers[1] is None:
                skipped["units"] = "no layer before the image has maps of more than one pixel"
            else:
                viewed = UnitViews(self.generator, layers[1], segment, self.size)
                units = viewed.measured(self.z, self.how.masked, self.how.units)
            bar.update()
        return LatentViews(
            name=self.generator.model.name or type(self.generator.model.module).__name__,
            size=self.generator.model.size,
            samples=len(self.z),
            first=self.images(self.z[:FIRST]),
            sweeps=sweeps,
            directions=directions,
            axes=axes,
            units=units,
            classes=self.scorer.names if self.scorer else (),
            skipped=skipped,
            config=config,
            sources=sources,
        )

    def images(self, z: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the images of z [n, d], uint8 [n, H, W, C]."""
        return np.concatenate([pictures(self.generator.images(part)) for part in batches(z, self.size)])

    def scored(self, z: NDArray[Any]) -> tuple[NDArray[np.uint8], Floats]:
        """Return the images of z [n, d], and their scores, float64 [n, S]."""
        assert self.scorer is not None
        images, scores = [], []
        for part in batches(z, self.size):
            generated = self.generator.images(part)
            images.append(pictures(generated))
            scores.append(self.scorer.scores(generated))
        return np.concatenate(images), np.concatenate(scores).astype(np.float64)

    def _sweeps(self, scores: NDArray[np.float32] | None) -> Sweeps:
        classes = None if scores is None else scores.argmax(1)
        count = len(self.scorer.names) if self.scorer else 0
        return measured_sweeps(self.generator.model, self.images, self.z, self.steps, classes, count, self.how)

    def _chosen(self, scores: NDArray[np.float32]) -> list[int]:
        """Return the numbers of the scores that get a direction."""
        assert self.scorer is not None
        names = self.scorer.names
        if self.how.attributes:
            return _numbers_of(self.how.attributes, names)
        # Two scores of "yes" and "no" are one the other's opposite.
        count = 1 if len(names) == 2 else MOST_SCORES
        return sorted(np.argsort(-scores.std(0), kind="stable")[:count].tolist())

    def _directions(self, scores: NDArray[np.float32], skipped: dict[str, str]) -> Directions | None:
        """Return the directions of scores; the reason why one is not there goes into `skipped`."""
        assert self.scorer is not None
        directions, names, numbers, how = [], [], [], self.how
        for number in self._chosen(scores):
            name = self.scorer.names[number]
            try:
                directions.append(semantic_direction(self.z, scores[:, number], share=how.share, seed=how.seed))
            except DataError as error:
                skipped[f"direction {name}"] = str(error)
                continue
            names.append(name)
            numbers.append(number)
        if not directions:
            return None
        vectors = np.stack([each.vector for each in directions])
        free = [conditional_direction(each, np.delete(vectors, n, 0)) for n, each in enumerate(vectors)]
        images, values = self._walked(np.stack([vectors, free]), numbers)
        own_monotonicity = np.stack([[monotonicity(form[n, :, :, n]) for n in range(len(names))] for form in values])
        return Directions(
            names=tuple(names),
            vectors=vectors,
            conditional=np.stack(free),
            accuracy=np.array([each.accuracy for each in directions]),
            deviation=scores[:, numbers].std(0, dtype=np.float64),
            steps=self.steps,
            images=images,
            scores=values,
            monotonic=own_monotonicity,
        )

    def _walked(self, vectors: Floats, numbers: list[int]) -> tuple[NDArray[np.uint8], Floats]:
        """Return images [2, A, R, S, H, W, C] along directions [2, A, d], and their scores [2, A, R, S, A]."""
        start = self.z[: self.how.rows].astype(np.float64)
        z = start[:, None] + self.steps[:, None] * vectors[:, :, None, None]
        images, scores = self.scored(z.reshape(-1, z.shape[-1]))
        return images.reshape(*z.shape[:-1], *images.shape[1:]), scores[:, numbers].reshape(*z.shape[:-1], -1)

    @torch.no_grad()
    def _axes(self, layer: str) -> LayerAxes:
        z, network = self.z[:OF_AXES], self.generator.network
        parts = [network.activations(self.generator.z(part), [layer])[layer] for part in batches(z, self.size)]
        values = torch.cat([part.flatten(1).float().cpu() for part in parts]).numpy()
        axes = principal_axes(values, z, self.how.axes)
        walked = z[0] + self.steps[:, None] * axes.vectors[:, None]
        images = self.images(walked.reshape(-1, z.shape[1]))
        return LayerAxes(
            layer=layer,
            vectors=axes.vectors,
            explained=axes.explained,
            linear=axes.linear,
            steps=self.steps,
            images=images.reshape(*walked.shape[:2], *images.shape[1:]),
        )

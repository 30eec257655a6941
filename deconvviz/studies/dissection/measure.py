"""Dissect layers: one pass over the images finds each channel's threshold, a second one counts where it is exceeded."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.datasets import Images, labels_of, limited, place_of
from deconvviz.data.feed import Feed, InputBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.recent import note_images
from deconvviz.data.truth import Truth
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.digest import architecture
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.results.results import require_same, stamped
from deconvviz.studies.dissection.counts import Counts, on_device
from deconvviz.studies.dissection.examples import FiringNotes, with_examples
from deconvviz.studies.dissection.looking import ConceptPlanes
from deconvviz.studies.dissection.options import DissectionOptions
from deconvviz.studies.dissection.quantiles import BINS, count, quantiles
from deconvviz.studies.dissection.result import COUNTS, QUANTILES, DissectedLayer, Dissection
from deconvviz.studies.mining.reduction import LayerTable
from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.dissection.options import DissectionKeywords


def dissect(
    network: Network,
    images: Images,
    layers: Sequence[str],
    *,
    preprocess: Preprocess | None = None,
    truth: Truth | None = None,
    out: Pathlike | None = None,
    quantiles: Dissection | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[DissectionKeywords],
) -> Dissection:
    """Find which concept each channel of some layers detects: network dissection.

    A channel fires where its map, resized bilinearly to the picture, is above the channel's threshold, the 0.995
    quantile of all its values over all images. How far the firing pixels are those of a part, a colour or a texture
    names it; and so does a class that is over-represented among its strongest images. Beside each number stands what
    chance gives. Of large pictures each n-th row and column is looked at, see `firing.sampled`.

    With `out`, what is done is written to that file every `commit_every` batches, and calling again with the same
    arguments resumes.

    Args:
        network: a captured network, on the device that computes.
        images: the images; their classes are concepts too.
        layers: names from `network.layers`.
        preprocess: how an image becomes the network's input; by default resized and cropped to the network's size.
        truth: where objects and parts are, as `open_truth` returns it. Pictures of which it says nothing are left out
            of the second pass. Without it, colours, textures and classes are the concepts.
        out: path of the HDF5 file of the result.
        quantiles: what `merge_dissections` returns for the first passes of all shards, for the second pass of one.
        sources: where the model and the images came from, for the file.
        options: `quantile`, `top`, `limit`, `shard` and `commit_every` of `DissectionOptions`; `batch_size`,
            `precision`, `workers` and `progress` of `RunOptions`. A batch that does not fit in memory is halved.

    Returns:
        The dissection. That of a shard without `quantiles` has its first pass only.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CamError: a layer's value has no channels.
        CaptureError: the preprocessing does not fit the network, or one image does not fit in memory.
        DataError: no layer, no image, an option out of its range, or a layer with values that are not finite.
        MismatchError: `out` or `quantiles` was made with other settings.

    Source: Bau et al. 2017, section 2.2. They count in the union only pictures that are annotated for the concept;
    here a picture takes part where the truth knows it.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 2, 1))
    >>> _ = model[0].weight.data.zero_(), model[0].bias.data.zero_()
    >>> model[0].weight.data[0, 0] = 1  # the first channel is the red of a picture, the second is silent
    >>> colours = [np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 90), (0, 90, 0))]
    >>> images = dv.InMemoryImages(colours)
    >>> plain = dv.Preprocess(resize=None, crop=8, mean=(0, 0, 0), std=(1, 1, 1))
    >>> network = dv.capture(model.eval(), plain.shape)
    >>> dissection = dv.dissect(network, images, ["0"], preprocess=plain, progress=False)
    >>> dissection.names("0")
    {0: 'red'}
    """
    settings = DissectionOptions(**options)
    preprocess = preprocess or Preprocess.to_fit(network.input_shape)
    network.check_input(preprocess.shape)
    names = _checked(network, layers)
    feed = Feed(images, preprocess, settings.indices(labels_of(images)), workers=settings.workers)
    if not len(feed):
        raise DataError("no image given; expected at least one")
    note_images(images)
    config = configuration(network, images, names, preprocess, truth, settings)
    made_of = stamped({"architecture": architecture(network), **place_of(images), **(sources or {})})
    job = DissectionRun(network, feed, truth, settings, names, out)
    dissection = job.begun(config, made_of)
    if dissection.stage == QUANTILES:
        dissection = job.first_pass(dissection)
        if quantiles is not None:
            _require_quantiles(quantiles, config)
        elif settings.shard is not None:
            return dissection
        dissection = job.with_thresholds(dissection, quantiles or dissection)
    return job.second_pass(dissection)


def configuration(
    network: Network,
    images: Images,
    layers: Sequence[str],
    preprocess: Preprocess,
    truth: Truth | None,
    settings: DissectionOptions,
) -> dict[str, Any]:
    """Return what has to be equal for a file to be gone on with; JSON values. Arguments are those of `dissect`."""
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "truth_fingerprint": None if truth is None else truth.fingerprint,
        "layers": list(layers),
        "quantile": settings.quantile,
        "top": settings.top,
        "preprocess": preprocess.as_dict(),
        "precision": settings.precision,
        "limit": settings.limit,
        **limited(len(images), settings.limit),
        "shard": list(settings.shard) if settings.shard else None,
    }


def _checked(network: Network, layers: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise DataError("no layer given; expected at least 1")
    for name in names:
        network.layer(name).require_channels()
    return names


def _require_quantiles(quantiles: Dissection, config: Mapping[str, Any]) -> None:
    """Raise MismatchError unless thresholds come from the first passes of all shards of a job."""
    require_same("the quantiles", quantiles.config, {**config, "shard": None}, "merge the first passes of this job")
    if quantiles.stage != QUANTILES or quantiles.done < quantiles.total:
        raise MismatchError(f"the quantiles are of another pass: {quantiles.progress()}; merge those of the first pass")


@dataclass
class DissectionRun:
    """One run of a dissection: it adds batch after batch to what was counted before.

    Between two commits the sums stay on the network's device. The first pass never waits for it; the second one waits
    for each batch and layer, because how many pixels fire is known only then.

    Attributes:
        network: as it was captured.
        feed: the images.
        truth: where parts are, or None.
        settings: how the job runs.
        layers: names.
        out: path of the file; None where the result stays in memory.
    """

    network: Network
    feed: Feed
    truth: Truth | None
    settings: DissectionOptions
    layers: list[str]
    out: Pathlike | None

    def __post_init__(self) -> None:
        self.device = self.network.device
        self.forward = self.network.forward_only(self.settings.precision, keep=self.layers)
        size = fitting(self.forward, self.settings.images_at_once(self.device), self.layers)
        advice = f"the layers are {', '.join(self.layers)}: ask for fewer layers at once, or use another --device"
        self.at_once = AtOnce(size, "images", advice)

    def begun(self, config: dict[str, Any], sources: dict[str, Any]) -> Dissection:
        """Return what the file holds already, or a dissection of which no image is done; the file is written then."""
        if self.out is not None and pathlib.Path(self.out).exists():
            dissection = Dissection.load(self.out)
            require_same(
                self.out, dissection.config, config, "remove it or choose another output", (dissection.sources, sources)
            )
            return dissection
        images = self.feed.images
        labels, classes = self.feed.labels, tuple(images.classes)
        dissection = Dissection(
            config=config,
            sources=sources,
            layers={name: self._empty(name) for name in self.layers},
            classes=classes,
            class_counts=np.bincount(labels[labels >= 0], minlength=len(classes)).astype(np.int64),
            total=len(self.feed),
        )
        self._commit(dissection)
        return dissection

    def _empty(self, name: str) -> DissectedLayer:
        channels, top = self.network.layer(name).units[0], self.settings.top
        return DissectedLayer(
            top=TopK.empty(channels, top),
            labels=np.full((channels, top), -1),
            histogram=np.zeros((channels, BINS), np.int64),
            thresholds=None,
            fires=np.zeros((channels, 0), np.int32),
            both=np.zeros((channels, 0), np.int64),
        )

    def _commit(self, dissection: Dissection) -> None:
        if self.out is not None:
            dissection.save(self.out)

    def _batches(self, dissection: Dissection) -> Iterator[tuple[InputBatch, bool]]:
        """Yield the batches that a pass has not done yet, and whether a commit follows."""
        what = {QUANTILES: "thresholds", COUNTS: "counting"}[dissection.stage]
        done, since = dissection.done, 0
        batches = self.feed.on_device(self.at_once.size, self.device, start=done)
        with self.settings.bar("image", dissection.total, what, done) as bar, contextlib.closing(batches):
            for batch in batches:
                done, since = done + len(batch.places), since + 1
                commits = since >= self.settings.commit_every or done == dissection.total
                yield batch, commits
                since = 0 if commits else since
                bar.update(len(batch.places))

    def _activations(self, pictures: Tensor) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Yield (which of the pictures, layer -> maps), in parts that fit in memory."""

        def part(start: int, stop: int) -> tuple[slice, dict[str, Tensor]]:
            x = self.feed.tensor(pictures[start:stop], self.device, self.network.dtype)
            values = self.forward.activations(x, self.layers)
            return slice(start, stop), {name: self.forward.maps(name, value) for name, value in values.items()}

        yield from self.at_once.parts(len(pictures), part)

    # --- the first pass ---

    @torch.inference_mode()
    def first_pass(self, dissection: Dissection) -> Dissection:
        """Fill the histograms and the tables of the strongest images."""
        tables = {name: self._table(name, layer.top) for name, layer in dissection.layers.items()}
        histograms = {
            name: on_device(layer.histogram, self.device)
            for name, layer in dissection.layers.items()
            if layer.histogram is not None
        }
        done = dissection.done
        for batch, commits in self._batches(dissection):
            for part, maps in self._activations(batch.pictures):
                for name, of_layer in maps.items():
                    count(histograms[name], of_layer)
                    tables[name] = tables[name].with_batch(of_layer, batch.images[part])
            done += len(batch.places)
            if commits:
                tables = {name: table.up_to_date() for name, table in tables.items()}
                dissection = replace(dissection, layers=self._first_counts(dissection, tables, histograms), done=done)
                self._commit(dissection)
        return dissection

    def _table(self, name: str, top: TopK) -> LayerTable:
        mined = MinedLayer(name=name, top=top, activity=Activity.empty(len(top.values)))
        return LayerTable.of(mined, self.network.layer(name).units[2], self.device)

    def _first_counts(
        self, dissection: Dissection, tables: Mapping[str, LayerTable], histograms: Mapping[str, Tensor]
    ) -> dict[str, DissectedLayer]:
        """Return the layers with what the first pass has found so far, on the host."""
        broken = [name for name, table in tables.items() if bool(table.doubtful)]
        if broken:
            raise DataError(f"layer {broken[0]!r} gives values that are NaN or infinite; it cannot be dissected")
        labels = labels_of(self.feed.images)
        layers = {}
        for name, layer in dissection.layers.items():
            top = tables[name].mined(name).top
            layers[name] = replace(
                layer,
                top=top,
                labels=np.where(top.images >= 0, labels[top.images], -1),
                histogram=histograms[name].cpu().numpy().copy(),
            )
        return layers

    def with_thresholds(self, dissection: Dissection, all_images: Dissection) -> Dissection:
        """Return the dissection at the beginning of its second pass, with the thresholds of these histograms."""
        layers = {}
        for name, layer in dissection.layers.items():
            histogram = all_images.layers[name].histogram
            assert histogram is not None  # of the first pass
            thresholds = quantiles(histogram, self.settings.quantile)
            layers[name] = replace(layer, thresholds=thresholds, histogram=None)
        dissection = replace(dissection, layers=layers, stage=COUNTS, done=0)
        self._commit(dissection)
        return dissection

    # --- the second pass ---

    @torch.inference_mode()
    def second_pass(self, dissection: Dissection) -> Dissection:
        """Count where channels fire and which concepts are there; last, take the examples of the figure."""
        if dissection.complete and all(layer.examples is not None for layer in dissection.layers.values()):
            return dissection
        planes = ConceptPlanes(self.feed, self.truth, dissection.concepts, self.device)
        shapes = {name: self.network.layer(name).units[1:] for name in self.layers}
        counts = Counts.of(dissection, planes, shapes, self.device)
        notes = FiringNotes(dissection)
        done, images = dissection.done, dissection.images
        known = planes.masks(np.arange(done, dissection.total))
        with contextlib.closing(known):
            for batch, commits in self._batches(dissection):
                masks, pictures = list(islice(known, len(batch.places))), batch.pictures
                numbers = self.feed.indices[batch.places]
                if self.truth is not None and not all(masks):
                    there = [place for place, parts in enumerate(masks) if parts]
                    pictures = pictures[torch.tensor(there, dtype=torch.int64, device=self.device)]
                    masks, numbers = [masks[place] for place in there], numbers[there]
                done, images = done + len(batch.places), images + len(pictures)
                if len(pictures):
                    of_masks = planes.of_masks(masks).to(self.device, non_blocking=True)
                    concepts = torch.cat([planes.of_pixels(pictures), of_masks], 1)
                    self._count(counts, planes, pictures, concepts, numbers, notes)
                if commits:
                    dissection = counts.on_host(dissection, planes, done=done, images=images)
                    self._commit(dissection)
        if not dissection.images:
            raise DataError("the truth knows no image of those that are looked at; give more images, or another truth")
        if self.settings.shard is None:
            dissection = dissection.with_concepts(sorted(dissection.concepts))
            dissection = with_examples(dissection, self.forward, self.feed, notes)
            self._commit(dissection)
        return dissection

    def _count(
        self,
        counts: Counts,
        planes: ConceptPlanes,
        pictures: Tensor,
        concepts: Tensor,
        numbers: Ints,
        notes: FiringNotes,
    ) -> None:
        """Add pictures, whose numbers in the store are given, with their concepts."""
        counts.add_concepts(concepts, len(planes.concepts))
        for part, maps in self._activations(pictures):
            for name, of_layer in maps.items():
                counts.add_maps(name, of_layer, concepts[part])
                notes.add(name, of_layer, numbers[part], counts.thresholds[name], *counts.axes[name])

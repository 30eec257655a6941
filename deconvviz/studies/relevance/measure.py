"""One pass over a store shares every decision out among the channels of layers, and keeps each channel's images."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.datasets import Images, labels_of, place_of
from deconvviz.data.feed import Feed, InputBatch
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.recent import note_images
from deconvviz.deconv.decision import RULE, Decisions
from deconvviz.errors import DataError, require
from deconvviz.graph.digest import architecture
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.results.results import stamped
from deconvviz.results.shard_files import begun
from deconvviz.run.sharding import ShardedOptions
from deconvviz.studies.mining.mine import configuration
from deconvviz.studies.mining.reduction import LayerTable
from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.studies.relevance.options import Target, checked_target
from deconvviz.studies.relevance.result import ImageRelevance, Relevance, RelevantLayer, Shares, load_relevance
from deconvviz.studies.relevance.table import RelevanceTable
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.sharding import ShardedKeywords

Tables = dict[str, tuple[LayerTable, RelevanceTable]]


def relevance(
    network: Network,
    store: Images,
    layers: Sequence[str],
    k: int = 9,
    out: Pathlike | None = None,
    *,
    rule: str = RULE,
    target: Target = "predicted",
    outputs: Ints | None = None,
    preprocess: Preprocess | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[ShardedKeywords],
) -> Relevance:
    """Find which channels of some layers made a network's decisions, and the images in which each weighed most.

    The score of one class is shared out for each image among the units of a layer. A channel's relevance is the sum
    over its units; its share is that over the sum of the absolute relevance of all channels. The k images with the
    largest share of each channel are kept beside the k that activate it most, from the same pass. The result does not
    depend on batch size, workers or order. With `out`, what is done is written to that file every `commit_every`
    batches; calling again with the same arguments resumes.

    Args:
        network: a captured network that returns one score for each class.
        store: the images, such as an `ImageStore`.
        layers: names from `network.layers`, between the image and the scores.
        k: images that are kept for each channel.
        out: path of the relevance file; None keeps the result in memory only.
        rule: one of `choices.RELEVANCE_RULES`.
        target: the class whose score is shared out: "predicted" is the one with the highest score of each image,
            "label" is that of the image's label (images without one are left out), a number is that class for all.
        outputs: int64 [classes], the network's output for each class of the images, for "label"; see `outputs_of`.
        preprocess: how an image becomes the network's input; see `mine`.
        sources: where model and weights came from, and "outputs", the names of the network's outputs, for the file.
        options: as of `mine`.

    Returns:
        layer name -> `RelevantLayer`.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CaptureError: the network returns no scores, they do not depend on a layer, or the preprocessing does not fit.
        DataError: no layer, a k below 1, no such class, or a file that cannot be read or written.
        ProjectionError: another rule.
        MismatchError: `out` was written with another model, store, list of layers or other settings.

    Source: Achtibat et al. 2023, relevance maximisation: reference images by relevance instead of activation, with the
    relevance of an image divided by its absolute sum (from memory of the paper and of zennit-crp).

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> found = dv.relevance(network, dv.Scenes(20), ["1"], k=3, preprocess=preprocess, progress=False)
    >>> found["1"].by_relevance.images.shape, int(found["1"].shares.decided.sum())
    ((4, 3), 20)
    """
    settings = ShardedOptions(**options)
    preprocess = preprocess or Preprocess.to_fit(network.input_shape)
    network.check_input(preprocess.shape)
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    require({"layers": names, "k": k}, DataError, layers=(bool(names), "at least one name"), k=(k >= 1, "at least 1"))
    checked_target(target, network.outputs)
    decisions = Decisions(network, names, rule, precision=settings.precision)
    wanted = _wanted(store, target, outputs)
    indices = settings.indices(labels_of(store))
    if wanted is not None:
        indices = indices[wanted[indices] >= 0]
    where: dict[str, Any] = place_of(store)
    where["receptive_fields"] = {name: [list(of) for of in network.layer(name).receptive_field] for name in names}
    where |= {"architecture": architecture(network), "image_size": list(preprocess.shape[1:])}
    note_images(store)
    config = configuration(network, store, names, k, preprocess, settings)
    of_classes = None if target != "label" or outputs is None else np.asarray(outputs).tolist()
    empty = Relevance(
        layers={name: _empty_layer(network, name, k) for name in names},
        config={**config, "rule": rule, "target": target, "outputs_of_classes": of_classes},
        sources=stamped({**where, **(sources or {})}),
        done=0,
        total=len(indices),
        path=None if out is None else pathlib.Path(out),
    )
    feed = Feed(store, preprocess, indices, workers=settings.workers)
    return RelevanceRun(decisions, feed, settings, wanted).run(begun(empty, load_relevance))


def image_relevance(
    network: Network, x: Tensor, layer: str, target: int | None = None, rule: str = RULE
) -> ImageRelevance:
    """Find which channels of a layer decided about one image.

    Args:
        network: a captured network that returns one score for each class.
        x: one image, [1, C, H, W], prepared for the network.
        layer: name of a layer.
        target: the class; None takes the one with the highest score.
        rule: one of `choices.RELEVANCE_RULES`.

    Raises:
        LayerNotFound, CaptureError, ProjectionError, DataError: as `relevance`; a DataError also where several images
            are given.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5)).eval()
    >>> decision = dv.image_relevance(dv.capture(model, (3, 32, 32)), torch.rand(1, 3, 32, 32), "1", target=2)
    >>> decision.target, decision.relevance.shape, bool(abs(abs(decision.shares).sum() - 1) < 1e-9)
    (2, (4,), True)
    """
    if len(x) != 1:
        raise DataError(f"{len(x)} images given; image_relevance takes one, relevance takes a store")
    if target is not None:
        checked_target(target, network.outputs)
    shared = Decisions(network, [layer], rule).of(x, None if target is None else torch.tensor([target]))
    maps = network.maps(layer, shared.relevance[layer])[0].double().cpu()
    _, rows, columns = maps.shape
    places = maps.flatten(1).argmax(1).numpy()
    parts = shared.parts[layer][0].tolist()
    return ImageRelevance(
        layer=layer,
        rule=rule,
        target=int(shared.classes[0]),
        score=float(shared.scores[0]),
        probability=float(shared.probabilities[0]),
        relevance=maps.flatten(1).sum(1).numpy(),
        positions=np.stack(np.divmod(places, columns), 1),
        map_size=(rows, columns),
        parts=dict(zip(("layer", "beside", "biases", "rest"), parts, strict=True)),
    )


def _wanted(store: Images, target: Target, outputs: Ints | None) -> Ints | None:
    """Return the class that is explained of each image of the store, -1 where there is none; None for the predicted."""
    if target == "predicted":
        return None
    if target != "label":
        return np.full(len(store), int(target), np.int64)
    labels = np.asarray(store.labels, np.int64)
    if outputs is None or not (labels >= 0).any():
        reason = "no image has a label" if outputs is not None else "`outputs` is missing"
        raise DataError(f"target label given, but {reason}; take the predicted class, or a class by its number")
    return np.where(labels >= 0, np.asarray(outputs, np.int64)[labels], -1)


def _empty_layer(network: Network, name: str, k: int) -> RelevantLayer:
    channels, _, _ = network.layer(name).units
    return RelevantLayer(
        name=name,
        by_activation=MinedLayer(name=name, top=TopK.empty(channels, k), activity=Activity.empty(channels)),
        by_relevance=TopK.empty(channels, k),
        shares=Shares.empty(network.outputs, channels),
    )


class RelevanceRun:
    """One run: it adds batch after batch to what was found before, and commits as mining does.

    Attributes:
        decisions: shares scores out.
        feed: the images.
        settings: how the job runs.
        wanted: int64 [N], the class that is explained of each image of the store, on the device; None: the predicted.
        at_once: images in one pass; halved where they do not fit in memory.
    """

    def __init__(self, decisions: Decisions, feed: Feed, settings: ShardedOptions, wanted: Ints | None) -> None:
        self.decisions, self.feed, self.settings = decisions, feed, settings
        device = decisions.network.device
        self.wanted = None if wanted is None else torch.from_numpy(wanted).to(device)
        size = fitting(decisions.network, settings.images_at_once(device))
        self.at_once = AtOnce(size, "images", "ask for fewer layers at once, or use another --device")

    def run(self, found: Relevance) -> Relevance:
        """Share out the decisions that are not done yet, and return the whole result."""
        if found.complete:
            return found
        device, uncommitted = self.decisions.network.device, 0
        tables = {name: self._tables(layer) for name, layer in found.layers.items()}
        done, sources = found.done, found.sources
        with self.settings.bar("image", found.total, "relevance", done) as bar:
            batches = self.feed.on_device(self.at_once.size, device, start=done, tolerant=True)
            with contextlib.closing(batches):
                for batch in batches:
                    tables = self._with_batch(tables, batch)
                    images = len(batch.places) + len(batch.left_out)
                    done, uncommitted = done + images, uncommitted + 1
                    if batch.left_out:
                        sources = {**sources, "left_out": {**sources.get("left_out", {}), **batch.left_out}}
                    if uncommitted >= self.settings.commit_every or done == found.total:
                        layers = {name: _found(name, *pair) for name, pair in tables.items()}
                        found, uncommitted = replace(found, layers=layers, done=done, sources=sources), 0
                        if found.path is not None:
                            found.save(found.path)
                    bar.update(images)
        return found

    def _tables(self, layer: RelevantLayer) -> tuple[LayerTable, RelevanceTable]:
        network = self.decisions.network
        _, _, columns = network.layer(layer.name).units
        by_relevance = RelevanceTable.of(layer.by_relevance, layer.shares, columns, network.device)
        return LayerTable.of(layer.by_activation, columns, network.device), by_relevance

    def _with_batch(self, tables: Tables, batch: InputBatch) -> Tables:
        """Return the tables with one batch added; a batch that does not fit in memory goes in halves."""
        network = self.decisions.network

        def part(start: int, stop: int) -> Tables:
            images = batch.images[start:stop]
            x = self.feed.tensor(batch.pictures[start:stop], network.device, network.dtype)
            shared = self.decisions.of(x, None if self.wanted is None else self.wanted[images])
            result: Tables = {}
            for name, (by_activation, by_relevance) in tables.items():
                maps, relevance = (network.maps(name, of[name]) for of in (shared.values, shared.relevance))
                result[name] = (
                    by_activation.with_batch(maps, images, counting=True),
                    by_relevance.with_batch(relevance, images, shared.classes, shared.scores, shared.parts[name]),
                )
            return result

        for larger in self.at_once.parts(len(batch.places), part):
            tables = larger
        return tables


def _found(name: str, by_activation: LayerTable, by_relevance: RelevanceTable) -> RelevantLayer:
    top, shares = by_relevance.found()
    return RelevantLayer(name=name, by_activation=by_activation.mined(name), by_relevance=top, shares=shares)

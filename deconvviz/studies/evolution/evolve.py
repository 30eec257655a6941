"""How features came to be: each filter's strongest projection at every snapshot, and when each layer settled."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deconvviz.arrays import evenly
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.project import project_units
from deconvviz.deconv.projection import Unit
from deconvviz.errors import DataError
from deconvviz.graph.capture import capture
from deconvviz.graph.network import Network
from deconvviz.metrics.intervals import correlation
from deconvviz.results.results import digest_of
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.snapshots import with_weights
from deconvviz.studies.evolution.options import EvolutionOptions
from deconvviz.studies.evolution.result import Evolution, LayerEvolution
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import MinedLayer, Winner
from deconvviz.types import Ints, Pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.evolution.options import EvolutionKeywords

REFERENCES = 32  # filters of a layer whose projections are compared with the last epoch's
TILES = ("values", "images", "positions", "projections", "patches")
CURVES = ("top_final", "similarity")


def evolve(
    snapshots: Snapshots,
    model: nn.Module,
    store: Images,
    layers: Sequence[str],
    filters: int | Sequence[int] = 6,
    *,
    preprocess: Preprocess | None = None,
    device: torch.device | str = "cpu",
    **options: Unpack[EvolutionKeywords],
) -> Evolution:
    """Follow filters through the epochs of a training.

    At each epoch the store is mined; a filter shows the projection of its strongest activation by that epoch's
    weights.

    Args:
        snapshots: from `Snapshots(path)`.
        model: a network of the kind that was trained; its weights are replaced.
        store: the images to mine; the paper takes the training images.
        layers: names, as in `capture(model).layers`.
        filters: how many filters of each layer, or the channels themselves.
        preprocess: how images are prepared; by default as in the training, if the snapshots say so.
        device: where the network computes.
        options: `epochs`, `choice`, `crop`, `rule`, `k`, `limit` and `work` of `EvolutionOptions`; `batch_size`,
            `precision`, `workers` and `progress` of `RunOptions`.

    Raises:
        DataError: the file does not hold an epoch's weights, or they are damaged; an option is out of its range.
        MismatchError: the weights are those of another network.
        LayerNotFound: a name in `layers` does not exist.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 4. Top-k overlap, similarity and the choice of
    the rule are ours.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU())
    >>> preprocess = Preprocess(resize=32, crop=32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = dv.SnapshotRecorder(f"{folder}/snapshots.h5", epochs=(1, 2))
    ...     recorded = [record(epoch, model) for epoch in (1, 2)]
    ...     snapshots = Snapshots(f"{folder}/snapshots.h5")
    ...     evolution = evolve(snapshots, model, dv.Scenes(20), ["1"], 3, preprocess=preprocess, progress=False)
    >>> evolution.layers[0].images.shape, evolution.layers[0].top_final.tolist()  # 3 filters, 2 epochs
    ((3, 2), [1.0, 1.0])
    """
    settings = EvolutionOptions(**options)
    epochs = tuple(sorted(set(snapshots.epochs if settings.epochs is None else settings.epochs)))
    missing = [epoch for epoch in epochs if epoch not in snapshots.epochs]
    if missing or not epochs:
        raise DataError(
            f"epoch {missing[0] if missing else 'none'} given; {snapshots.path} holds the weights of epochs "
            f"{', '.join(map(str, snapshots.epochs)) or 'none'}: choose among them"
        )
    preprocess = preprocess or Preprocess.from_dict(snapshots.config.get("preprocess", {}))
    networks = EpochNetworks(snapshots, model, preprocess, torch.device(device))
    run = EvolutionRun(networks, store, tuple(dict.fromkeys(layers)), settings)
    return run.follow(epochs, filters)


@dataclass(frozen=True)
class EpochNetworks:
    """The networks of the epochs of a training.

    Attributes:
        snapshots: the weights of the epochs.
        model: a network of the kind that was trained; its weights are those of the epoch that was asked for last.
        preprocess: how an image becomes the network's input.
        device: where the network computes.
    """

    snapshots: Snapshots
    model: nn.Module
    preprocess: Preprocess
    device: torch.device

    def network(self, epoch: int) -> Network:
        """Return the network with the weights of an epoch; raises MismatchError where they do not fit the model."""
        advice = "give the model that was trained with --model"
        network = capture(with_weights(self.model, self.snapshots, epoch, advice), self.preprocess.shape)
        return network if self.device.type == "cpu" else network.to(self.device)


class EvolutionRun:
    """Some layers of a network that are followed through the epochs of its training."""

    def __init__(
        self, networks: EpochNetworks, store: Images, layers: tuple[str, ...], settings: EvolutionOptions
    ) -> None:
        self.networks, self.store, self.layers, self.settings = networks, store, layers, settings

    def follow(self, epochs: tuple[int, ...], filters: int | Sequence[int]) -> Evolution:
        """Return the evolution over epochs, ascending.

        The last epoch comes first: it decides which filters are shown, how large, by which rule, and what is final.
        """
        last = self._mined(epochs[-1], self.settings.rule)
        choice, count = (self.settings.choice, filters) if isinstance(filters, int) else (filters, 0)
        channels = {layer: last.cache.mined[layer].choose_channels(choice, count) for layer in self.layers}
        finals = {layer: FinalLayer(last, layer, self.settings.crop) for layer in self.layers}
        rules = {layer: final.rule for layer, final in finals.items()}
        columns: dict[int, dict[str, LayerAtEpoch]] = {}
        with self.settings.bar("epoch", len(epochs), "evolving") as bar:
            for epoch in (epochs[-1], *epochs[:-1]):
                mined = last if epoch == epochs[-1] else self._mined(epoch, rules)
                columns[epoch] = {layer: mined.column(finals[layer], channels[layer]) for layer in self.layers}
                mined.save()
                bar.update()
        return Evolution(
            layers=tuple(
                _stacked(finals[name], channels[name], [columns[e][name] for e in epochs]) for name in self.layers
            ),
            epochs=epochs,
            history=tuple(self.networks.snapshots.history),
            names=tuple(self.store.names),
            count=last.cache.mined.total,
            k=self.settings.k,
        )

    def _mined(self, epoch: int, rule: str | Mapping[str, str]) -> MinedEpoch:
        """Mine the store with the weights of an epoch, or read what was mined before.

        Args:
            epoch: its number.
            rule: of the projections, as for `ProjectionCache`.
        """
        network, settings, path = self.networks.network(epoch), self.settings, self._mined_file(epoch)
        mined = mine(
            network,
            self.store,
            self.layers,
            settings.k,
            path,
            preprocess=self.networks.preprocess,
            limit=settings.limit,
            **settings.keywords(),
        )
        shown = self.networks.preprocess.shown
        cache = ProjectionCache(mined, self.store, network, rule, progress=False, shown=shown)
        return MinedEpoch(network, cache, path)

    def _mined_file(self, epoch: int) -> pathlib.Path | None:
        """Return the path of an epoch's mined file; its name depends on the settings, so that others do not clash.

        "fp32" is not part of it: files of version 0.1.0, which knew no other precision, are found again.
        """
        if self.settings.work is None:
            return None
        folder = pathlib.Path(self.settings.work)
        folder.mkdir(parents=True, exist_ok=True)
        preprocess = self.networks.preprocess.as_dict()
        config = [self.layers, self.settings.k, self.settings.limit, self.store.fingerprint, preprocess]
        config += [self.settings.precision] if self.settings.precision != "fp32" else []
        return folder / f"epoch-{epoch:05d}-{digest_of(config, 8)}.h5"


@dataclass(frozen=True, kw_only=True)
class LayerAtEpoch:
    """One layer at one epoch, with the F filters that are shown; the attributes are those of `LayerEvolution`.

    Attributes:
        values: float32 [F].
        images: int64 [F].
        positions: int64 [F, 2].
        projections: float32 [F, h, w, C].
        patches: uint8 [F, h, w, 3].
        top_final: share of the last epoch's top-k images that are in the top k.
        similarity: mean cosine with the last epoch's projections.
    """

    values: NDArray[np.float32]
    images: Ints
    positions: Ints
    projections: NDArray[np.float32]
    patches: Pixels
    top_final: float
    similarity: float


@dataclass(frozen=True)
class MinedEpoch:
    """One epoch of a training.

    Attributes:
        network: with the weights of the epoch.
        cache: what it mined, with its projections.
        path: of the mined file; None where it is in memory only.
    """

    network: Network
    cache: ProjectionCache
    path: pathlib.Path | None

    def column(self, final: FinalLayer, channels: Sequence[int]) -> LayerAtEpoch:
        """Return what is shown of some channels of a layer at this epoch."""
        layer, winners = self.cache.mined[final.name], [Winner(channel, 0) for channel in channels]
        projections = self.cache.projections(final.name, winners)
        windows = {winner: projections[winner].window(final.size, self.cache.image_size) for winner in winners}
        return LayerAtEpoch(
            values=layer.values[channels, 0],
            images=layer.images[channels, 0],
            positions=layer.positions[channels, 0],
            projections=np.stack([projections[winner].cut(windows[winner]) for winner in winners]),
            patches=np.stack([self.cache.patch(final.name, winner, windows[winner]) for winner in winners]),
            top_final=share_final(layer, final.mined),
            similarity=final.similarity(self.network),
        )

    def save(self) -> None:
        """Add the projections that were computed to the mined file, if there is one."""
        if self.path is not None:
            self.cache.save(self.path)


class FinalLayer:
    """What is final of a layer: its table at the last epoch, and projections of some of its filters.

    Attributes:
        name: of the layer.
        mined: what mining found at the last epoch.
        size: height and width of the patches in pixels.
        rule: of the projections.
        why: in words, how the rule was chosen; "" where it was given.
    """

    def __init__(self, last: MinedEpoch, name: str, crop: str | int) -> None:
        """Project the strongest activations of some filters, evenly chosen, by the last epoch's weights.

        Args:
            last: the last epoch.
            name: of the layer.
            crop: size of the patches, as for `layer_panels`.

        Raises:
            DataError: every filter of the layer is dead.
        """
        self.name, self.mined = name, last.cache.mined[name]
        self.size = last.cache.crop(name, crop).size
        choice = last.cache.choice(name)
        self.rule, self.why = last.cache.rule_of(name), "" if choice is None else choice.words()
        alive = np.flatnonzero(~self.mined.activity.dead)
        if not len(alive):
            raise DataError(f"every filter of {name!r} is dead at the last epoch: there is nothing to show")
        channels = alive[evenly(len(alive), REFERENCES)]
        images = sorted({int(self.mined.images[channel, 0]) for channel in channels})
        feed = last.cache.feed
        self._inputs = feed.tensor(feed.pictures(images), last.network.device, last.network.dtype)
        self._bounds = feed.preprocess.bounds()
        self._units: list[Unit] = []
        for channel in channels:
            y, x = map(int, self.mined.positions[channel, 0])
            self._units.append((images.index(int(self.mined.images[channel, 0])), name, int(channel), (y, x)))
        self._projections = self._projected(last.network)

    def similarity(self, network: Network) -> float:
        """Return the mean cosine between projections of the same units by a network and by the last epoch's."""
        pairs = zip(self._projected(network), self._projections, strict=True)
        return float(np.mean([correlation(ours, final, centred=False) for ours, final in pairs]))

    def _projected(self, network: Network) -> list[NDArray[np.float64]]:
        projections = project_units(network, self._inputs, self._units, self.rule, bounds=self._bounds)
        return [projection.pixels.double().cpu().numpy() for projection in projections]


def share_final(layer: MinedLayer, final: MinedLayer) -> float:
    """Return the share of the final table's images that are in a layer's table already.

    It is the mean over the channels that are not dead in the final table.

    Args:
        layer: what was mined at some epoch.
        final: what was mined at the last epoch, with the same k.
    """
    alive = ~final.activity.dead
    images, final_images = layer.images[alive], final.images[alive]
    present = final_images >= 0
    common = (images[:, :, None] == final_images[:, None, :]) & present[:, None, :]
    return float(common.any(1).sum() / max(present.sum(), 1))


def _stacked(final: FinalLayer, channels: Sequence[int], columns: Sequence[LayerAtEpoch]) -> LayerEvolution:
    """Join a layer's columns, one for each epoch."""
    arrays: dict[str, Any] = {key: np.stack([getattr(column, key) for column in columns], 1) for key in TILES}
    arrays |= {key: np.array([getattr(column, key) for column in columns]) for key in CURVES}
    return LayerEvolution(layer=final.name, rule=final.rule, why=final.why, channels=np.asarray(channels), **arrays)

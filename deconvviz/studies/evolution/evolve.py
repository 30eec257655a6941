"""How features came to be: each filter's strongest projection at every snapshot, and when each layer settled."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.project import Projection, Unit, project_units
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.capture import capture
from deconvviz.graph.network import Network
from deconvviz.models.weights import misfit
from deconvviz.results.files import Pathlike
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.evolution.result import Evolution, LayerEvolution
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import MinedLayer, Winner

REFERENCES = 32  # filters of a layer whose projections are compared with the last epoch's


def evolve(
    snapshots: Snapshots,
    model: nn.Module,
    store: ImageStore,
    layers: Sequence[str],
    filters: int | Sequence[int] = 6,
    *,
    preprocess: Preprocess | None = None,
    epochs: Sequence[int] | None = None,
    choice: str = "active",
    crop: str | int = "energy",
    k: int = 9,
    limit: int | None = None,
    work: Pathlike | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Evolution:
    """Follow filters through the epochs of a training.

    At each epoch the store is mined; a filter shows its strongest activation's projection by that epoch's weights.

    Args:
        snapshots: from `Snapshots(path)`.
        model: a network of the kind that was trained; its weights are replaced.
        store: the images to mine; the paper takes the training images.
        layers: names, as in `capture(model).layers`.
        filters: how many of each layer, chosen at the last epoch as `choice` says ("active", "random", "first"), or
            which channels.
        preprocess: the one of the training; by default what the snapshots tell.
        epochs: those to show; by default all that are kept.
        crop: as for `layer_panels`; the last epoch's size is used for all.
        work: a folder for the mined file of each epoch. With it, an interrupted call goes on where it was.

    Raises:
        DataError: an epoch that is not in the file, or is damaged. MismatchError: weights of another network.
        LayerNotFound: no such layer.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 4. Top-k overlap and similarity are this package's.
    """
    chosen = tuple(sorted(set(epochs if epochs is not None else snapshots.epochs)))
    missing = [epoch for epoch in chosen if epoch not in snapshots.epochs]
    if missing or not chosen:
        raise DataError(
            f"epoch {missing[0] if missing else 'none'} given; {snapshots.path} holds the weights of epochs "
            f"{', '.join(map(str, snapshots.epochs)) or 'none'}: choose among them"
        )
    settings = preprocess or Preprocess.from_dict(snapshots.config.get("preprocess", {}))
    runner = _Evolver(snapshots, model, store, tuple(dict.fromkeys(layers)), settings, crop, k, limit, work, device)
    runner.progress = progress
    return runner.run(chosen, filters, choice)


class _Evolver:
    progress = True

    def __init__(
        self,
        snapshots: Snapshots,
        model: nn.Module,
        store: ImageStore,
        layers: tuple[str, ...],
        preprocess: Preprocess,
        crop: str | int,
        k: int,
        limit: int | None,
        work: Pathlike | None,
        device: torch.device | str,
    ) -> None:
        self.snapshots, self.model, self.store, self.layers = snapshots, model, store, layers
        self.preprocess, self.crop, self.k, self.limit, self.device = preprocess, crop, k, limit, device
        self.work = None if work is None else pathlib.Path(work)

    def run(self, epochs: tuple[int, ...], filters: int | Sequence[int], choice: str) -> Evolution:
        """Take the last epoch first: it decides which filters are shown, how large, and what is final."""
        last = _Epoch(self, epochs[-1])
        shown = {
            layer: last.mined[layer].choose_channels(*((choice, filters) if isinstance(filters, int) else (filters,)))
            for layer in self.layers
        }
        references = {layer: _Reference(last, layer) for layer in self.layers}
        rows: dict[int, dict[str, dict[str, Any]]] = {}
        bar = tqdm(total=len(epochs), unit="epoch", desc="evolving", disable=not self.progress)
        with bar:
            for epoch in (epochs[-1], *epochs[:-1]):
                at = last if epoch == epochs[-1] else _Epoch(self, epoch)
                rows[epoch] = {layer: at.row(layer, shown[layer], references[layer]) for layer in self.layers}
                at.keep()
                bar.update()
        found = tuple(_layer(name, shown[name], [rows[epoch][name] for epoch in epochs]) for name in self.layers)
        history = tuple(self.snapshots.history)
        return Evolution(found, epochs, history, tuple(self.store.names), last.mined.total, self.k)

    def network(self, epoch: int) -> Network:
        """Return the network with the weights of an epoch."""
        given = {name: torch.from_numpy(array) for name, array in self.snapshots.weights(epoch).items()}
        complaint = misfit(self.model.state_dict(), given)
        if complaint:
            raise MismatchError(
                f"epoch {epoch} of {self.snapshots.path} does not fit {type(self.model).__name__} ({complaint}); "
                "give the model that was trained with --model"
            )
        self.model.load_state_dict(given)
        network = capture(self.model.eval(), self.preprocess.shape)
        return network if str(self.device) == "cpu" else network.to(torch.device(self.device))

    def mined_file(self, epoch: int) -> pathlib.Path | None:
        """Where an epoch's mined file stands: named by what was mined, so that another question finds another file."""
        if self.work is None:
            return None
        self.work.mkdir(parents=True, exist_ok=True)
        asked = [self.layers, self.k, self.limit, self.store.fingerprint, self.preprocess.as_dict()]
        digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        return self.work / f"epoch-{epoch:05d}-{digest}.h5"


class _Epoch:
    """One epoch: its network, and what it mined."""

    def __init__(self, job: _Evolver, epoch: int) -> None:
        self.job, self.network, self.out = job, job.network(epoch), job.mined_file(epoch)
        self.mined = mine(
            self.network,
            job.store,
            job.layers,
            job.k,
            self.out,
            preprocess=job.preprocess,
            limit=job.limit,
            progress=job.progress,
        )
        self.cache = ProjectionCache(self.mined, job.store, self.network, progress=False)

    def row(self, layer: str, channels: Sequence[int], reference: _Reference) -> dict[str, Any]:
        """Return this epoch's column of a layer: what `LayerEvolution` holds, without the axis of epochs."""
        top, winners = self.mined[layer], [Winner(c, 0) for c in channels]
        projections = self.cache.projections(layer, winners)
        windows = {w: projections[w].window(reference.size, self.cache.image_size) for w in winners}
        return {
            "values": top.values[channels, 0],
            "images": top.images[channels, 0],
            "positions": top.positions[channels, 0],
            "projections": np.stack([projections[w].cut(windows[w]) for w in winners]),
            "patches": np.stack([self.cache.patch(layer, w, windows[w]) for w in winners]),
            "top_final": _overlap(top, reference.top),
            "similarity": reference.similarity(self.network),
        }

    def keep(self) -> None:
        """Save the projections that were computed, where there is a file for them."""
        if self.out is not None:
            self.cache.save(self.out)


class _Reference:
    """What is final of a layer: the last epoch's table, its crop, and some of its projections."""

    def __init__(self, last: _Epoch, layer: str) -> None:
        self.top, self.layer = last.mined[layer], layer
        self.size, _ = last.cache.crop(layer, last.job.crop)
        live = np.flatnonzero(~self.top.activity.dead)
        some = live[np.linspace(0, len(live) - 1, min(REFERENCES, len(live))).round().astype(int)]
        images = sorted({int(self.top.images[c, 0]) for c in some})
        pictures = np.stack([last.cache.feed.picture(i) for i in images])
        self.x = last.job.preprocess.tensor(pictures, last.network.device, last.network.dtype)
        self.units: list[Unit] = []
        for c in some:
            y, x = (int(n) for n in self.top.positions[c, 0])
            self.units.append((images.index(int(self.top.images[c, 0])), layer, int(c), (y, x)))
        self.final = project_units(last.network, self.x, self.units)

    def similarity(self, network: Network) -> float:
        """Mean cosine between the projections of the reference units by these weights and by the last ones."""
        found = project_units(network, self.x, self.units)
        return float(np.mean([_cosine(a, b) for a, b in zip(found, self.final, strict=True)]))


def _cosine(a: Projection, b: Projection) -> float:
    one, two = a.pixels.double().flatten(), b.pixels.double().flatten()
    return float(one @ two / (one.norm() * two.norm()).clamp(min=1e-300))


def _overlap(now: MinedLayer, last: MinedLayer) -> float:
    """Share of the last epoch's top-k images that are in the table now, over the channels that live at the last."""
    live = ~last.activity.dead
    same = (now.images[live][:, :, None] == last.images[live][:, None, :]) & (last.images[live] >= 0)[:, None, :]
    return float(same.any(1).sum() / max((last.images[live] >= 0).sum(), 1))


def _layer(name: str, channels: Sequence[int], columns: Sequence[dict[str, Any]]) -> LayerEvolution:
    stacked = {key: np.stack([column[key] for column in columns], 1) for key in list(columns[0])[:-2]}
    curves = {key: np.array([column[key] for column in columns]) for key in ("top_final", "similarity")}
    return LayerEvolution(name, np.asarray(channels), **stacked, **curves)

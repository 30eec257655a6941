"""The computing half of an atlas: a folder of result files that pages are made of."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deconvviz.choices import TRANSFORMS, Precision
from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.features import Features
from deconvviz.results.files import Pathlike
from deconvviz.results.folders import claim
from deconvviz.results.results import require_same, versions
from deconvviz.results.snapshots import Snapshots
from deconvviz.results.tiles import gallery_config
from deconvviz.run.features import stream_features
from deconvviz.studies.atlas.aspects import (
    Measured,
    followed,
    measured_invariance,
    measured_occlusion,
    occluder_for,
    places_of,
)
from deconvviz.studies.atlas.decisions import METHODS, Explaining, decisions
from deconvviz.studies.atlas.galleries import GalleryMaker, check_mined
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import Mined

COMPARED = 5000  # images, evenly chosen, over which filters are compared with each other
FOLLOWED = 12  # filters of a layer that are followed through the training


@dataclass(frozen=True)
class Wanted:
    """What an atlas shows.

    Attributes:
        layers: names; k: images a filter; rule: of the projections.
        filters: channels of each layer, or "active", "random" or "first", `count` of them; None for all.
        decisions: images whose decision is explained, by `methods` at `cam_layer`; 0 for none.
        invariance, occlusion: whether to measure these for each filter.
    """

    layers: tuple[str, ...]
    k: int = 9
    filters: str | tuple[int, ...] | None = None
    count: int = 64
    rule: str = "deconvnet"
    decisions: int = 12
    methods: tuple[str, ...] = METHODS
    cam_layer: str | None = None
    invariance: bool = False
    occlusion: bool = False


@dataclass(frozen=True)
class Computed:
    """The files of an atlas. galleries: one a layer, in the order of depth; decisions: None where none were wanted;
    filters: how many are shown, made: of them by this call, in so many seconds; picture: i -> the preprocessed picture
    i of the store, uint8 [H, W, 3]."""

    galleries: tuple[pathlib.Path, ...]
    decisions: pathlib.Path | None
    filters: int
    made: int
    seconds: float
    picture: Callable[[int], NDArray[np.uint8]]

    def __repr__(self) -> str:
        each = f", {1000 * self.seconds / self.made:.0f} ms each" if self.made else ""
        shown = f"{self.filters} filters of {len(self.galleries)} layers"
        return f"Computed({shown}, {self.made} of them now in {self.seconds:.0f} s{each})"


@dataclass(frozen=True)
class AtlasMaker:
    """Computes the files of an atlas of one network over one store.

    Attributes:
        network: captured; model: the module it was captured from, for `snapshots`.
        store: the images; preprocess: how they become the network's input.
        wanted: what is shown.
        mined: a mined result to take, else the store is mined.
        snapshots: of a training of this kind of network, to follow filters through it.
        outputs, names: as for `decisions`.
        batch_size: by default each step's own; precision: of mining, and of decisions.
        sources: where model and images came from, for the files.
    """

    network: Network
    model: nn.Module
    store: ImageStore
    preprocess: Preprocess
    wanted: Wanted
    mined: Mined | None = None
    snapshots: Snapshots | None = None
    outputs: NDArray[np.int64] | None = None
    names: Sequence[str] = ()
    batch_size: int | None = None
    precision: Precision = "fp32"
    sources: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers in the order of depth; raises LayerNotFound."""
        names = {self.network.layer(name).name for name in self.wanted.layers}
        return tuple(name for name in self.network.layers if name in names)

    def run(self, out: Pathlike) -> Computed:
        """Compute what is not there yet in the folder `out`; the same call again continues it.

        Raises:
            LayerNotFound, DataError: layers, channels or methods that do not exist; `out` holds other files.
            MismatchError: `out` was made otherwise; or the mined result is of other images or another network.
        """
        begin, folder = time.monotonic(), pathlib.Path(out)
        self._check()
        claim(folder, "atlas", self.config)
        data = folder / "data"
        mined = self._mined(data)
        maker = self._galleries(mined, data)
        paths, filters, made = [], 0, 0
        for n, layer in enumerate(self.layers):
            path, config = data / f"{n:02d}-{layer.replace('/', '_')}.h5", maker.config(layer)
            count = len(maker.channels.get(layer, range(config["shape"][0])))
            if path.exists():
                require_same(path, gallery_config(path), config, "remove it or choose another output")
            else:
                maker.make(layer).save(path)
                made += count
            paths.append(path)
            filters += count
        decided = self._decisions(data) if self.wanted.decisions else None
        return Computed(tuple(paths), decided, filters, made, time.monotonic() - begin, maker.picture)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What must agree for an atlas to be continued."""
        wanted = self.wanted
        return {
            "model": self.network.name,
            "model_fingerprint": self.network.fingerprint,
            "images_fingerprint": self.store.fingerprint,
            "preprocess": self.preprocess.as_dict(),
            "precision": self.precision,
            "layers": list(self.layers),
            "k": wanted.k,
            "rule": wanted.rule,
            "filters": wanted.filters if isinstance(wanted.filters, str | None) else list(wanted.filters),
            "count": wanted.count if isinstance(wanted.filters, str) else None,
            "decisions": wanted.decisions,
            "methods": list(wanted.methods) if wanted.decisions else None,
            "cam_layer": wanted.cam_layer,
            "invariance": wanted.invariance,
            "occlusion": wanted.occlusion,
            "mined": None if self.mined is None else _digest(self.mined.config),
            "snapshots": self._training,
            "outputs": self._named,
        }

    @property
    def _told(self) -> dict[str, Any]:
        return {"images": str(self.store.path), "versions": versions(), **self.sources}

    @property
    def _training(self) -> str | None:
        found = self.snapshots
        return None if found is None else _digest([found.config, found.epochs, found.history])

    @property
    def _named(self) -> str:
        return _digest([list(self.names), None if self.outputs is None else self.outputs.tolist()])

    def _check(self) -> None:
        """Refuse what cannot be done before the work begins."""
        numbers = self.wanted.filters
        wanted = () if numbers is None or isinstance(numbers, str) else numbers
        for layer in self.layers:
            channels = self.network.layer(layer).units[0]
            wrong = [c for c in wanted if not 0 <= c < channels]
            if wrong:
                raise DataError(f"channel {wrong[0]} of layer {layer!r} given; expected 0 to {channels - 1}")
        if self.mined is not None:
            advice = "mine again, or give the model, images and options that it was mined with"
            kept = {"preprocess": self.preprocess.as_dict(), "model_fingerprint": self.network.fingerprint}
            require_same("the mined file", {name: self.mined.config[name] for name in kept}, kept, advice)
            for layer in self.layers:
                _ = self.mined[layer]
            check_mined(self.mined, self.network, self.store, self.wanted.k)
        if self.wanted.decisions:
            _ = self.explaining

    @cached_property
    def explaining(self) -> Explaining:
        """What explains the decisions; raises as `Explaining`."""
        wanted, batch = self.wanted, self.batch_size or 32
        return Explaining(self.network, self.preprocess, wanted.methods, wanted.cam_layer, batch, self.precision)

    def _mined(self, data: pathlib.Path) -> Mined:
        if self.mined is not None:
            return self.mined
        return mine(
            self.network,
            self.store,
            self.layers,
            self.wanted.k,
            data / "mined.h5",
            preprocess=self.preprocess,
            batch_size=self.batch_size,
            precision=self.precision,
            progress=self.progress,
            sources=self.sources,
        )

    def _maxima(self, mined: Mined, data: pathlib.Path) -> Features:
        """The filters' maxima in the images, from one pass for all layers."""
        chosen = np.unique(np.linspace(0, mined.total - 1, min(mined.total, COMPARED)).round().astype(np.int64))
        return stream_features(
            self.network,
            self.store,
            self.layers,
            data / "maxima.h5",
            preprocess=self.preprocess,
            pool="max 1x1",
            chosen=chosen,
            batch_size=self.batch_size,
            precision=self.precision,
            progress=self.progress,
            sources=self.sources,
        )

    def _galleries(self, mined: Mined, data: pathlib.Path) -> GalleryMaker:
        wanted = self.wanted
        chosen: dict[str, Sequence[int]] = {}
        if wanted.filters is not None:
            chosen = {layer: mined[layer].choose_channels(wanted.filters, wanted.count) for layer in self.layers}
        settings = {
            "invariance_kinds": list(TRANSFORMS) if wanted.invariance else [],
            "occlusion_square": list(occluder_for(self.preprocess).square) if wanted.occlusion else None,
            "snapshots": self._training,
        }
        return GalleryMaker(
            mined,
            self._maxima(mined, data),
            self.store,
            self.network,
            self.layers,
            chosen,
            wanted.k,
            wanted.rule,
            settings,
            _Aspects(self, mined, data, chosen),
            self._told,
            self.progress,
        )

    def _decisions(self, data: pathlib.Path) -> pathlib.Path:
        path = data / "decisions.h5"
        decisions(
            self.explaining,
            self.store,
            self.wanted.decisions,
            path,
            outputs=self.outputs,
            names=self.names,
            progress=self.progress,
            sources=self._told,
        )
        return path


@dataclass(frozen=True)
class _Aspects:
    """Measures what was asked for, of all layers at once, when the first gallery needs it."""

    of: AtlasMaker
    mined: Mined
    data: pathlib.Path
    channels: Mapping[str, Sequence[int]]

    def __call__(self, layer: str, channels: NDArray[np.int64]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.of.wanted.invariance:
            found |= {name: array[channels] for name, array in self.invariance.of(layer).items()}
        if self.of.wanted.occlusion:
            found |= {name: array[channels] for name, array in self.occlusion.of(layer).items()}
            found["occlusion/places"] = places_of(occluder_for(self.of.preprocess))
        if self.of.snapshots is not None:
            evolution = self.evolution[layer]
            shown = np.isin(evolution["evolution/channels"], channels)
            found |= {name: a if name == "evolution/epochs" else a[shown] for name, a in evolution.items()}
        return found

    @cached_property
    def invariance(self) -> Measured:
        of = self.of
        return measured_invariance(
            of.network,
            of.store,
            of.layers,
            self.data / "invariance.h5",
            preprocess=of.preprocess,
            batch_size=of.batch_size or 32,
            progress=of.progress,
        )

    @cached_property
    def occlusion(self) -> Measured:
        of = self.of
        every = {layer: self.channels.get(layer, range(of.network.layer(layer).units[0])) for layer in of.layers}
        return measured_occlusion(
            of.network,
            of.store,
            self.mined,
            every,
            self.data / "occlusion.h5",
            preprocess=of.preprocess,
            batch_size=of.batch_size or 32,
            progress=of.progress,
        )

    @cached_property
    def evolution(self) -> dict[str, dict[str, Any]]:
        of = self.of
        assert of.snapshots is not None
        numbers = of.wanted.filters
        return followed(
            of.snapshots,
            of.model,
            of.store,
            of.layers,
            list(numbers[:FOLLOWED]) if isinstance(numbers, tuple) else FOLLOWED,
            self.data / "epochs",
            preprocess=of.preprocess,
            k=of.wanted.k,
            device=of.network.device,
            progress=of.progress,
        )


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

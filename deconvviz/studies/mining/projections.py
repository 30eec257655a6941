"""Projections of a mined layer's strongest units: computed for what is shown, kept in the mined file, and cut.

They are kept as float16 in units of each one's largest absolute value, on the pixels that its unit sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.project import Unit, project_units
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import data_inputs
from deconvviz.studies.mining.kept import ENERGY, KeptProjection
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Box

SAMPLE = 64  # projections that decide a layer's crop
AT_ONCE = 16  # filters whose images are in memory together
Pixels = NDArray[np.uint8]
Place = tuple[int, int]  # channel, rank


def window_around(projection: KeptProjection, size: tuple[int, int], image: tuple[int, int]) -> Box:
    """A box of `size` around the projection, or around its centre where it is larger, moved inside the image."""
    box, starts = projection.box, []
    for centre, first, last, wanted, room in zip(projection.centre(), box[:2], box[2:], size, image, strict=True):
        side = min(wanted, room)
        start = centre - side // 2 if side < last - first else (first + last - side) // 2
        starts.append((min(max(start, 0), room - side), side))
    (top, height), (left, width) = starts
    return Box(top, left, top + height, left + width)


def crop_size(maker: ProjectionMaker, crop: str | int) -> tuple[tuple[int, int], str]:
    """Return the size of the layer's windows, and in words how it was chosen."""
    if isinstance(crop, int) or crop.isdigit():
        if int(crop) < 1:
            raise DataError(f"crop {crop} given; expected a number of pixels")
        return (int(crop), int(crop)), f"{crop} px, as asked"
    if crop == "receptive-field":
        seen = maker.remembered(
            "receptive_field", lambda: list(maker.network().layer(maker.layer).receptive_field.size)
        )
        return (int(seen[0]), int(seen[1])), "the theoretical receptive field"
    if crop != "energy":
        raise DataError(f"crop {crop!r} given; expected energy, receptive-field or a number of pixels")
    side = int(maker.remembered(f"crop_{maker.rule}", lambda: [maker.typical_extent()])[0])
    return (side, side), f"{ENERGY:.0%} of the projections' energy, median of the layer"


class ProjectionMaker:
    """Computes projections of one layer, in groups, and keeps them in the mined result."""

    def __init__(
        self, mined: Mined, store: ImageStore, network: Callable[[], Network], layer: str, rule: str, progress: bool
    ) -> None:
        self.mined, self.store, self.layer, self.rule, self.progress = mined, store, layer, rule, progress
        self.preprocess = Preprocess.from_dict(mined.config["preprocess"])
        self.shape = self.preprocess.shape[1:]
        self._make = network
        self._network: Network | None = None

    def network(self) -> Network:
        """The captured network, checked against the one that was mined."""
        if self._network is None:
            made = self._make()
            if made.fingerprint != self.mined.config["model_fingerprint"]:
                raise MismatchError(
                    f"the model's fingerprint is {made.fingerprint}, mined was {self.mined.config['model_fingerprint']}"
                    ": another network or other weights; give the right ones with --model and --weights"
                )
            self._network = made
        return self._network

    def picture(self, image: int) -> Pixels:
        return self.preprocess.picture(self.store[image][0])

    def remembered(self, name: str, compute: Callable[[], list[int]]) -> NDArray[Any]:
        """Return a small fact about the layer from the file, computed once."""
        key = f"figures/{self.layer}/{name}"
        if key not in self.mined.extra:
            self.mined = replace(self.mined, extra={**self.mined.extra, key: np.asarray(compute())})
        return self.mined.extra[key]

    def typical_extent(self) -> int:
        """Return the median extent of the strongest projections of SAMPLE filters, evenly chosen."""
        found = self.mined[self.layer]
        live = np.flatnonzero(~found.activity.dead & (found.images[:, 0] >= 0))
        if not len(live):
            raise DataError(f"every filter of {self.layer!r} is dead on these images: there is nothing to show")
        chosen = live[np.linspace(0, len(live) - 1, min(SAMPLE, len(live))).round().astype(int)]
        stored = self.projections([(int(c), 0) for c in chosen], keep=False)
        return int(np.median([projection.extent() for projection in stored.values()])) | 1

    def projections(self, wanted: Sequence[Place], keep: bool = True) -> dict[Place, KeptProjection]:
        """Return the projections of (channel, rank) each, from the file where it has them."""
        extra, found = dict(self.mined.extra), {}
        missing = []
        for channel, rank in wanted:
            key = self._key(channel, rank)
            if key in extra:
                found[channel, rank] = KeptProjection(extra[key], Box(*extra[f"{key}_box"].tolist()))
            else:
                missing.append((channel, rank))
        step = AT_ONCE * self.mined[self.layer].top.k
        bar = tqdm(total=len(missing), unit="projection", desc=self.layer, disable=not self.progress or not missing)
        with bar:
            for start in range(0, len(missing), step):
                for (channel, rank), projection in self._computed(missing[start : start + step]).items():
                    found[channel, rank] = projection
                    if keep:
                        extra[self._key(channel, rank)] = projection.pixels
                        extra[f"{self._key(channel, rank)}_box"] = np.asarray(projection.box)
                    bar.update()
        self.mined = replace(self.mined, extra=extra)
        return found

    def _key(self, channel: int, rank: int) -> str:
        return f"projections/{self.layer}/{self.rule}/{channel}/{rank}"

    def _computed(self, wanted: Sequence[Place]) -> dict[Place, KeptProjection]:
        found, network = self.mined[self.layer], self.network()
        images = sorted({int(found.images[c, r]) for c, r in wanted})
        x = self.preprocess.tensor(np.stack([self.picture(i) for i in images]), network.device, network.dtype)
        units: list[Unit] = []
        for c, r in wanted:
            y, column = (int(n) for n in found.positions[c, r])
            units.append((images.index(int(found.images[c, r])), self.layer, c, (y, column)))
        out = {}
        for unit, projection in zip(wanted, project_units(network, x, units, self.rule), strict=True):
            peak = projection.pixels.abs().max().clamp(min=1e-30)
            out[unit] = KeptProjection((projection.pixels / peak).cpu().numpy().astype(np.float16), projection.window)
        return out

    def first_filters(self, channels: Sequence[int]) -> NDArray[np.float32] | None:
        """The filters themselves, where the layer reads the image directly: nothing shows a first layer better."""
        key = f"figures/{self.layer}/filters"
        if key not in self.mined.extra:
            weights = np.zeros(0, np.float32) if self._network is None else _first_weights(self._network, self.layer)
            if self._network is not None:
                self.mined = replace(self.mined, extra={**self.mined.extra, key: weights})
        weights = self.mined.extra.get(key, np.zeros(0))
        return weights[list(channels)] if weights.size else None


def _first_weights(network: Network, layer: str) -> NDArray[np.float32]:
    """Return the filters [C, h, w, 3] where `layer` is a convolution of the image, or its ReLU or BatchNorm."""
    node = network.layer(layer).node
    while op_name(node) in ("relu", "batch_norm", "dropout", "relu6", "silu", "hardswish", "gelu"):
        node = data_inputs(node)[0]
    if op_name(node) != "conv2d" or data_inputs(node) != [network.image]:
        return np.zeros(0, np.float32)
    weight = network.tensors[str(node.args[1].target)]  # type: ignore[union-attr]
    if weight.shape[1] != 3:
        return np.zeros(0, np.float32)
    filters: NDArray[np.float32] = weight.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).numpy().copy()
    return filters

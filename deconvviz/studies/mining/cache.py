"""ProjectionCache: the projections, crop sizes and first filters that a mined file keeps for the figures made of it.

Their names in the file: `projections/LAYER/RULE/CHANNEL/RANK` float16 [C, h, w] and the same name with `_box` int64 [4]
(top, left, bottom, right); `figures/LAYER/crop_RULE` int64 [1]; `figures/LAYER/receptive_field` int64 [2];
`figures/LAYER/filters` float32 [C, h, w, 3], empty where the layer does not read the image directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.arrays import evenly
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.projections import ENERGY, StoredProjection, first_layer_weights, project_winners
from deconvviz.studies.mining.result import Mined, Winner
from deconvviz.types import Array, Box, Pathlike

SAMPLE = 64  # filters whose projections decide a layer's crop
AT_ONCE = 16  # filters whose images are in memory together
PICTURES = 128 * 2**20  # bytes of decoded pictures that are kept: neighbouring filters have images in common


class Crop(NamedTuple):
    """The size of the patches of a layer.

    Attributes:
        size: height and width in pixels; they may exceed the image's.
        rule: in words, how the size was chosen.
    """

    size: tuple[int, int]
    rule: str


class ProjectionCache:
    """Projections of a mined result's winners by one rule: read from its file, computed where they are missing.

    Attributes:
        mined: the mined result; it stays as it is.
        feed: the images that were mined, prepared as they were then; a place is an index into the store.
        rule: of the projections, "deconvnet", "guided" or "gradient".
    """

    def __init__(
        self,
        mined: Mined,
        store: Images,
        network: Network | Callable[[], Network],
        rule: str = "deconvnet",
        progress: bool = True,
    ) -> None:
        """Begin with what the mined result keeps.

        Args:
            mined: from `mine` or `load_mined`.
            store: the images that were mined.
            network: the network that was mined, or a function that loads it. The function is called only if something
                is asked for that the file does not keep.
            rule: of the projections.
            progress: whether progress bars are shown.

        Raises:
            MismatchError: network or store are not those that were mined. Of a function, the network is checked when
                it is loaded.
        """
        if store.fingerprint != mined.config["store_fingerprint"]:
            raise MismatchError(
                f"{getattr(store, 'path', store)} is not the store that was mined "
                f"({mined.config['store_fingerprint'][:12]}); "
                "give the right one with --images"
            )
        self.mined, self.rule = mined, rule
        self.feed = Feed(store, Preprocess.from_dict(mined.config["preprocess"]), memory=PICTURES)
        self._source, self._run = network, RunOptions(progress=progress)
        self._arrays: dict[str, Array] = dict(mined.figure_arrays)
        self._sampled: dict[str, StoredProjection] = {}
        if isinstance(network, Network):
            _ = self.network

    @cached_property
    def network(self) -> Network:
        """The network that was mined; it is loaded here if a function was given."""
        network = self._source if isinstance(self._source, Network) else self._source()
        if network.fingerprint != self.mined.config["model_fingerprint"]:
            raise MismatchError(
                f"the model's fingerprint is {network.fingerprint}, mined was {self.mined.config['model_fingerprint']}"
                ": another network or other weights; give the right ones with --model and --weights"
            )
        return network

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.feed.preprocess.shape[1:]

    def projections(self, layer: str, winners: Sequence[Winner], keep: bool = True) -> dict[Winner, StoredProjection]:
        """Return the projections of entries of a layer's table.

        Args:
            layer: name of a mined layer.
            winners: (channel, rank) of the entries.
            keep: whether those that are computed are added to what `save` writes.
        """
        stored = {winner: self._stored(layer, winner) for winner in winners}
        missing = [winner for winner, projection in stored.items() if projection is None]
        computed = self._computed(layer, missing) if missing else {}
        projections = {winner: projection or computed[winner] for winner, projection in stored.items()}
        if keep:
            for winner, projection in projections.items():
                key = self._key(layer, winner)
                self._arrays.setdefault(key, projection.pixels)
                self._arrays.setdefault(f"{key}_box", np.asarray(projection.box))
        return projections

    def patch(self, layer: str, winner: Winner, window: Box) -> Array:
        """Return the part of an entry's image inside a window, uint8 [h, w, 3]."""
        return window.of(self.feed.picture(int(self.mined[layer].images[winner])))

    def crop(self, layer: str, crop: str | int = "energy") -> Crop:
        """Return the size of the patches of a layer.

        Args:
            layer: name of a mined layer.
            crop: "energy" is the smallest square that holds 98 % of a projection's energy, the median over 64 filters;
                "receptive-field" is all that a unit can see; or a side in pixels.

        Raises:
            DataError: another crop, or every filter of the layer is dead.
        """
        if isinstance(crop, int) or crop.isdigit():
            side = int(crop)
            if side < 1:
                raise DataError(f"crop {crop} given; expected a number of pixels")
            return Crop((side, side), "as given")
        if crop == "receptive-field":
            height, width = self._remembered(layer, "receptive_field", self._receptive_field)
            return Crop((int(height), int(width)), "the theoretical receptive field")
        if crop != "energy":
            raise DataError(f"crop {crop!r} given; expected energy, receptive-field or a number of pixels")
        side = int(self._remembered(layer, f"crop_{self.rule}", self._typical_extent)[0])
        return Crop(
            (side, side), f"the smallest square with {ENERGY:.0%} of the projections' energy, median of the layer"
        )

    def first_filters(self, layer: str, channels: Sequence[int]) -> NDArray[np.float32] | None:
        """Return filters of a layer that reads the image directly, float32 [n, h, w, 3]; None for another layer."""
        weights = self._remembered(layer, "filters", self._first_layer_weights)
        return weights[list(channels)] if weights.size else None

    def save(self, path: Pathlike) -> None:
        """Write the mined file with what was added to it; where nothing was, the file stays as it is.

        Raises:
            DataError: the file cannot be written.
        """
        if self._arrays.keys() != self.mined.figure_arrays.keys():
            replace(self.mined, figure_arrays=self._arrays).save(path)

    # --- inside ---

    def _key(self, layer: str, winner: Winner) -> str:
        return f"projections/{layer}/{self.rule}/{winner.channel}/{winner.rank}"

    def _stored(self, layer: str, winner: Winner) -> StoredProjection | None:
        key = self._key(layer, winner)
        if key in self._arrays:
            return StoredProjection(pixels=self._arrays[key], box=Box(*self._arrays[f"{key}_box"].tolist()))
        return self._sampled.get(key)

    def _computed(self, layer: str, winners: Sequence[Winner]) -> dict[Winner, StoredProjection]:
        """Compute projections in groups, so that the images of a group fit in memory."""
        mined_layer, projections = self.mined[layer], dict[Winner, StoredProjection]()
        step = AT_ONCE * mined_layer.top.k
        with self._run.bar("projection", len(winners), layer) as bar:
            for start in range(0, len(winners), step):
                group = winners[start : start + step]
                projections |= project_winners(self.network, mined_layer, self.feed, group, self.rule)
                bar.update(len(group))
        return projections

    def _remembered(self, layer: str, name: str, compute: Callable[[str], Array]) -> Array:
        """Return a small array about a layer from the file; where it is not there, compute it and add it."""
        key = f"figures/{layer}/{name}"
        if key not in self._arrays:
            self._arrays[key] = compute(layer)
        return self._arrays[key]

    def _receptive_field(self, layer: str) -> Array:
        return np.asarray(self.network.layer(layer).receptive_field.size)

    def _first_layer_weights(self, layer: str) -> Array:
        weights = first_layer_weights(self.network, layer)
        return np.zeros(0, np.float32) if weights is None else weights

    def _typical_extent(self, layer: str) -> Array:
        """Return the median extent of the strongest projections of SAMPLE filters, evenly chosen.

        These projections stay at hand for what is shown next. `save` writes only those that are shown: a file should
        not grow by filters that nobody asked for.
        """
        mined_layer = self.mined[layer]
        alive = np.flatnonzero(~mined_layer.activity.dead & (mined_layer.images[:, 0] >= 0))
        if not len(alive):
            raise DataError(f"every filter of {layer!r} is dead on these images: there is nothing to show")
        winners = [Winner(int(channel), 0) for channel in alive[evenly(len(alive), SAMPLE)]]
        projections = self.projections(layer, winners, keep=False)
        self._sampled = {self._key(layer, winner): projection for winner, projection in projections.items()}
        return np.asarray([int(np.median([projection.extent() for projection in projections.values()])) | 1])

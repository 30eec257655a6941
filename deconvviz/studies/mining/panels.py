"""The parts of a layer figure: per filter its strongest patches and their projections, cut to what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.images import ImageStore
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.studies.mining.projections import Pixels, ProjectionMaker, crop_size, window_around
from deconvviz.studies.mining.result import Mined


@dataclass(frozen=True)
class FilterPanel:
    """One filter of a layer figure.

    Attributes:
        channel: its index.
        patches: uint8 [k, h, w, 3], what the network saw there, strongest first.
        projections: float32 [k, h, w, C], each in units of its largest absolute value.
        values: float32 [k], the activations.
        images: the k images' names.
    """

    channel: int
    patches: Pixels
    projections: NDArray[np.float32]
    values: NDArray[np.float32]
    images: tuple[str, ...]


@dataclass(frozen=True)
class LayerPanels:
    """What a layer figure shows: `panels`, height and width of their crop and of the image, and how it was chosen.

    `weights` are the plain filters, float32 [filters, h, w, 3], where the layer reads the image directly.
    """

    layer: str
    panels: tuple[FilterPanel, ...]
    crop: tuple[int, int]
    image: tuple[int, int]
    crop_rule: str
    rule: str
    weights: NDArray[np.float32] | None


def choose_channels(mined: Mined, layer: str, how: str | Sequence[int], count: int = 16) -> list[int]:
    """Return the channels to show: "active" the ones with the highest mean, "random" (seeded), "first", or a list.

    Raises:
        DataError: a channel that the layer does not have, or another word.
    """
    found = mined[layer]
    channels = len(found.values)
    live = [int(c) for c in np.flatnonzero(~found.activity.dead)]
    if how == "active":
        order = np.argsort(-found.activity.mean, kind="stable")
        return sorted(int(c) for c in order[:count])
    if how == "random":
        return sorted(int(c) for c in np.random.default_rng(0).permutation(live)[:count])
    if how == "first":
        return list(range(min(count, channels)))
    if isinstance(how, str):
        raise DataError(f"channels {how!r} given; expected active, random, first or numbers")
    wrong = [c for c in how if not 0 <= c < channels]
    if wrong:
        raise DataError(f"channel {wrong[0]} of layer {layer!r} given; expected 0 to {channels - 1}")
    return list(how)


def layer_panels(
    mined: Mined,
    store: ImageStore,
    network: Callable[[], Network],
    layer: str,
    channels: Sequence[int],
    crop: str | int = "energy",
    rule: str = "deconvnet",
    progress: bool = True,
) -> tuple[LayerPanels, Mined]:
    """Return what the figure of a layer shows, and the mined result with the projections that were computed for it.

    Args:
        mined: from `mine` or `load_mined`.
        store: the images that were mined.
        network: gives the captured network, and is called only where a projection is not in the file yet.
        layer, channels: what to show.
        crop: "energy" is one square for the layer, the smallest that holds 98 % of a projection's energy (the median
            over 64 filters), centred on each one's energy; "receptive-field" is all that a unit can see; or pixels.
        rule: of the projections.

    Raises:
        MismatchError: network or store are not the ones that were mined.
        DataError: the layer was not mined.
    """
    found = mined[layer]
    if store.fingerprint != mined.config["store_fingerprint"]:
        raise MismatchError(
            f"{store.path} is not the store that was mined ({mined.config['store_fingerprint'][:12]}); "
            "give the right one with --images"
        )
    maker = ProjectionMaker(mined, store, network, layer, rule, progress)
    size, crop_rule = crop_size(maker, crop)
    stored = maker.projections([(c, r) for c in channels for r in range(found.top.k) if found.images[c, r] >= 0])
    weights = maker.first_filters(channels)
    panels = []
    for channel in channels:
        ranks = [r for r in range(found.top.k) if found.images[channel, r] >= 0]
        windows = [window_around(stored[channel, r], size, maker.shape) for r in ranks]
        pictures = [maker.picture(int(found.images[channel, r])) for r in ranks]
        cut = [p[w.top : w.bottom, w.left : w.right] for p, w in zip(pictures, windows, strict=True)]
        shown = [stored[channel, r].cut(w) for r, w in zip(ranks, windows, strict=True)]
        names = tuple(store.names[int(found.images[channel, r])] for r in ranks)
        panels.append(FilterPanel(channel, _stack(cut, size), _stack(shown, size), found.values[channel, ranks], names))
    height, width = maker.shape
    cut_size = (min(size[0], height), min(size[1], width))
    return LayerPanels(layer, tuple(panels), cut_size, (height, width), crop_rule, rule, weights), maker.mined


def _stack(parts: Sequence[NDArray[Any]], size: tuple[int, int]) -> NDArray[Any]:
    return np.stack(parts) if parts else np.zeros((0, *size, 3), np.float32)

"""From the maps of one batch to the table of the strongest images and the record of each channel, on the device.

Nothing here waits for the device: tables are tensors where the network is, and move to the host at a commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.spread import LOWEST, PARTS, SIDE, Spread
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Ints

_IMAGES = (1 << 32) - 1  # an image's index takes the lower 32 bits of a key
_MAGNITUDE = (1 << 31) - 1  # the bits of a float32 that are not its sign
TOGETHER = 128  # images that enter a table at once on a CPU: a quarter less of the tables' time than 16 at once


def ranking_keys(values: Tensor, images: Tensor) -> Tensor:
    """Return one whole number for each value and image; a larger one stands earlier in a top-k table.

    The upper 32 bits hold the value, in a form in which whole numbers have the order of floats; the lower ones hold
    2^32 - 1 - image. Larger values come first, then smaller images. No two images share a key, so that a selection by
    keys has one outcome, whatever ties. Values of minus infinity are no entry: their key is that of an empty place.

    Args:
        values: float32 [...], not NaN.
        images: int64, broadcasts over the values; 0 to 2^32 - 2.

    Returns:
        int64 [...].

    >>> ranking_keys(torch.tensor([2.0, 2.0, 3.0]), torch.tensor([5, 4, 9])).argsort(descending=True).tolist()
    [2, 1, 0]
    """
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0, with which it ties
    ordered = bits ^ ((bits >> 31) & _MAGNITUDE)
    lower = torch.where(values > -torch.inf, _IMAGES - images, 0)
    return (ordered.long() << 32) | lower


def values_and_images(keys: Ints) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Ints]:
    """Undo `ranking_keys`: return float32 values, and int64 images, -1 where a place is empty; all have one shape."""
    ordered = (keys >> 32).astype(np.int32)
    values = (ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)
    return values, np.where(values > -np.inf, _IMAGES - (keys & _IMAGES), -1)


def bins_of(values: Tensor) -> Tensor:
    """Return the bin of the histogram that each value lies in; see `spread.edges`.

    A bin is read off the bits of a value, its exponent and the first bits behind it: nothing is rounded.

    Args:
        values: float32 [...], not NaN.

    Returns:
        int64 [...], 0 to BINS - 1.

    >>> (bins_of(torch.tensor([-1e9, -1.0, 0.0, 1.0, 1.25, 1e9])) - SIDE).tolist()
    [-112, -49, 0, 49, 50, 112]
    """
    octave_and_part = values.abs().view(torch.int32) >> (23 - PARTS.bit_length() + 1)
    size = (octave_and_part - (127 + LOWEST) * PARTS + 1).clamp(0, SIDE)
    return (SIDE + torch.where(values < 0, -size, size)).long()


class Ranges(NamedTuple):
    """`Spread`, as tensors on the network's device.

    Attributes:
        counts: int64 [C, BINS].
        sampled: int64 [S], ascending.
        maxima: float32 [S + 1, C]; the last row takes what is not in the sample.
    """

    counts: Tensor
    sampled: Tensor
    maxima: Tensor

    @classmethod
    def of(cls, spread: Spread, device: torch.device | str) -> Ranges:
        """Move a record to a device."""
        maxima = torch.from_numpy(np.pad(spread.maxima, ((0, 0), (0, 1)))).T.contiguous()
        counts, sampled = (torch.from_numpy(each).to(device, copy=True) for each in (spread.counts, spread.sampled))
        return cls(counts, sampled, maxima.to(device, copy=True))

    def with_batch(self, values: Tensor, images: Tensor) -> Ranges:
        """Return the record with one batch added.

        The maxima are written in place: where a batch has to be repeated, it writes the same again.

        Args:
            values: float32 [C, N], each map's largest value.
            images: int64 [N], indices into the store.
        """
        counts = self.counts.scatter_add(1, bins_of(values), (values > -torch.inf).long())
        places = torch.searchsorted(self.sampled, images).clamp(max=len(self.sampled) - 1)
        rows = torch.where(self.sampled[places] == images, places, len(self.sampled))
        self.maxima.index_copy_(0, rows, values.T)
        return self._replace(counts=counts)

    def spread(self) -> Spread:
        """Return the record on the host."""
        maxima = np.ascontiguousarray(self.maxima[:-1].cpu().numpy().T)
        return Spread(self.counts.cpu().numpy(), self.sampled.cpu().numpy(), maxima)


class Maxima(NamedTuple):
    """What the maps of a batch are reduced to.

    Attributes:
        images: int64 [N], indices into the store.
        values: float32 [N, C], each map's largest finite value.
        places: int64 [N, C], its first position on the map, y * columns + x; None where it is searched for later.
        means: float32 [N, C], each map's mean. Where values were counted, float64, of those that are finite; 0 where
            none is.
        broken: int64 [N, C], number of values that are NaN or infinite; None where they were not counted.
        maps: the maps [N, C, H, W] where places are searched for later; where values were counted, those that are not
            finite are minus infinity.
    """

    images: Tensor
    values: Tensor
    places: Tensor | None
    means: Tensor
    broken: Tensor | None
    maps: Tensor | None

    @classmethod
    def of_all(cls, batches: Sequence[Maxima]) -> Maxima:
        """Return those of several batches as one; of batches that were reduced alike."""
        if len(batches) == 1:
            return batches[0]
        return cls._make(None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True))


@dataclass(frozen=True)
class LayerTable:
    """What mining holds of one layer between two commits, as tensors on the network's device.

    Attributes:
        keys: int64 [C, k], see `ranking_keys`, descending.
        places: int64 [C, k], the strongest position on the map, y * columns + x.
        fired: int64 [C], as in `Activity`.
        total: float64 [C], as in `Activity`.
        maximum: float32 [C], as in `Activity`.
        broken: int64 [C], as in `Activity`.
        doubtful: bool [], true where values were met that are not finite and were not counted: the table is wrong then.
        images: number of images, those that wait included.
        columns: columns of the layer's maps.
        ranges: the whole range of each channel; None where it is not recorded.
        waiting: batches whose maxima have not entered the table yet, as their means have; see `up_to_date`.

    >>> layer = MinedLayer(name="conv", top=TopK.empty(1, k=2), activity=Activity.empty(1))
    >>> maps = torch.tensor([[[[0.0, 3.0]]], [[[5.0, 1.0]]]])
    >>> mined = LayerTable.of(layer, 2, "cpu").with_batch(maps, torch.tensor([7, 8])).mined("conv")
    >>> mined.values.tolist(), mined.images.tolist(), mined.positions.tolist()
    ([[5.0, 3.0]], [[8, 7]], [[[0, 0], [0, 1]]])
    """

    keys: Tensor
    places: Tensor
    fired: Tensor
    total: Tensor
    maximum: Tensor
    broken: Tensor
    doubtful: Tensor
    images: int
    columns: int
    ranges: Ranges | None = None
    waiting: tuple[Maxima, ...] = ()

    @classmethod
    def of(cls, layer: MinedLayer, columns: int, device: torch.device | str) -> LayerTable:
        """Move what was mined before to a device; `columns` is the number of columns of the layer's maps."""
        top, activity = layer.top, layer.activity
        counts = (torch.from_numpy(getattr(activity, key)) for key in ("fired", "total", "maximum", "broken"))
        fired, total, maximum, broken = (count.to(device, copy=True) for count in counts)
        return cls(
            ranking_keys(torch.from_numpy(top.values), torch.from_numpy(top.images)).to(device),
            torch.from_numpy(top.positions[..., 0] * columns + top.positions[..., 1]).to(device),
            fired,
            total,
            maximum,
            broken,
            torch.zeros((), dtype=torch.bool, device=device),
            activity.images,
            columns,
            None if layer.spread is None else Ranges.of(layer.spread, device),
        )

    def with_batch(self, maps: Tensor, images: Tensor, counting: bool = False) -> LayerTable:
        """Return the table with one batch added.

        Args:
            maps: [N, C, H, W], on the table's device and of any float dtype.
            images: int64 [N], indices into the store, none of which is in the table.
            counting: whether NaN and infinite values are counted and left out, which takes more passes over the maps;
                otherwise a table that has met them says so.
        """
        maxima = _counted(maps, images) if counting else _maxima(maps, images)
        table = replace(
            self,
            total=self.total + maxima.means.double().sum(0),
            images=self.images + len(images),
            waiting=(*self.waiting, maxima),
        )
        few = sum(len(batch.images) for batch in table.waiting) < TOGETHER
        return table if few and maxima.maps is None else table.up_to_date()

    def up_to_date(self) -> LayerTable:
        """Return the table with the batches that wait in it; only then does it hold what `mined` returns."""
        if not self.waiting:
            return self
        maxima, k = Maxima.of_all(self.waiting), self.keys.shape[1]
        values, broken = maxima.values.T, maxima.broken
        keys, slots = torch.cat([self.keys, ranking_keys(values, maxima.images)], 1).topk(k, 1)
        finite = torch.isfinite(maxima.means).all() & torch.isfinite(values).all()
        return replace(
            self,
            keys=keys,
            places=self._places(maxima, slots),
            fired=self.fired + (values > 0).sum(1),
            maximum=torch.maximum(self.maximum, values.amax(1)),
            broken=self.broken if broken is None else self.broken + broken.sum(0),
            doubtful=self.doubtful | ~finite if broken is None else self.doubtful,
            ranges=None if self.ranges is None else self.ranges.with_batch(values, maxima.images),
            waiting=(),
        )

    def mined(self, name: str) -> MinedLayer:
        """Return the table and the record on the host."""
        if self.waiting:
            return self.up_to_date().mined(name)
        values, images = values_and_images(self.keys.cpu().numpy())
        positions = np.stack(np.divmod(self.places.cpu().numpy(), self.columns), 2)
        positions[images < 0] = -1
        counts = (count.cpu().numpy() for count in (self.fired, self.total, self.maximum, self.broken))
        return MinedLayer(
            name=name,
            top=TopK(values, images, positions),
            activity=Activity(self.images, *counts),
            spread=None if self.ranges is None else self.ranges.spread(),
        )

    def _places(self, maxima: Maxima, slots: Tensor) -> Tensor:
        """Return the places of the entries that were chosen, by `slots`, from the table and then the batch."""
        k = self.keys.shape[1]
        if maxima.places is not None:
            return torch.cat([self.places, maxima.places.T], 1).gather(1, slots)
        earlier = self.places.gather(1, slots.clamp(max=k - 1))
        assert maxima.maps is not None
        channels = torch.arange(len(slots), device=slots.device)[:, None]
        searched = maxima.maps[(slots - k).clamp(min=0), channels].flatten(2)
        return torch.where(slots < k, earlier, searched.argmax(2))


def _maxima(maps: Tensor, images: Tensor) -> Maxima:
    """Return each map's maximum and mean, which are not finite where a value is not.

    On a CPU pooling finds the first maximum and its place in one pass, ten times as fast as `argmax`. On a GPU the
    maximum alone is faster; only the few maps that enter the table are searched then.

    The sum runs as fast as reading the maps once; a sum of bf16 is taken in fp32 and rounded once.
    """
    means = maps.sum((2, 3)).float() / maps[0, 0].numel()
    if maps.device.type != "cpu":
        return Maxima(images, maps.amax((2, 3)).float(), None, means, None, maps)
    size = (maps.shape[2], maps.shape[3])
    values, places = functional.max_pool2d(maps, size, return_indices=True)
    return Maxima(images, values.flatten(1).float(), places.flatten(1), means, None, None)


def _counted(maps: Tensor, images: Tensor) -> Maxima:
    """Return the same of the finite values alone, and how many are not finite."""
    broken = ~torch.isfinite(maps)
    maxima = _maxima(maps.masked_fill(broken, -torch.inf), images)
    count = broken.sum((2, 3))
    finite = (maps[0, 0].numel() - count).clamp(min=1)
    means = maps.masked_fill(broken, 0).sum((2, 3), dtype=torch.float64) / finite
    return maxima._replace(means=means, broken=count)

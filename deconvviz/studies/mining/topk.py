"""Top-k tables that merge: which images, and where in them, drive each channel most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TopK:
    """Per channel the k strongest images, strongest first; ties are in the order of (image, y, x).

    A monoid: `merge` is associative and commutative and `TopK.empty` its neutral element, so batches, shards and
    resumed runs all give the same table. An image stands at most once in a channel, with its strongest position.

    Attributes:
        values: float32 [C, k]; minus infinity where there are fewer than k images.
        images: int64 [C, k], index into the store; -1 there.
        positions: int64 [C, k, 2], (y, x) on the layer's map; -1 there.
    """

    values: NDArray[np.float32]
    images: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def empty(cls, channels: int, k: int) -> TopK:
        """Return the table that has seen no image."""
        shape = (channels, k)
        return cls(
            np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full((*shape, 2), -1, np.int64)
        )

    @classmethod
    def of(cls, values: NDArray[np.float32], images: NDArray[np.int64], positions: NDArray[np.int64], k: int) -> TopK:
        """Return the table of some images: values [C, N], images [C, N] and positions [C, N, 2], in any order.

        A value of minus infinity or NaN is no entry.
        """
        nothing = ~(values > -np.inf)
        values = np.where(nothing, -np.inf, values).astype(np.float32)
        images = np.where(nothing, -1, images)
        positions = np.where(nothing[..., None], -1, positions)
        return cls(values, images, positions)._ranked(k)

    @property
    def k(self) -> int:
        """Entries a channel."""
        return int(self.values.shape[1])

    def merge(self, other: TopK) -> TopK:
        """Return the table of both tables' images; raises ValueError where k or the channels differ."""
        if self.values.shape != other.values.shape:
            raise ValueError(f"tables of shape {self.values.shape} and {other.values.shape} do not merge")
        return TopK(
            np.concatenate([self.values, other.values], 1),
            np.concatenate([self.images, other.images], 1),
            np.concatenate([self.positions, other.positions], 1),
        )._ranked(self.k)

    def _ranked(self, k: int) -> TopK:
        """Sort each channel by (strongest, image, y, x), keep an image's first entry only, and cut to k."""
        table = self._sorted()
        repeated = table._repeated()
        if repeated.any():  # a repeated image becomes no entry and is sorted to the end
            table.values[repeated], table.images[repeated], table.positions[repeated] = -np.inf, -1, -1
            table = table._sorted()
        missing = max(k - table.k, 0)
        if missing:
            empty = TopK.empty(len(table.values), missing)
            return TopK(
                np.concatenate([table.values, empty.values], 1),
                np.concatenate([table.images, empty.images], 1),
                np.concatenate([table.positions, empty.positions], 1),
            )
        return table._taken(np.broadcast_to(np.arange(k), (len(table.values), k)))

    def _sorted(self) -> TopK:
        keys = (self.positions[..., 1], self.positions[..., 0], self.images, -self.values)
        return self._taken(np.lexsort(keys, axis=1))

    def _repeated(self) -> NDArray[np.bool_]:
        """[C, n], true for an entry whose image stands further up in its channel."""
        order = np.argsort(self.images, axis=1, kind="stable")
        images = np.take_along_axis(self.images, order, 1)
        again = np.zeros(images.shape, bool)
        again[:, 1:] = (images[:, 1:] == images[:, :-1]) & (images[:, 1:] >= 0)
        found = np.zeros_like(again)
        np.put_along_axis(found, order, again, 1)
        return found

    def _taken(self, order: NDArray[np.int64]) -> TopK:
        return TopK(
            np.take_along_axis(self.values, order, 1),
            np.take_along_axis(self.images, order, 1),
            np.take_along_axis(self.positions, order[..., None], 1),
        )


@dataclass(frozen=True)
class Activity:
    """How a layer's channels behaved over all images; a monoid like `TopK`.

    Attributes:
        images: number of images seen.
        fired: int64 [C], images in which the channel was above zero somewhere.
        total: float64 [C], sum over images of the map's mean.
        maximum: float32 [C].
        broken: int64 [C], values that were NaN or infinite; they count nowhere else.
    """

    images: int
    fired: NDArray[np.int64]
    total: NDArray[np.float64]
    maximum: NDArray[np.float32]
    broken: NDArray[np.int64]

    @classmethod
    def empty(cls, channels: int) -> Activity:
        """Return the record of no image."""
        lowest = np.full(channels, -np.inf, np.float32)
        return cls(0, np.zeros(channels, np.int64), np.zeros(channels), lowest, np.zeros(channels, np.int64))

    def merge(self, other: Activity) -> Activity:
        """Return the record of both records' images, which must not overlap."""
        return Activity(
            self.images + other.images,
            self.fired + other.fired,
            self.total + other.total,
            np.maximum(self.maximum, other.maximum),
            self.broken + other.broken,
        )

    @property
    def dead(self) -> NDArray[np.bool_]:
        """[C], true where a channel was never above zero."""
        return np.equal(self.fired, 0)

    @property
    def frequency(self) -> NDArray[np.float64]:
        """[C], share of the images in which the channel fired."""
        return self.fired / max(self.images, 1)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[C], mean activation over images and positions."""
        return self.total / max(self.images, 1)

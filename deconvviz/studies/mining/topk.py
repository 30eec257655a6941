"""Top-k tables that merge: which images activate each channel most, and where in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Floats, Ints, Mask


@dataclass(frozen=True)
class TopK:
    """For each channel the k strongest images, strongest first; ties are in the order of (image, y, x).

    It is a monoid: `merge` is associative and commutative, and `TopK.empty` is its neutral element. Batches, shards and
    resumed runs therefore all give the same table. An image is at most one entry of a channel, with its strongest
    position.

    Attributes:
        values: float32 [C, k], the activations; minus infinity where there are fewer than k images.
        images: int64 [C, k], index into the store; -1 where there are fewer than k images.
        positions: int64 [C, k, 2], (y, x) on the layer's map; -1 where there are fewer than k images.

    >>> positions = np.zeros((1, 2, 2), np.int64)
    >>> first = TopK.of(np.array([[3.0, 1.0]], np.float32), np.array([[0, 1]]), positions, k=2)
    >>> second = TopK.of(np.array([[2.0, 5.0]], np.float32), np.array([[2, 3]]), positions, k=2)
    >>> first.merge(second).images.tolist(), second.merge(first).values.tolist()
    ([[3, 0]], [[5.0, 3.0]])
    """

    values: NDArray[np.float32]
    images: Ints
    positions: Ints

    @classmethod
    def empty(cls, channels: int, k: int) -> TopK:
        """Return the table of no image, for some number of channels."""
        shape = (channels, k)
        return cls(
            np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full((*shape, 2), -1, np.int64)
        )

    @classmethod
    def of(cls, values: NDArray[np.float32], images: Ints, positions: Ints, k: int) -> TopK:
        """Return the table of some images, which may come in any order and more than once.

        Args:
            values: float32 [C, N], the activations; minus infinity and NaN make no entry.
            images: int64 [C, N], indices into the store.
            positions: int64 [C, N, 2], (y, x) on the layer's map.
            k: entries of each channel.
        """
        missing = ~(values > -np.inf)
        values = np.where(missing, -np.inf, values).astype(np.float32)
        images = np.where(missing, -1, images)
        positions = np.where(missing[..., None], -1, positions)
        return cls(values, images, positions)._ranked(k)

    @property
    def k(self) -> int:
        """Number of entries of each channel."""
        return int(self.values.shape[1])

    def merge(self, other: TopK) -> TopK:
        """Return the table of both tables' images; raises ValueError if k or the number of channels differs."""
        if self.values.shape != other.values.shape:
            raise ValueError(f"tables of shape {self.values.shape} and {other.values.shape} do not merge")
        return TopK(
            np.concatenate([self.values, other.values], 1),
            np.concatenate([self.images, other.images], 1),
            np.concatenate([self.positions, other.positions], 1),
        )._ranked(self.k)

    def _ranked(self, k: int) -> TopK:
        """Return each channel sorted by (strongest, image, y, x), with an image's first entry only, cut to k."""
        table = self._sorted()
        repeated = table._repeated()
        if repeated.any():  # an image that is repeated becomes a missing entry, which is sorted to the end
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

    def _repeated(self) -> Mask:
        """Return bool [C, n], true for an entry whose image is an earlier entry of its channel too."""
        order = np.argsort(self.images, axis=1, kind="stable")
        images = np.take_along_axis(self.images, order, 1)
        repeated_in_order = np.zeros(images.shape, bool)
        repeated_in_order[:, 1:] = (images[:, 1:] == images[:, :-1]) & (images[:, 1:] >= 0)
        repeated = np.zeros_like(repeated_in_order)
        np.put_along_axis(repeated, order, repeated_in_order, 1)
        return repeated

    def _taken(self, order: Ints) -> TopK:
        return TopK(
            np.take_along_axis(self.values, order, 1),
            np.take_along_axis(self.images, order, 1),
            np.take_along_axis(self.positions, order[..., None], 1),
        )


@dataclass(frozen=True)
class Activity:
    """How a layer's channels behaved over all images; it is a monoid like `TopK`.

    Attributes:
        images: number of images that were mined.
        fired: int64 [C], number of images in which the channel was above zero somewhere.
        total: float64 [C], sum over the images of the mean of the map's finite values; a map without any adds 0.
        maximum: float32 [C], the largest activation; minus infinity where there is none.
        broken: int64 [C], number of values that were NaN or infinite; they count nowhere else.

    >>> activity = Activity(4, np.array([2, 0]), np.array([6.0, 0.0]), np.zeros(2, np.float32), np.zeros(2, np.int64))
    >>> activity.frequency, activity.mean, activity.dead
    (array([0.5, 0. ]), array([1.5, 0. ]), array([False,  True]))
    """

    images: int
    fired: Ints
    total: Floats
    maximum: NDArray[np.float32]
    broken: Ints

    @classmethod
    def empty(cls, channels: int) -> Activity:
        """Return the record of no image, for some number of channels."""
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
    def dead(self) -> Mask:
        """bool [C], true where a channel was never above zero; of no image nothing is known, and no channel is dead."""
        return np.equal(self.fired, 0) & (self.images > 0)

    @property
    def frequency(self) -> Floats:
        """float64 [C], share of the images in which the channel was above zero somewhere."""
        return self.fired / max(self.images, 1)

    @property
    def mean(self) -> Floats:
        """float64 [C], mean activation over images and positions."""
        return self.total / max(self.images, 1)

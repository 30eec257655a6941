"""Which part of every value changes where the image changes within a box.

A convolution hands a change on to the positions that read it. So the changed part of a value is a rectangle again, and
grows from layer to layer. It is followed down the graph by the intervals of `reach`, read the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from deconvviz.graph.reach import Geometry, Interval, Reach, edges, lengths, shape_of
from deconvviz.types import Ints

MOST = 0.7  # of a map: a larger part is not worth what it takes to cut it out and to put it back


@dataclass(frozen=True)
class Part:
    """The rows and columns of a value that may change: rectangles of one size, inside the map.

    Attributes:
        starts: int64 [R] and [C], the first row for each span of image rows, and the first column for each of columns.
        size: how many rows and columns each rectangle has.
    """

    starts: tuple[Ints, Ints]
    size: tuple[int, int]

    def read(self, reach: Reach) -> Part:
        """Return what an op reads of its input where it computes this part; it may lie beside the input's map."""
        rows, columns = (i.low + start * i.jump for i, start in zip(reach, self.starts, strict=True))
        height, width = ((length - 1) * i.jump + i.size for i, length in zip(reach, self.size, strict=True))
        return Part((rows, columns), (height, width))

    def same(self, other: Part) -> bool:
        """Return whether another part has the same rows and columns."""
        starts = zip(self.starts, other.starts, strict=True)
        return self.size == other.size and all(np.array_equal(mine, its) for mine, its in starts)

    def share(self, node: fx.Node) -> float:
        """Return how large it is, of the map of a node."""
        rows, columns = lengths(node)
        return self.size[0] * self.size[1] / (rows * columns)


def changed_parts(image: fx.Node, steps: Sequence[fx.Node], rows: Ints, columns: Ints) -> dict[fx.Node, Part]:
    """Return which part of each value changes with the pixels within some rows and columns of the image.

    Args:
        image: the node of the images.
        steps: nodes that depend on it, in the order of the graph.
        rows: int64 [R, 2], spans of rows in pixels, from the first one to the one behind the last. They may extend
            beyond the image.
        columns: int64 [C, 2], the same for columns.

    Returns:
        node -> its part. A value that is missing here may change anywhere, or in most of its map.
    """
    parts = {image: _part([(spans[:, 0], spans[:, 1] - 1) for spans in (rows, columns)], lengths(image))}
    for node in steps:
        ends = _ends(node, parts)
        if ends is not None:
            part = _part(ends, lengths(node))
            if part.share(node) <= MOST:
                parts[node] = part
    return parts


def _ends(node: fx.Node, parts: Mapping[fx.Node, Part]) -> list[tuple[Ints, Ints]] | None:
    """Return the first and the last row that change with an op's inputs, and the columns; None where all may."""
    geometry: Geometry = node.meta["geometry"]
    shape = shape_of(node)
    counts_images = shape[:1] == (-1,) and -1 not in shape[1:]
    if not geometry.local or not counts_images or any(source not in parts for source, _ in edges(node)):
        return None
    reads = [(parts[source], reach) for source, reach in edges(node) if reach is not None]
    if any(interval.jump == 0 for _, reach in reads for interval in reach):
        return None
    ends = []
    for axis in range(2):
        each = [readers(reach[axis], part.starts[axis], part.size[axis]) for part, reach in reads]
        ends.append((np.min([first for first, _ in each], 0), np.max([last for _, last in each], 0)))
    return ends


def readers(interval: Interval, starts: Ints, size: int) -> tuple[Ints, Ints]:
    """Return the first and the last output position that read any of `size` input positions from each start on.

    Where no output reads them the last is smaller than the first.

    >>> first, last = readers(Interval(jump=2, low=-1, size=3), np.array([4, 5]), 1)  # a reads 2a - 1 to 2a + 1
    >>> first.tolist(), last.tolist()
    ([2, 2], [2, 3])
    """
    first = -((interval.low + interval.size - 1 - starts) // interval.jump)  # rounded up
    last = (starts + size - 1 - interval.low) // interval.jump
    return first, last


def _part(ends: Sequence[tuple[Ints, Ints]], sizes: tuple[int, int]) -> Part:
    """Return the part of a map between first and last rows and columns, in rectangles of the largest one's size."""
    starts, size = [], []
    for (first, last), length in zip(ends, sizes, strict=True):
        size.append(int(np.clip((last - first).max() + 1, 1, length)))
        starts.append(first.clip(0, length - size[-1]))
    return Part((starts[0], starts[1]), (size[0], size[1]))

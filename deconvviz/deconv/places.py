"""Where the units of a batch are, and their windows: cut out of maps and put back by index arithmetic on the device.

Nothing here waits for the device, and nothing loops over units. What must be known to decide what to run (whether a
window reaches beyond its map) is known from the positions on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional

from deconvviz.deconv.plan import then
from deconvviz.graph.reach import Axes, Interval, Reach, data_inputs, lengths


@dataclass(frozen=True)
class Places:
    """Where the units of a batch are: in which image, and where on their layer's map.

    Attributes:
        index: int64 [N], the image of each unit among the distinct ones.
        rows: int64 [N].
        columns: int64 [N].
        ends: the smallest and the largest row, and the smallest and the largest column, known without the device.
        shared: whether units share images; else unit n is of image n.

    >>> places = Places.of([0, 0], [(1, 2), (3, 4)], torch.device("cpu"))
    >>> places.ends, places.shared
    (((1, 3), (2, 4)), True)
    """

    index: Tensor
    rows: Tensor
    columns: Tensor
    ends: tuple[tuple[int, int], tuple[int, int]]
    shared: bool

    @staticmethod
    def of(images: Sequence[int], positions: Sequence[tuple[int, int]], device: torch.device) -> Places:
        """Return the places of units from lists: the image of each, and its (row, column)."""
        table = torch.tensor([images, *zip(*positions, strict=True)], dtype=torch.int64).to(device)
        rows, columns = zip(*positions, strict=True)
        ends = ((min(rows), max(rows)), (min(columns), max(columns)))
        return Places(table[0], table[1], table[2], ends, list(images) != list(range(len(images))))

    def each_its_image(self) -> Places:
        """Return the places of the same units where every unit has an image of its own."""
        everyone = torch.arange(len(self.index), device=self.index.device)
        return Places(everyone, self.rows, self.columns, self.ends, False)

    def some(self, units: Tensor) -> Places:
        """Return the places of some of the units, int64 [K], each of which has an image of its own."""
        everyone = torch.arange(len(units), device=units.device)
        return Places(everyone, self.rows[units], self.columns[units], self.ends, False)

    def starts(self, window: Reach) -> tuple[Tensor, Tensor]:
        """Return the first row and column of the window of each unit, int64 [N] each; they may be negative."""
        rows, columns = window
        return rows.low + self.rows * rows.jump, columns.low + self.columns * columns.jump

    def covered(self, window: Reach) -> tuple[Tensor, Tensor]:
        """Return the rows [N, h] and columns [N, w] that the windows cover; some may lie outside the map."""
        starts = self.starts(window)
        rows, columns = (
            start[:, None] + torch.arange(interval.size, device=start.device)
            for start, interval in zip(starts, window, strict=True)
        )
        return rows, columns

    def inside(self, window: Reach, lengths: tuple[int, int]) -> tuple[bool, bool]:
        """Return whether the rows and the columns of all windows lie inside a map."""
        rows, columns = (
            _within(interval, ends, length) for interval, ends, length in zip(window, self.ends, lengths, strict=True)
        )
        return rows, columns

    def outside(self, window: Reach, axes: Axes, rank: int, lengths: tuple[int, int]) -> Tensor | None:
        """Return a mask, true outside the map, that broadcasts over windows; None where nothing is outside.

        Args:
            window: that of each unit.
            axes: which dimensions of the value are rows and columns.
            rank: number of its dimensions.
            lengths: rows and columns of the map.
        """
        masks, inside = [], self.inside(window, lengths)
        for axis, places, length, is_inside in zip(axes, self.covered(window), lengths, inside, strict=True):
            if not is_inside:
                shape = [1] * rank
                shape[0], shape[axis] = places.shape
                masks.append(((places < 0) | (places >= length)).reshape(shape))
        return None if not masks else masks[0] if len(masks) == 1 else masks[0] | masks[1]

    def cut(self, maps: Tensor, window: Reach, axes: Axes) -> Tensor:
        """Cut the window of each unit out of whole maps [M, ...]; it is zero outside the map.

        Args:
            maps: one value for each distinct image.
            window: that of each unit; one with no jump is the same for all.
            axes: which dimensions of the maps are rows and columns.

        Returns:
            [N, ...].

        >>> maps = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> window = Interval(1, -1, 2), Interval(1, 0, 2)
        >>> Places.of([0, 0], [(0, 0), (2, 1)], maps.device).cut(maps, window, (2, 3)).flatten(1).tolist()
        [[0.0, 0.0, 0.0, 1.0], [5.0, 6.0, 9.0, 10.0]]
        """
        if all(interval.jump == 0 for interval in window):
            return maps[self.index] if self.shared else maps
        lengths = maps.shape[axes[0]], maps.shape[axes[1]]
        sizes = window[0].size, window[1].size
        parts = _gathered(maps, axes, self.index, self.starts(window), sizes, self.inside(window, lengths))
        outside = self.outside(window, axes, maps.dim(), lengths)
        return parts if outside is None else parts.masked_fill_(outside, 0)

    def put(self, parts: Tensor, window: Reach, axes: Axes, lengths: tuple[int, int]) -> Tensor:
        """Put windows [N, ...] back where they were, each in a map of its own that is zero elsewhere.

        It is a cut as well: map position a reads the window's position a - start, and zero beside the window.

        Args:
            parts: the windows.
            window: that of each unit.
            axes: which dimensions are rows and columns.
            lengths: rows and columns of the maps.

        Returns:
            [N, ...].
        """
        starts = tuple(-start for start in self.starts(window))
        back = Places(torch.arange(len(parts), device=parts.device), starts[0], starts[1], self._ends_of(window), False)
        everywhere = Interval(1, 0, lengths[0]), Interval(1, 0, lengths[1])
        return back.cut(parts, everywhere, axes)

    def _ends_of(self, window: Reach) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the smallest and largest of the negated starts of a window."""
        rows, columns = (
            (-(interval.low + last * interval.jump), -(interval.low + first * interval.jump))
            for interval, (first, last) in zip(window, self.ends, strict=True)
        )
        return rows, columns


def pixels_read(node: fx.Node, image: fx.Node, window: Reach | None, places: Places) -> Tensor | None:
    """Return which positions of an op's input are pixels, bool [N, 1, h, w] or [1, 1, h, w]; None where all are.

    Args:
        node: an op that reads the image, perhaps with borders of zeros around it.
        image: the node of the images.
        window: that of the op's output, which may reach beyond the image; None where the op runs on whole maps.
        places: where the units are.
    """
    source = border = data_inputs(node)[0]
    shifts = [0, 0]
    while border is not image:
        reach = border.meta["geometry"].reach[0]
        if reach is None:  # a border of reflected pixels is made of pixels
            break
        shifts = [shift + interval.low for shift, interval in zip(shifts, reach, strict=True)]
        border = data_inputs(border)[0]
    if window is None and source is border:
        return None
    covered = None if window is None else places.covered(then(window, node.meta["geometry"].reach[0]))
    masks = []
    for axis, length in enumerate(lengths(source)):
        whole = torch.arange(length, device=places.rows.device)[None]
        positions = shifts[axis] + (whole if covered is None else covered[axis])
        masks.append((positions >= 0) & (positions < lengths(border)[axis]))
    return masks[0][:, None, :, None] & masks[1][:, None, None, :]


def _within(interval: Interval, ends: tuple[int, int], length: int) -> bool:
    first, last = (interval.low + end * interval.jump for end in ends)
    return first >= 0 and last + interval.size <= length


def _gathered(
    maps: Tensor,
    axes: Axes,
    index: Tensor,
    starts: tuple[Tensor, Tensor],
    sizes: tuple[int, int],
    inside: tuple[bool, bool],
) -> Tensor:
    """Gather windows, row by row: each row of a window is a run of neighbours in memory, from wherever it starts.

    What lies outside the map is any number of the map; the caller masks it.
    """
    trailing = maps.movedim(axes, (-2, -1))
    _, *lead, height, width = trailing.shape
    flat = trailing.reshape(-1).contiguous()  # the real part of complex numbers has a stride
    rows = starts[0][:, None] + torch.arange(sizes[0], device=index.device)
    columns, before = starts[1], 0
    if not inside[0]:
        rows = rows.clamp(0, height - 1)
    if not inside[1]:  # runs that begin before a row, or end behind it, stay within the memory
        columns, before = columns.clamp(-sizes[1], width), sizes[1]
        flat = functional.pad(flat, (sizes[1], sizes[1] + width))
    channels = flat.new_empty(lead).numel()
    each = torch.arange(channels, device=index.device)
    begins = (((index[:, None] * channels + each)[:, :, None] * height) + rows[:, None]) * width
    begins = begins + (columns + before)[:, None, None]
    runs = flat.as_strided((flat.numel() - sizes[1] + 1, sizes[1]), (1, 1))
    windows = runs.index_select(0, begins.reshape(-1)).reshape(len(index), *lead, *sizes)
    return windows.movedim((-2, -1), axes).contiguous()

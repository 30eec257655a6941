"""Where maps are above their thresholds in the picture: only the cells that can hold such a pixel are resized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1 << 22  # resized values at one time
MOST = 112  # pixels of the shorter side that are looked at


def sampled(height: int, width: int) -> tuple[range, range]:
    """Return the rows and the columns of a picture that are looked at: all, or each n-th so that few are left.

    Source: the release of network dissection (Bau et al. 2017) has masks of 112 px for pictures of 224 px.

    >>> sampled(64, 64), sampled(224, 224)
    ((range(0, 64), range(0, 64)), (range(1, 224, 2), range(1, 224, 2)))
    """
    step = max(-(-min(height, width) // MOST), 1)
    return range(step // 2, height, step), range(step // 2, width, step)


class Axis(NamedTuple):
    """How one axis of a map is resized: which pixels lie between two neighbours of the map, and how far.

    Attributes:
        places: int32 [length, most], the looked-at pixels between position i and the next, by their number; -1 where
            there are fewer.
        shares: float32 [length, most], how far each of them is on the way to the next position, in 0..1;
            NaN where there are fewer, so that nothing is above a threshold there.
        pixels: number of looked-at pixels.
    """

    places: Tensor
    shares: Tensor
    pixels: int

    @classmethod
    def of(cls, length: int, pixels: int, looked_at: range, device: torch.device | str = "cpu") -> Axis:
        """Return the axis of a map of some length, resized to a number of pixels of which some are looked at.

        Pixel p lies at (p + 1/2) length / pixels - 1/2 on the map, cut to it, as with torch's `align_corners=False`.
        """
        at = ((np.asarray(looked_at) + 0.5) * length / pixels - 0.5).clip(0, length - 1)
        cells = np.floor(at).astype(np.int64)
        counts = np.bincount(cells, minlength=length)
        places = np.full((length, max(counts.max(), 1)), -1, np.int32)
        shares = np.full(places.shape, np.nan, np.float32)
        within = np.arange(len(cells)) - (counts.cumsum() - counts)[cells]
        places[cells, within], shares[cells, within] = np.arange(len(cells)), at - cells
        return cls(torch.from_numpy(places).to(device), torch.from_numpy(shares).to(device), len(cells))


class Pixels(NamedTuple):
    """Pixels at which maps are above their thresholds; int64 [n] each.

    Attributes:
        images: numbers in the batch.
        channels: of the maps.
        places: numbers of looked-at pixels, row by row.
    """

    images: Tensor
    channels: Tensor
    places: Tensor


def firing(maps: Tensor, thresholds: Tensor, rows: Axis, columns: Axis) -> Iterator[Pixels]:
    """Yield the pixels at which bilinearly resized maps are above a threshold of their channel, in parts.

    A resized value is a mean of the four neighbours around it, so that it exceeds the threshold only where one of them
    does: at the 0.995 quantile that leaves a few cells in a hundred.

    Args:
        maps: [N, C, h, w].
        thresholds: float32 [C].
        rows: of the maps, h long.
        columns: of the maps, w long.

    >>> axis = Axis.of(2, 4, range(4))
    >>> maps = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
    >>> [part.places.tolist() for part in firing(maps, torch.tensor([0.5]), axis, axis)]
    [[10, 11, 14, 15]]
    """
    above = maps > thresholds[:, None, None]
    above[..., :-1, :] |= above[..., 1:, :].clone()
    above[..., :-1] |= above[..., 1:].clone()
    cells = above.nonzero()
    for some in torch.split(cells, max(AT_ONCE // (rows.places.shape[1] * columns.places.shape[1]), 1)):
        yield _in_cells(maps, thresholds, rows, columns, some)


def _in_cells(maps: Tensor, thresholds: Tensor, rows: Axis, columns: Axis, cells: Tensor) -> Pixels:
    """Resize some cells of the maps, int64 [n, 4], and return the pixels above the thresholds."""
    image, channel, row, column = cells.unbind(1)
    below, right = (row + 1).clamp(max=maps.shape[2] - 1), (column + 1).clamp(max=maps.shape[3] - 1)
    corners = [maps[image, channel, y, x].float()[:, None, None] for y in (row, below) for x in (column, right)]
    down, across = rows.shares[row][:, :, None], columns.shares[column][:, None, :]
    upper, lower = (torch.lerp(left, beside, across) for left, beside in (corners[:2], corners[2:]))
    places = (rows.places[row] * columns.pixels)[:, :, None] + columns.places[column][:, None, :]
    fires = torch.lerp(upper, lower, down) > thresholds[channel][:, None, None]
    cell = torch.arange(len(cells), device=maps.device).repeat_interleave(fires.sum((1, 2)))
    return Pixels(image[cell], channel[cell], places[fires].long())

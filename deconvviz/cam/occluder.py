"""A square that is moved over images: what stands in it, and the scores under it.

Every window is one whole forward pass in a batch of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from deconvviz.cam.backend import Read
from deconvviz.cam.engine import View
from deconvviz.cam.shaping import gaussian_blur
from deconvviz.cam.window_grid import WindowGrid, mean_by_pixel
from deconvviz.errors import DataError
from deconvviz.halving import AtOnce
from deconvviz.lengths import STRONG_BLUR

Computed = TypeVar("Computed")
DRAWN_FILLS = ("blur", "noise")  # are made of the image itself
GREY = 0.5  # of a pixel's range: the paper's square is grey


class Occluder(WindowGrid):
    """A square that is put over every window of a grid; attributes and errors are those of `WindowGrid`.

    >>> occluder = Occluder(size=(4, 4), square=(2, 2), stride=(2, 2))
    >>> occluder.covers(torch.tensor([3]), torch.zeros(1, 3, 4, 4))[0]
    tensor([[0., 0., 0., 0.],
            [0., 0., 0., 0.],
            [0., 0., 1., 1.],
            [0., 0., 1., 1.]])
    """

    def covers(self, windows: Tensor, like: Tensor) -> Tensor:
        """Return 1 for the pixels that each window covers, else 0.

        Args:
            windows: int64 [m], numbers of windows.
            like: a tensor of the dtype and on the device of the result.

        Returns:
            [m, H, W].
        """
        across = len(self.grid[1])
        rows, columns = self._lines(like)
        windows = windows.to(like.device)
        return rows[windows // across, :, None] * columns[windows % across, None, :]

    def averaged(self, values: Tensor) -> Tensor:
        """Return for each pixel the mean of the values [N, W] of the windows that cover it, [N, H, W]; 0 for none."""
        averaged: Tensor = mean_by_pixel(values, *self._lines(values))
        return averaged

    def under(
        self, x: Tensor, fill: Tensor | float, at_once: AtOnce, compute: Callable[[Tensor], Computed]
    ) -> Iterator[tuple[Tensor, Computed]]:
        """Yield what is computed of one image with each window filled, a batch at a time.

        Args:
            x: the image, [1, C, H, W].
            fill: what the windows become: a number, or an image that broadcasts over x.
            at_once: windows in a batch; fewer where they do not fit in memory.
            compute: from images [m, C, H, W], in which the windows are filled, to what is yielded.

        Yields:
            The windows int64 [m], on the host, and what was computed.
        """

        def part(start: int, stop: int) -> tuple[Tensor, Computed]:
            windows = torch.arange(start, stop)
            covered = self.covers(torch.arange(start, stop, device=x.device), x)[:, None]
            return windows, compute(x * (1 - covered) + fill * covered)

        return at_once.parts(len(self), part)

    def scores(self, v: View, fill: Tensor | float, read: Read | None = None) -> Tensor:
        """Return what is read off the output under each window, [N, W, ...]; the target's probability by default."""
        return v.masked(len(self), lambda _, windows: 1 - self.covers(windows, v.base), read, fill)

    def _lines(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lines` as tensors; they are sent to a device once, because sending waits for it."""
        key = like.device, like.dtype
        if key not in self._sent:
            rows, columns = (torch.from_numpy(line).to(*key) for line in self.lines)
            self._sent[key] = rows, columns
        return self._sent[key]

    @cached_property
    def _sent(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}


def filling(v: View, fill: Tensor | float | str) -> Tensor | float:
    """Return what stands in the square: a number or images as given; "blur" and "noise" are made from the view.

    Raises:
        DataError: another word.
    """
    if not isinstance(fill, str):
        return fill
    if fill not in DRAWN_FILLS:
        raise DataError(f"fill {fill!r} given; expected a number, {' or '.join(DRAWN_FILLS)}")
    if fill == "blur":
        return gaussian_blur(v.x, *STRONG_BLUR.of(*v.size))
    return v.noise(v.everyone * 0, tuple(v.x.shape[1:]))

"""A square that is moved over images: what stands in it, and the scores under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from deconvviz.cam.backend import Backend, Read
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View, whole_images
from deconvviz.cam.observation import LESS
from deconvviz.cam.shaping import gaussian_blur
from deconvviz.cam.window_grid import WindowGrid, mean_by_pixel
from deconvviz.errors import DataError
from deconvviz.graph.changes import Changes, patches
from deconvviz.graph.memory import budget, fitting
from deconvviz.halving import AtOnce
from deconvviz.lengths import STRONG_BLUR

Passes = Callable[[Tensor, Tensor], Any]
"""Images int64 [m] and windows int64 [m] -> what a network returns for these images with these windows filled."""
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

    def covers(self, windows: Tensor, like: Tensor, positions: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return 1 for the pixels that each window covers, else 0.

        Args:
            windows: int64 [m], numbers of windows.
            like: a tensor of the dtype and on the device of the result.
            positions: int64 [m, h] and [m, w], the rows and columns of the image that are asked for; by default all.

        Returns:
            [m, h, w].
        """
        across, windows = len(self.grid[1]), windows.to(like.device)
        lines = zip(self._lines(like), (windows // across, windows % across), strict=True)
        rows, columns = (line[numbers] for line, numbers in lines)
        if positions is not None:
            rows, columns = rows.gather(1, positions[0]), columns.gather(1, positions[1])
        return rows[:, :, None] * columns[:, None, :]

    def averaged(self, values: Tensor) -> Tensor:
        """Return for each pixel the mean of the values [N, W] of the windows that cover it, [N, H, W]; 0 for none."""
        averaged: Tensor = mean_by_pixel(values, *self._lines(values))
        return averaged

    def scores(self, v: View, fill: Tensor | float, read: Read | None = None) -> Tensor:
        """Return what is read off the output under each window, [N, W, ...]; the target's probability by default."""
        return UnderWindows(v.forward, self, v.batch_size, v.x.device).scores(v, v.base, fill, read)

    def scores_alone(self, v: View, fill: float, read: Read | None = None) -> Tensor:
        """Return what is read off the output where a window is all that is left of the image, as `scores` does."""
        empty = torch.full_like(v.base[:1], fill)
        return UnderWindows(v.forward, self, v.batch_size, v.x.device).scores(v, empty.expand_as(v.base), v.base, read)

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


class UnderWindows:
    """A network that sees images with each window of an occluder filled: a forward pass for each window.

    Of a captured network only what the window changes is computed, where that is less than whole passes (`Changes`).

    Attributes:
        forward: the network.
        occluder: the windows.
        changes: the passes over what the windows change; None for whole passes.
        at_once: how many windows run at once.
    """

    def __init__(self, forward: Backend, occluder: Occluder, batch_size: int, device: torch.device) -> None:
        """Plan the passes; at most `batch_size` at once, and fewer whole ones on a CPU."""
        self.forward, self.occluder = forward, occluder
        self.changes = forward.changes(occluder.boxes) if isinstance(forward, Captured) else None
        size = batch_size if self.changes else whole_images(batch_size, device)
        if isinstance(forward, Captured):
            size = fitting(forward.network, size)
        self.at_once = AtOnce(size, "occluded images", LESS)

    def scores(self, v: View, x: Tensor, fill: Tensor | float, read: Read | None) -> Tensor:
        """Return what is read off the output for each image of a view and each window, [N, W, ...].

        Args:
            v: the view.
            x: its images, [N, C, H, W], or what stands around the windows in their place.
            fill: what stands in the windows: a number, or images that broadcast over x.
            read: by default the probability of the target.
        """
        read, many, tables = read or v.scorer.probability, self._images_at_once(len(x)), []
        fills = fill.expand_as(x) if isinstance(fill, Tensor) else fill

        def scored(passes: Passes, first: int, images: Tensor, windows: Tensor) -> Tensor:
            v.passes["forward"] += len(images)
            return read(passes(images, windows), images + first)

        for first in range(0, len(x), many):
            some = slice(first, first + many)
            passes = self.of(x[some], fills[some] if isinstance(fills, Tensor) else fills)
            tables.append(v.each(len(x[some]), len(self.occluder), partial(scored, passes, first), self.at_once))
        return torch.cat(tables)

    def batches(self, x: Tensor, fill: Tensor | float) -> Iterator[tuple[Tensor, Any]]:
        """Yield what the network returns for one image [1, C, H, W] with each window filled, a batch at a time.

        Yields:
            The windows int64 [m], on the host, and what the network returned for them.
        """
        passes = self.of(self.forward.prepared(x), fill)

        def part(start: int, stop: int) -> tuple[Tensor, Any]:
            windows = torch.arange(start, stop, device=x.device)
            return torch.arange(start, stop), passes(torch.zeros_like(windows), windows)

        return self.at_once.parts(len(self.occluder), part)

    def of(self, x: Tensor, fill: Tensor | float) -> Passes:
        """Return the passes over images.

        Args:
            x: [N, C, H, W], as the network takes them.
            fill: what the windows become: a number, or images that broadcast over x.
        """
        filled = self.forward.prepared(fill.expand_as(x)) if isinstance(fill, Tensor) else fill
        if isinstance(self.forward, Captured) and self.changes is not None:
            return self._changed(self.forward, self.changes, x, filled)
        return self._whole(x, filled)

    def _whole(self, x: Tensor, fill: Tensor | float) -> Passes:
        def passes(images: Tensor, windows: Tensor) -> Any:
            covered = self.occluder.covers(windows, x)[:, None]
            inside = fill[images] if isinstance(fill, Tensor) else fill
            return self.forward(x[images] * (1 - covered) + inside * covered)

        return passes

    def _changed(self, forward: Captured, changes: Changes, x: Tensor, fill: Tensor | float) -> Passes:
        unchanged = changes.unchanged(x)

        def passes(images: Tensor, windows: Tensor) -> Any:
            positions = changes.positions(windows)
            covered = self.occluder.covers(windows, x, positions)[:, None]
            inside = patches(fill, images, positions) if isinstance(fill, Tensor) else fill
            changed = patches(x, images, positions) * (1 - covered) + inside * covered
            return forward.returned(changes.run(unchanged, changed, images, windows))

        return passes

    def _images_at_once(self, count: int) -> int:
        """Return of how many images, `count` at most, the values without a change are in memory at the same time."""
        if self.changes is None:
            return max(count, 1)
        return max(1, min(count, budget(self.changes.network.device) // self.changes.bytes_of_one))


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

"""A projection as the mined file keeps it, and where its energy lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Box

ENERGY = 0.98  # share of a projection's energy that the default crop holds


@dataclass(frozen=True)
class KeptProjection:
    """One projection as the mined file keeps it."""

    pixels: NDArray[np.float16]  # [C, h, w]
    box: Box

    def energy(self) -> NDArray[np.float64]:
        squared: NDArray[np.float64] = (self.pixels.astype(np.float64) ** 2).sum(0)
        return squared

    def centre(self) -> tuple[int, int]:
        """The centre of the projection's energy, in pixels of the image."""
        energy = self.energy()
        if energy.sum() == 0:
            return (self.box.top + self.box.bottom) // 2, (self.box.left + self.box.right) // 2
        rows, columns = (energy.sum(1 - axis) for axis in (0, 1))
        y, x = ((weights * np.arange(len(weights))).sum() / weights.sum() for weights in (rows, columns))
        return self.box.top + round(float(y)), self.box.left + round(float(x))

    def extent(self) -> int:
        """Side of the smallest square around its centre that holds ENERGY of its energy, at most that of its box."""
        energy, (y, x) = self.energy(), self.centre()
        rows = np.abs(np.arange(self.box.top, self.box.bottom) - y)
        columns = np.abs(np.arange(self.box.left, self.box.right) - x)
        radius = np.maximum(rows[:, None], columns[None, :])
        held = np.bincount(radius.ravel(), energy.ravel()).cumsum()
        return min(2 * int(np.searchsorted(held, ENERGY * held[-1])) + 1, int(max(energy.shape)))

    def cut(self, window: Box) -> NDArray[np.float32]:
        """Return the projection on a window of the image, [h, w, C]; zero outside its box."""
        out = np.zeros((window.bottom - window.top, window.right - window.left, len(self.pixels)), np.float32)
        top, left = max(window.top, self.box.top), max(window.left, self.box.left)
        bottom, right = min(window.bottom, self.box.bottom), min(window.right, self.box.right)
        if top < bottom and left < right:
            part = self.pixels[
                :, top - self.box.top : bottom - self.box.top, left - self.box.left : right - self.box.left
            ]
            out[top - window.top : bottom - window.top, left - window.left : right - window.left] = part.transpose(
                1, 2, 0
            )
        return out

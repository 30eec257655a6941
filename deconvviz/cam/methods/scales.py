"""SESS: any method, on windows of the image at several scales, fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.registry import method
from deconvviz.cam.shaping import gaussian_blur, min_max, resized
from deconvviz.cam.targets import Target
from deconvviz.cam.window_grid import starts
from deconvviz.lengths import BlurWindow, Length

BLUR = BlurWindow(11, 5.0)  # of the fused map
Inner = Callable[[Tensor, Target], Tensor]


class Window(NamedTuple):
    """A window of an image that was scaled.

    Attributes:
        height: of the scaled image.
        width: of the scaled image.
        top: first row of the window in it.
        left: first column of the window in it.
    """

    height: int
    width: int
    top: int
    left: int


@method("sess", needs="inner", lengths={"step": Length(64)}, passes="1 + windows forward, windows inner")
def sess(v: View, inner: Inner, *, scales: int = 12, step: int, drop: float = 0.0) -> Tensor:
    """Maps of windows at several scales, weighed by p of each window; the mean where they are above zero, blurred.

    Tursun et al. 2022, arXiv 2207.01769. scales, step: the shorter side grows by `step` pixels each, by default by 2/7
    of it (64 of 224 px); drop: the share of the windows, those of the lowest p, that is left out. inner: the method, on
    windows of the network's size. A target that has a place (segment, mask, box) is read at the same pixels of
    each window, as if the window were the whole image.
    """
    maps = []
    for n in range(len(v.x)):
        windows, parts = _windows(v.x[n : n + 1], scales, step)
        scores = v.scored(parts, torch.full((len(parts),), n, device=v.x.device))
        inner_maps = [inner(part, v.scorer.target(n, len(part))) for part in torch.split(parts, v.batch_size)]
        maps.append(fused(torch.cat(inner_maps), scores, windows, v.size, drop))
    return torch.stack(maps)


def _windows(image: Tensor, scales: int, step: int) -> tuple[list[Window], Tensor]:
    """Return the windows of an image [1, C, H, W] at each scale: their places, and their pixels [P, C, H, W]."""
    height, width = image.shape[2:]
    windows, parts = list[Window](), list[Tensor]()
    for i in range(scales):
        factor = 1 + i * step / min(height, width)
        room = (round(height * factor), round(width * factor))
        scaled = resized(image, room)
        for top, left in product(*(starts(*axis) for axis in zip(room, (height, width), (height, width), strict=True))):
            windows.append(Window(*room, top, left))
            parts.append(scaled[..., top : top + height, left : left + width])
    return windows, torch.cat(parts)


def fused(
    maps: Tensor, scores: Tensor, windows: Sequence[tuple[int, int, int, int]], size: tuple[int, int], drop: float = 0.0
) -> Tensor:
    """Fuse the maps of windows into one map of the image.

    Args:
        maps: [P, h, w].
        scores: [P], the probability of the target in each window.
        windows: where each of them lies, as `Window`.
        size: height and width of the image.
        drop: share of the windows, those of the lowest probability, that is left out.

    Returns:
        [H, W].
    """
    strongest = scores.argsort(descending=True)[: max(1, len(scores) - int(drop * len(scores)))]
    total, count = maps.new_zeros(size), maps.new_zeros(size)
    for index in strongest.tolist():
        height, width, top, left = windows[index]
        canvas = maps.new_zeros(height, width)
        canvas[top : top + size[0], left : left + size[1]] = min_max(maps[index]) * scores[index] / scores.max()
        pasted = resized(canvas, size)
        total, count = total + pasted, count + (pasted > 0)
    return gaussian_blur((total / count.clamp(min=1))[None, None], *BLUR.of(*size))[0, 0]

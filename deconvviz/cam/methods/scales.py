"""SESS: any method, on windows of the image at several scales, fused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from deconvviz.cam.engine import View
from deconvviz.cam.occluder import starts
from deconvviz.cam.registry import method
from deconvviz.cam.shaping import gaussian_blur, min_max, resized
from deconvviz.cam.targets import Target

Inner = Callable[[Tensor, Target], Tensor]
Box = tuple[int, int, int, int]  # height and width of the scaled image, top and left of the window in it


@method("sess", needs="inner")
def sess(v: View, inner: Inner, scales: int = 12, step: int = 64, drop: float = 0.0) -> Tensor:
    """Maps of windows at several scales, weighed by p of each window; the mean where they are above zero, blurred.

    Tursun et al. 2022, arXiv 2207.01769. scales, step: the shorter side grows by `step` pixels each; drop: the share of
    the windows, those of the lowest p, that is left out. inner: the method, on windows of the network's size.
    """
    maps = []
    for n in range(len(v.x)):
        boxes, parts = _windows(v.x[n : n + 1], scales, step)
        scores = v.scored(parts, torch.full((len(parts),), n, device=v.x.device))
        found = torch.cat([inner(part, v.scorer.target(n, len(part))) for part in torch.split(parts, v.batch_size)])
        maps.append(fused(found, scores, boxes, v.size, drop))
    return torch.stack(maps)


def _windows(image: Tensor, scales: int, step: int) -> tuple[list[Box], Tensor]:
    """Return the windows of an image [1, C, H, W] at each scale: their places, and their pixels [P, C, H, W]."""
    height, width = image.shape[2:]
    boxes, parts = list[Box](), list[Tensor]()
    for i in range(scales):
        factor = 1 + i * step / min(height, width)
        room = (round(height * factor), round(width * factor))
        scaled = resized(image, room)
        for top, left in product(*(starts(*one) for one in zip(room, (height, width), (height, width), strict=True))):
            boxes.append((*room, top, left))
            parts.append(scaled[..., top : top + height, left : left + width])
    return boxes, torch.cat(parts)


def fused(maps: Tensor, scores: Tensor, boxes: list[Box], size: tuple[int, int], drop: float = 0.0) -> Tensor:
    """Fuse the maps [P, h, w] of windows with probabilities [P] at places in the scaled image, [H, W]."""
    kept = scores.argsort(descending=True)[: max(1, len(scores) - int(drop * len(scores)))]
    total, count = maps.new_zeros(size), maps.new_zeros(size)
    for index in kept.tolist():
        height, width, top, left = boxes[index]
        canvas = maps.new_zeros(height, width)
        canvas[top : top + size[0], left : left + size[1]] = min_max(maps[index]) * scores[index] / scores.max()
        pasted = resized(canvas, size)
        total, count = total + pasted, count + (pasted > 0)
    return gaussian_blur((total / count.clamp(min=1))[None, None], 11, 5.0)[0, 0]

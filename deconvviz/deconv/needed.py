"""How much of an image a unit needs: the smallest window that keeps a share of its activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deconvviz.deconv.views import UnitViews

SHARE = 0.9  # of the activation that the window of a crop keeps


def _nothing() -> None:
    """Do nothing after a round."""


def bisections(length: int) -> int:
    """Return after how many rounds at most a bisection of so many pixels ends.

    >>> bisections(224), bisections(2)
    (8, 1)
    """
    return max(length - 1, 0).bit_length()


def needed_squares(
    views: UnitViews, centres: Tensor, share: float = SHARE, after_round: Callable[[], object] = _nothing
) -> Tensor:
    """Return the side of the smallest square window with which each unit keeps a share of its activation.

    What lies outside of the window is filled with 0, the mean colour of what the network was trained on. The window is
    centred, and moved where it would reach beyond the pixels that the unit sees. The side is found by bisection, which
    takes an activation that rises with the window for granted; the side that is returned keeps the share in any case.
    It is at least one pixel, even where a unit keeps the share with nothing left, by its bias.

    Args:
        views: what the units see.
        centres: [N, 2], (row, column) of each window's centre in its view.
        share: of the activation, in 0..1.
        after_round: called after each round of the bisection, for a progress bar; there are `bisections` of them.

    Returns:
        int64 [N], in pixels; the longest side of what is seen where the activation is not positive.

    Source: this package's own.
    """
    largest = max(views.pixels.shape[2:])
    least_activation = share * views.unchanged
    low, high = torch.zeros(len(least_activation), dtype=torch.int64), torch.full((len(least_activation),), largest)
    while int((high - low).max()) > 1:
        middle = (low + high) // 2
        enough = (kept_by(views, squares_around(views, centres, middle)) >= least_activation) & (least_activation > 0)
        undecided = high - low > 1  # the others wait for these
        low, high = torch.where(undecided & ~enough, middle, low), torch.where(undecided & enough, middle, high)
        after_round()
    return high


def needed_boxes(
    views: UnitViews, centres: Tensor, share: float = SHARE, after_round: Callable[[], object] = _nothing
) -> Tensor:
    """Return the window of each unit that is left when the sides of its smallest square move in, one after the other.

    The sides move in the order top, left, bottom, right, each as far as the share allows, by bisection.

    Args and source: those of `needed_squares`.

    Returns:
        int64 [N, 4], (top, left, bottom, right) in the views.
    """
    boxes = squares_around(views, centres, needed_squares(views, centres, share, after_round))
    least_activation = share * views.unchanged
    for side in range(4):
        near, far = boxes[:, side].clone(), boxes[:, (side + 2) % 4].clone()  # what keeps enough, what does not
        while int((near - far).abs().max()) > 1:
            middle, tried = torch.div(near + far, 2, rounding_mode="trunc"), boxes.clone()
            tried[:, side] = middle
            enough = (kept_by(views, tried) >= least_activation) & (least_activation > 0)
            undecided = (near - far).abs() > 1
            near, far = torch.where(undecided & enough, middle, near), torch.where(undecided & ~enough, middle, far)
            after_round()
        boxes[:, side] = near
    return boxes


def kept_by(views: UnitViews, boxes: Tensor) -> Tensor:
    """Return the activation of each unit when all outside of its window is filled with 0, [N] on the CPU.

    Args:
        views: what the units see.
        boxes: int64 [N, 4], (top, left, bottom, right) in the views.
    """
    parts, boxes = [], boxes.to(views.pixels.device)
    with torch.inference_mode():
        for units in torch.split(torch.arange(len(boxes), device=boxes.device), views.batch_size):
            inside = _masks(boxes[units], views.pixels.shape[2:])
            parts.append(views.activations(units, views.pixels[units] * inside[:, None]).double().cpu())
    return torch.cat(parts)


def squares_around(views: UnitViews, centres: Tensor, sides: Tensor) -> Tensor:
    """Return square windows around centres, moved into what the units see.

    Args:
        views: what the units see.
        centres: [N, 2], (row, column) in the views.
        sides: int64 [N], in pixels; a side is cut where less is seen.

    Returns:
        int64 [N, 4], (top, left, bottom, right) in the views.
    """
    pixels_seen, edges = views.seen.cpu(), []
    for axis in (0, 1):
        along = pixels_seen.any(2 - axis).to(torch.int8)
        first = along.argmax(1)
        end = first + along.sum(1)
        length = torch.minimum(sides, end - first)
        start = (centres[:, axis].cpu().round().long() - length // 2).clamp(min=first)
        start = torch.minimum(start, end - length)
        edges.append((start, start + length))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], 1)


def _masks(boxes: Tensor, size: torch.Size) -> Tensor:
    """Return bool [N, h, w], true inside of each box."""
    rows, columns = (torch.arange(length, device=boxes.device) for length in size)
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
